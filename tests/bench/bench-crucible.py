#!/usr/bin/python3
"""Speed of tb4-gateway on three real crucible-downstairs, beside upstream's own NBD server on three others, and its test
client crutest, which has no NBD. All on tmpfs, one machine; fio's nbd engine loads them in turn, round by round.

As shipped, upstream's server waits 40 ms for each small request (Nagle against delayed ACK). It is measured with TCP_NODELAY
forced upon it by a preloaded library, and once without.

Prints medians as Markdown: requests a second, CPU time of the server + of its three downstairs + of the client per request,
and beside ours the ceiling: what two processors could do at that CPU time. The gates of the project are checked at the end;
where one exceeds the ceiling, 0.8 of that counts. Exit status 1 if one does not hold.

  tests/bench/bench-crucible.py [--rounds N (5)] [--seconds S (3)] [--rows 4k-read-16,...]
"""
import argparse
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import upstream  # noqa: E402
from support.fio import cpu_seconds, fio  # noqa: E402
from support.node import BUILD, Node  # noqa: E402
from support.volume import Volume  # noqa: E402

BLOCK, EXTENT_SIZE, EXTENTS = 4096, 16384, 16
ROWS = {  # name: (rw, block size, depth)
    "4k-write-1": ("randwrite", "4k", 1), "4k-write-16": ("randwrite", "4k", 16),
    "4k-read-1": ("randread", "4k", 1), "4k-read-16": ("randread", "4k", 16),
    "1M-write-4": ("write", "1M", 4), "1M-read-4": ("read", "1M", 4),
}
SUBMIT_ROW, SUBMIT_GATE = "4k-write-1", 2.0  # with write_ack = submit, which acknowledges as theirs does
GATES = {"4k-write-1": 1.0, "4k-write-16": 3.0, "4k-read-1": 2.0, "4k-read-16": 6.0, "1M-write-4": 1.5, "1M-read-4": 2.5}
CPU_GATES = {"4k-write-16": 1 / 4, "4k-read-16": 1 / 8}
CRUTEST_GATES = {"4k-write-16": 0.9, "4k-read-16": 1.2}


class Peer:
    """A server of a volume: its pid, where fio finds it, and what its downstairs use."""

    def __init__(self, volume):
        self.volume = volume

    def downstairs_cpu(self):
        return sum(cpu_seconds(sled.process.pid) for sled in self.volume.sleds)

    def run(self, row, seconds):
        before, before_downstairs = cpu_seconds(self.pid), self.downstairs_cpu()
        figures = fio(self.uri, *ROWS[row], seconds)
        figures["cpu"] = (cpu_seconds(self.pid) - before) / figures["count"] * 1e6
        figures["downstairs"] = (self.downstairs_cpu() - before_downstairs) / figures["count"] * 1e6
        return figures


class Ours(Peer):
    def __init__(self, directory, volume, write_ack="copies"):
        super().__init__(volume)
        directory.mkdir()
        self.node = Node(directory)
        self.node.tb4("volume", "create", 200, volume.size, "--backend", "crucible", *volume.target_options)
        self.node.add_to_file(write_ack=write_ack)
        self.gateway = self.node.start()
        self.pid, self.uri = self.gateway.pid, self.gateway.uri()

    def close(self):
        self.gateway.stop()
        self.node.close()


class Upstream(Peer):
    generation = 10

    def __init__(self, volume, with_shim=True):
        super().__init__(volume)
        Upstream.generation += 1
        shim = {"LD_PRELOAD": str(BUILD / "tests" / "bench" / "libnodelay.so")} if with_shim else {}
        self.process = upstream.start(upstream.ports_of(volume), Upstream.generation, env=shim)
        self.pid, self.uri = self.process.pid, upstream.URI

    def close(self):
        self.process.kill()
        self.process.wait()


class Crutest(Peer):
    """Its own generator of load, one run at a time; 64k is the largest that its queue takes well."""
    generation = 10

    def run(self, row, seconds):
        if row.startswith("1M"):
            return None
        Crutest.generation += 1
        rw, _, depth = ROWS[row]
        targets = [word for sled in self.volume.sleds for word in ("-t", f"127.0.0.1:{sled.port}")]
        before, before_downstairs = resource.getrusage(resource.RUSAGE_CHILDREN), self.downstairs_cpu()
        output = subprocess.run(["crutest", rw.replace("rand", "rand-"), "--io-depth", str(depth), "--io-size", "1", "--time",
                                 str(seconds), *targets, "-g", str(Crutest.generation), "--raw", "-q"],
                                check=True, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        rate = float(re.search(r"\((\d+) IOPS\)", output.stdout + output.stderr)[1])
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"iops": rate, "cpu": used / (rate * seconds) * 1e6, "client": 0,
                "downstairs": (self.downstairs_cpu() - before_downstairs) / (rate * seconds) * 1e6}

    def close(self):
        pass


def measure(peers, rows, rounds, seconds):
    results = {}
    names = list(peers)
    for turn in range(rounds):
        for row in rows:
            for name in names[turn % len(names):] + names[:turn % len(names)]:
                figures = peers[name].run(row, seconds)
                if figures:
                    results.setdefault((name, row), []).append(figures)
                if sys.stderr.isatty():
                    print(f"\r\033[Kround {turn + 1}/{rounds} {row} {name}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return {key: {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
            for key, runs in results.items()}


def ceiling(figures):
    """Requests a second that two processors could do if all that is used for one could be spread evenly."""
    return 2e6 / (figures["cpu"] + figures["downstairs"] + figures["client"])


def print_table(peers, rows, medians):
    print("| row | " + " | ".join(peers) + " | ceiling of ours |")
    print("|---|" + "---|" * (len(peers) + 1))
    for row in rows:
        cells = []
        for name in peers:
            run = medians.get((name, row))
            cells.append(f"{run['iops']:,.0f}/s, {run['cpu']:.1f} + {run['downstairs']:.0f} + {run['client']:.0f} us"
                         if run else "-")
        ceilings = [f"{ceiling(medians[name, row]):,.0f}/s" for name in ("ours", "submit") if (name, row) in medians]
        print(f"| {row} | " + " | ".join(cells) + f" | {', '.join(ceilings)} |")
    print("\n(requests a second; CPU time of the server + of three downstairs + of the client per request; medians)\n")


class Gates:
    def __init__(self):
        self.good = True

    def at_least(self, text, ours, theirs, limit):
        """Requests a second of `ours` / of `theirs`."""
        ratio, share = ours["iops"] / theirs["iops"], ours["iops"] / ceiling(ours)
        is_above = limit * theirs["iops"] > ceiling(ours)
        holds = ratio >= limit or (is_above and share >= 0.8)
        self.good = self.good and holds
        beside = ", which is above the ceiling: 0.8 of that counts" if is_above else ""
        print(f"{'ok  ' if holds else 'MISS'} {text}: {ratio:.2f} (at least {limit:.2f}{beside}); "
              f"{share:.2f} of the ceiling")

    def at_most(self, text, value, limit):
        self.good = self.good and value <= limit
        print(f"{'ok  ' if value <= limit else 'MISS'} {text}: {value:.2f} (at most {limit:.2f})")


def check_gates(rows, medians, gates):
    if ("submit", SUBMIT_ROW) in medians:
        gates.at_least(f"{SUBMIT_ROW}, ours with write_ack = submit / upstream's server",
                       medians["submit", SUBMIT_ROW], medians["upstream", SUBMIT_ROW], SUBMIT_GATE)
    for row in rows:
        ours, theirs, crutest = (medians.get((name, row)) for name in ("ours", "upstream", "crutest"))
        gates.at_least(f"{row}, ours / upstream's server", ours, theirs, GATES[row])
        if row in CRUTEST_GATES:
            gates.at_least(f"{row}, ours / crutest", ours, crutest, CRUTEST_GATES[row])
        if row in CPU_GATES:
            gates.at_most(f"{row}, CPU of ours / of upstream's server", ours["cpu"] / theirs["cpu"], CPU_GATES[row])


def first_io(ours):
    """ms from the start of a gateway, after an orderly stop, to the answer of its first read; and idle PSS in MiB."""
    times = []
    for _ in range(9):
        assert ours.gateway.stop() == 0
        began = time.monotonic()
        ours.gateway = ours.node.spawn()
        while True:
            try:
                with ours.gateway.connect() as client:
                    client.read(0, 4096)
                break
            except (OSError, AssertionError):
                time.sleep(0.0005)
        times.append((time.monotonic() - began) * 1000)
    time.sleep(5)
    return statistics.median(times), ours.gateway.memory() / (1 << 20)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS))
    options = parser.parse_args()
    missing = [name for name in ("crucible-downstairs", "crucible-nbd-server", "crutest", "fio") if not shutil.which(name)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}")
    rows = options.rows.split(",")
    directory = Path(tempfile.mkdtemp(prefix="tb4-bench-", dir="/dev/shm"))
    volumes, peers, gates = [], {}, Gates()
    try:
        for name in ("ours", "submit", "upstream", "crutest"):
            (directory / name).mkdir()
            volumes.append(Volume(directory / name, "upstream", extents=EXTENTS, extent_size=EXTENT_SIZE))
            volumes[-1].io("fill", 1, volumes[-1].size)
        peers["ours"] = Ours(directory / "node", volumes[0])
        peers["submit"] = Ours(directory / "submit-node", volumes[1], "submit")
        peers["upstream"] = Upstream(volumes[2])
        peers["crutest"] = Crutest(volumes[3])
        medians = measure(peers, rows, options.rounds, options.seconds)
        print_table(peers, rows, medians)
        peers.pop("upstream").close()
        bare = Upstream(volumes[2], with_shim=False)
        peers["upstream"] = bare
        print(f"upstream's server as shipped, 4k write, depth 1: {bare.run('4k-write-1', options.seconds)['iops']:.0f}/s\n")
        check_gates(rows, medians, gates)
        start, idle = first_io(peers["ours"])
        gates.at_most("start to first I/O without a mend, ms", start, 50)
        gates.at_most("idle gateway, MiB PSS", idle, 8)
    finally:
        for peer in peers.values():
            peer.close()
        for volume in volumes:
            volume.close()
        shutil.rmtree(directory)
    return 0 if gates.good else 1


sys.exit(main())
