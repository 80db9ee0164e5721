#!/usr/bin/python3
"""Speed of libupstairs beside upstream's test client (crutest) and a floor that only sends frames and counts answers.

All of them use the same three real crucible-downstairs on tmpfs, plain, and the first two also encrypted ones; one after
the other, round by round, so that a slow minute of the machine hits all. Medians of the rounds are printed as Markdown:
requests a second, CPU time of the client and of the three downstairs together per request. A write of ours is answered
when all three have it; crutest's as soon as it is submitted. At the end: what hashing and encryption cost by themselves,
the time of a start, memory, and the gates of the project; exit status 1 if one does not hold.

  tests/bench/bench-upstairs.py           needs crucible-downstairs and crutest on the PATH, and a quiet machine
  --rounds N (7)  --seconds S (3)  --rows 4k-read-16,...  --clients ours,crutest,...  --jobs N (1000000)
"""
import argparse
import base64
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.fio import cpu_seconds  # noqa: E402
from support.ports import is_free  # noqa: E402

BUILD = Path(os.environ.get("TB4_BUILD", Path(__file__).resolve().parents[2] / "build"))
IO = BUILD / "tests" / "tools" / "upstairs-io"
FLOOR = BUILD / "tests" / "bench" / "downstairs-floor"
SEAL = BUILD / "tests" / "bench" / "seal"
KEY = bytes(range(32))
EXTENTS, EXTENT_SIZE, BLOCK = 16, 4096, 4096

ROWS = {  # name: (operation, depth, length)
    "4k-read-1": ("read", 1, 4096), "4k-write-1": ("write", 1, 4096),
    "4k-read-16": ("read", 16, 4096), "4k-write-16": ("write", 16, 4096),
    "4k-write-16-sequential": ("write", 16, 4096),
    "64k-read-16": ("read", 16, 65536), "64k-write-16": ("write", 16, 65536),
    "1M-read-4": ("read", 4, 1 << 20), "1M-write-4": ("write", 4, 1 << 20),
}
CLIENTS = ["ours", "crutest", "floor", "ours-encrypted", "crutest-encrypted"]


def free_ports():
    """Three in a row, with their repair ports."""
    while True:
        base = random.randrange(15000, 19900)
        if all(is_free(base + i) and is_free(base + i + 4000) for i in range(3)):
            return range(base, base + 3)


class Volume:
    """Three regions and their servers. Generations rise over all clients."""

    def __init__(self, directory, encrypted):
        self.directory, self.encrypted, self.generation = directory, encrypted, 0
        self.ports = free_ports()
        self.servers = []
        directory.mkdir()
        (directory / "key").write_bytes(KEY)
        for port in self.ports:
            region = directory / f"region-{port}"
            subprocess.run(["crucible-downstairs", "create", "-d", region, "-u", str(uuid.uuid4()), "--block-size", str(BLOCK),
                            "--extent-size", str(EXTENT_SIZE), "--extent-count", str(EXTENTS),
                            *(["--encrypted"] if encrypted else [])], check=True, capture_output=True)
            self.servers.append(subprocess.Popen(
                ["crucible-downstairs", "run", "-p", str(port), "-d", region, "-a", "127.0.0.1"], stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))))
        time.sleep(1)
        self.io("fill", 1, EXTENTS * EXTENT_SIZE * BLOCK)

    def command(self, *words):
        self.generation += 1
        targets = [word for port in self.ports for word in ("--target", f"127.0.0.1:{port}")]
        return [str(word) for word in (
            IO, *targets, "--generation", self.generation, "--record", self.directory / "record",
            *(["--key", self.directory / "key"] if self.encrypted else []), *words)]

    def io(self, *words):
        result = subprocess.run(self.command(*words), check=False, capture_output=True, text=True)
        if result.returncode:
            sys.exit(f"{words}: {result.stderr}")
        return result

    def crutest(self, *words):
        self.generation += 1
        targets = [word for port in self.ports for word in ("-t", f"127.0.0.1:{port}")]
        key = ["--key", base64.b64encode(KEY).decode()] if self.encrypted else []
        return ["crutest", *map(str, words), *targets, "-g", str(self.generation), *key, "--raw", "-q"]

    def cpu_seconds(self):
        return sum(cpu_seconds(server.pid) for server in self.servers)

    def close(self):
        for server in self.servers:
            server.kill()
            server.wait()


def run_own(volume, row, seconds):
    operation, depth, length = ROWS[row]
    output = volume.io("bench", operation, depth, seconds, length, *(["sequential"] if "sequential" in row else [])).stdout
    rate, _, cpu = map(float, re.match(r"(\d+) requests a second, ([\d.]+) us each, ([\d.]+) us", output).groups())
    return rate, cpu, rate * seconds


def run_floor(volume, row, seconds):
    operation, depth, length = ROWS[row]
    if length != BLOCK or "sequential" in row:
        return None
    volume.generation += 1
    output = subprocess.run([FLOOR, operation, str(depth), str(seconds), str(volume.generation), *map(str, volume.ports)],
                            check=True, capture_output=True, text=True).stdout
    rate, cpu = map(float, re.match(r"(\d+) requests a second, ([\d.]+) us", output).groups())
    return rate, cpu, rate * seconds


def run_crutest(volume, row, seconds):
    operation, depth, length = ROWS[row]
    if "sequential" in row:
        return None
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run(volume.crutest(f"rand-{operation}", "--io-depth", depth, "--io-size", length // BLOCK, "--time",
                                           int(seconds)), check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rate = float(re.search(r"\((\d+) IOPS\)", output.stdout + output.stderr).group(1))
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return rate, used / (rate * seconds) * 1e6, rate * seconds


RUN = {"ours": run_own, "crutest": run_crutest, "floor": run_floor}


def measure(volumes, clients, rows, rounds, seconds):
    results = {(client, row): [] for client in clients for row in rows}
    for turn in range(rounds):
        for row in rows:
            for client in clients[turn % len(clients):] + clients[:turn % len(clients)]:
                volume = volumes[client.endswith("-encrypted")]
                volume.io("flush")  # what the one before has left is made equal, and is not measured
                before = volume.cpu_seconds()
                run = RUN[client.partition("-")[0]](volume, row, seconds)
                if run:
                    rate, cpu, count = run
                    results[client, row].append((rate, cpu, (volume.cpu_seconds() - before) / count * 1e6))
                if sys.stderr.isatty():
                    print(f"\r\033[Kround {turn + 1}/{rounds} {row} {client}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return {key: tuple(map(statistics.median, zip(*runs))) for key, runs in results.items() if runs}


def print_table(clients, rows, medians):
    print("| row | " + " | ".join(clients) + " |")
    print("|---|" + "---|" * len(clients))
    for row in rows:
        cells = ["{:,.0f}/s, {:.1f} + {:.0f} us".format(*medians[client, row]) if (client, row) in medians else "-"
                 for client in clients]
        print(f"| {row} | " + " | ".join(cells) + " |")
    print("\n(requests a second, CPU time of the client + of the three downstairs per request; medians)\n")


def private_memory(pid):
    return sum(int(line.split()[1]) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
               if line.startswith("Private_"))


def idle_memory(volumes):
    """KiB that one of two idle clients has for itself: what all of them share, as the code of libraries, is no volume's."""
    idle = [subprocess.Popen(volume.command("idle", 12), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for volume in volumes]
    time.sleep(10)
    rest = max(private_memory(client.pid) for client in idle)
    for client in idle:
        client.wait()
    return rest


def show_start_and_memory(volumes, jobs):
    """Milliseconds of a start without a mend; KiB of an idle client, and of one that does many jobs."""
    volume, rest = volumes[0], idle_memory(volumes)
    starts = [float(re.search(r"active after ([\d.]+) ms", volume.io("flush").stderr).group(1)) for _ in range(15)]
    print(f"start to active: {statistics.median(starts):.1f} ms")
    print(f"memory of an idle volume: {rest} KiB")
    rate = float(volume.io("bench", "write", 16, 2, BLOCK).stdout.split()[0])
    busy = subprocess.Popen(volume.command("bench", "write", 16, max(8, int(jobs / rate)), BLOCK), stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True)
    samples = []
    while busy.poll() is None:
        time.sleep(1)
        if busy.poll() is None and Path(f"/proc/{busy.pid}/smaps_rollup").exists():
            samples.append(private_memory(busy.pid))
    done = float(busy.stdout.read().split()[0]) * max(8, int(jobs / rate))
    samples = samples[:-1]  # the last may be at the end
    third = len(samples) // 3
    print(f"memory over {done:,.0f} writes: {max(samples[:third])} KiB in the first third, {max(samples[-third:])} in the last")
    return statistics.median(starts), rest


def check_gates(rows, medians, start, idle):
    good = []

    def gate(text, value, limit, at_most=False):
        good.append(value <= limit if at_most else value >= limit)
        print(f"{'ok  ' if good[-1] else 'MISS'} {text}: {value:.2f} (at {'most' if at_most else 'least'} {limit})")
    for row in rows:
        if ("ours", row) in medians and ("crutest", row) in medians:
            gate(f"{row}, ours / crutest", medians["ours", row][0] / medians["crutest", row][0], 1.5 if "read" in row else 1.0)
    for row, limit in (("4k-write-16", 20), ("4k-read-16", 10)):
        if ("ours", row) in medians:
            gate(f"{row}, us of processor", medians["ours", row][1], limit, at_most=True)
    gate("start to active, ms", start, 20, at_most=True)
    gate("idle volume, KiB", idle, 2048, at_most=True)
    return all(good)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--clients", default=",".join(CLIENTS))
    parser.add_argument("--jobs", type=int, default=1000000)
    options = parser.parse_args()
    missing = [name for name in ("crucible-downstairs", "crutest") if not shutil.which(name)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}")
    rows, clients = options.rows.split(","), options.clients.split(",")
    directory = Path(tempfile.mkdtemp(prefix="tb4-bench-", dir="/dev/shm"))
    volumes = []
    try:
        volumes.append(Volume(directory / "plain", False))
        volumes.append(Volume(directory / "encrypted", True))
        medians = measure(volumes, clients, rows, options.rounds, options.seconds)
        print_table(clients, rows, medians)
        print(subprocess.run([SEAL], check=True, capture_output=True, text=True).stdout)
        start, idle = show_start_and_memory(volumes, options.jobs)
        good = check_gates(rows, medians, start, idle)
    finally:
        for volume in volumes:
            volume.close()
        shutil.rmtree(directory)
    return 0 if good else 1


sys.exit(main())
