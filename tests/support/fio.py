"""fio's nbd engine on one export, for benches."""
import json
import os
import subprocess
from pathlib import Path


def cpu_seconds(pid):
    """User and system time of a process, also of threads that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fio(uri, rw, size, depth, seconds, *options):
    """Requests a second, their number, latencies in us, and the CPU time of fio itself for each, in us."""
    output = subprocess.run(
        ["fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", f"--bs={size}", f"--iodepth={depth}",
         f"--runtime={seconds}", "--time_based", "--size=1G", "--output-format=json", "--randrepeat=0", *options],
        capture_output=True, text=True, check=True).stdout
    job = json.loads(output[output.index("{"):])["jobs"][0]
    side = job["read"] if "read" in rw else job["write"]
    used = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] * 1000
    return {"iops": side["iops"], "count": side["total_ios"], "client": used / max(1, side["total_ios"]),
            "p50": side["clat_ns"]["percentile"]["50.000000"] / 1e3,
            "p99": side["clat_ns"]["percentile"]["99.000000"] / 1e3, "max": side["clat_ns"]["max"] / 1e3}
