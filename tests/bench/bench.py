#!/usr/bin/python3
"""Speed of tb4-gateway beside nbdkit, qemu-nbd and a floor that only moves bytes, on one machine.

All servers serve the same file over their own unix socket at the same time; fio's nbd engine (libnbd)
loads them one after the other, round by round, so that a slow minute of the machine hits all of them.
Medians of the rounds are printed, with the CPU time that the server used per request, as Markdown.
The gates of the project are checked at the end: exit status 1 if one does not hold.

  sudo tests/bench/bench.py                   1 GiB file on tmpfs (the gates)
  sudo tests/bench/bench.py --dir /var/tmp    the same table for a file on disk; ours by O_DIRECT
  --rounds N (7)  --seconds S (2)  --rows 4k-read-16,...  --servers ours,floor,...
"""
import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.fio import cpu_seconds, fio  # noqa: E402

BUILD = ROOT / "build"

ROWS = {  # name: (rw, block size, depth)
    "4k-read-1": ("randread", "4k", 1), "4k-write-1": ("randwrite", "4k", 1),
    "4k-read-16": ("randread", "4k", 16), "4k-write-16": ("randwrite", "4k", 16),
    "4k-read-32": ("randread", "4k", 32), "4k-write-32": ("randwrite", "4k", 32),
    "1M-read-4": ("read", "1M", 4), "1M-write-4": ("write", "1M", 4),
}
SERVERS = ["ours", "nbdkit", "nbdkit-t1", "qemu-nbd", "floor"]


class Server:
    def __init__(self, name, command, uri):
        self.name, self.uri = name, uri
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while subprocess.run(["nbdinfo", "--size", uri], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                sys.exit(f"{name} does not start: {' '.join(command)}")
            time.sleep(0.05)

    def run(self, row, seconds):
        before = cpu_seconds(self.process.pid)
        figures = fio(self.uri, *ROWS[row], seconds)
        figures["cpu"] = (cpu_seconds(self.process.pid) - before) / figures["count"] * 1e6
        return figures

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


def start_servers(names, work, image):
    (work / "tb4.conf").write_text(
        f"[paths]\nrun_dir = {work}/run\nvolume_dir = {work}/volumes\nclaim_dir = {work}/claims\n"
        f"data_dir = {image.parent}\n[node]\nname = bench\n")
    (work / "volumes").mkdir()
    (work / "volumes" / "vm-200-disk-0.conf").write_text(
        f"[volume]\nbackend = file\nsize = {image.stat().st_size}\nhost = bench\n[file]\nimage = {image}\n")

    def uri(socket):
        return f"nbd+unix:///?socket={socket}"
    commands = {
        "ours": ([BUILD / "gateway" / "tb4-gateway", "--config", work / "tb4.conf", "200"],
                 uri(work / "run" / "200" / "nbd.sock")),
        "nbdkit": (["nbdkit", "-f", "-U", work / "kit16.sock", "file", image], uri(work / "kit16.sock")),
        "nbdkit-t1": (["nbdkit", "-f", "-t", "1", "-U", work / "kit1.sock", "file", image],
                      uri(work / "kit1.sock")),
        # all servers share one file, which ours has locked
        "qemu-nbd": (["qemu-nbd", "-t", "-x", "disk", "--shared=0", "-k", work / "qemu.sock", "--image-opts",
                      f"driver=raw,file.driver=file,file.filename={image},file.locking=off"]
                     + ([] if str(image).startswith("/dev/shm") else ["--cache=none", "--aio=native"]),
                     f"nbd+unix:///disk?socket={work / 'qemu.sock'}"),
        "floor": ([BUILD / "tests" / "bench" / "floor", work / "floor.sock", image], uri(work / "floor.sock")),
    }
    servers = []
    for name in names:
        command, where = commands[name]
        if not shutil.which(str(command[0])):
            print(f"{name}: not installed, left out")
            continue
        servers.append(Server(name, [str(word) for word in command], where))
    return servers


def measure(servers, rows, rounds, seconds):
    results = {(server.name, row): [] for server in servers for row in rows}
    for turn in range(rounds):
        for row in rows:
            # another order each time: nobody always runs behind the same neighbour
            for server in servers[turn % len(servers):] + servers[:turn % len(servers)]:
                results[server.name, row].append(server.run(row, seconds))
                if sys.stderr.isatty():
                    print(f"\r\033[Kround {turn + 1}/{rounds} {row} {server.name}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return {key: {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
            for key, runs in results.items()}


def print_table(servers, rows, medians):
    names = [server.name for server in servers]
    print("| row | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for row in rows:
        cells = []
        for name in names:
            run = medians[name, row]
            cells.append(f"{run['iops']:,.0f}/s, {run['cpu']:.1f} us")
        print(f"| {row} | " + " | ".join(cells) + " |")
    print("\n(requests a second and CPU time of the server per request, medians)\n")


def idle(server):
    """Memory and wake-ups of our server after the load."""
    time.sleep(5)
    rollup = Path(f"/proc/{server.process.pid}/smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))

    def switches():
        """By thread: those of the kernel come with the load and end some time after it."""
        return {task.name: sum(int(line.split()[1]) for line in (task / "status").read_text().splitlines()
                               if "ctxt_switches" in line)
                for task in Path(f"/proc/{server.process.pid}/task").iterdir()}
    before = switches()
    time.sleep(10)
    return pss, sum(count - before.get(thread, 0) for thread, count in switches().items())


def check_gates(rows, medians):
    gates = []

    def gate(text, value, least):
        gates.append(value >= least)
        print(f"{'ok  ' if value >= least else 'MISS'} {text}: {value:.2f} (at least {least})")
    for row in rows:
        ours = medians["ours", row]
        kit = max(medians[name, row]["iops"] for name in ("nbdkit", "nbdkit-t1"))
        wanted = 1.1 if row in ("4k-read-16", "4k-read-32", "1M-read-4") else 1.0
        gate(f"{row}, ours / nbdkit's better mode", ours["iops"] / kit, wanted)
        gate(f"{row}, ours / floor", ours["iops"] / medians["floor", row]["iops"], 0.9)
        if row.startswith("4k") and row.endswith("16"):
            ratio = ours["cpu"] / medians["nbdkit-t1", row]["cpu"]
            gates.append(ratio <= 0.8)
            print(f"{'ok  ' if ratio <= 0.8 else 'MISS'} {row}, CPU of ours / nbdkit -t 1: {ratio:.2f} (at most 0.8)")
    return all(gates)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", default="/dev/shm")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--servers", default=",".join(SERVERS))
    options = parser.parse_args()
    rows = options.rows.split(",")
    work = Path(tempfile.mkdtemp(prefix="tb4-", dir="/tmp"))
    data = Path(tempfile.mkdtemp(prefix="tb4-bench-", dir=options.dir))
    servers = []
    good = True
    try:
        image = data / "bench.img"
        with open("/dev/urandom", "rb") as source, open(image, "wb") as target:
            for _ in range(1024):
                target.write(source.read(1 << 20))
            os.fsync(target.fileno())
        servers = start_servers(options.servers.split(","), work, image)
        medians = measure(servers, rows, options.rounds, options.seconds)
        print_table(servers, rows, medians)
        for server in servers:
            if server.name == "ours":
                pss, wakeups = idle(server)
                print(f"ours when idle: {pss} KiB PSS, {wakeups} wake-ups in 10 s")
                good = pss <= 8192 and wakeups <= 10
        if options.dir == "/dev/shm" and {"ours", "nbdkit", "nbdkit-t1", "floor"} <= {s.name for s in servers}:
            good = check_gates(rows, medians) and good
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(work)
        shutil.rmtree(data)
    return 0 if good else 1


sys.exit(main())
