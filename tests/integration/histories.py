#!/usr/bin/python3
"""Long histories through one gateway, with connections cut in the middle of writes: all must be possible.

usage: histories.py OPERATIONS CUTS [SEED]        (TB4_BUILD chooses the build)

Runs nbd-history again and again, each time with another seed, mix of sizes, number of connections and depth,
until that many operations have been done and that many connections have been cut (0: none are). Half of the
runs go to the file backend on tmpfs, half to the gateway with faults, whose writes are late. Those with long
requests are shorter.

Prints one line of figures; SIGTERM ends it after the run at hand. Exit status 0 if nothing was wrong.
"""
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.node import TOOLS, Node  # noqa: E402


def run(rng, operations, cut, seed):
    directory = tempfile.mkdtemp(prefix="tb4-histories-", dir="/dev/shm")
    try:
        node = Node(directory, data_dir=directory)
        node.create(200, "16M")
        is_late = rng.random() < 0.5
        if is_late:
            (Path(directory) / "faults").write_text("write delay 0 6\nread late 0 3\nzero delay 0 6\n")
            operations //= 50
        gateway = node.start(200, program=TOOLS / "faulty-gateway",
                             env={"TB4_FAULTS": str(Path(directory) / "faults")}) if is_late else node.start(200)
        connections, depth = rng.choice([(1, 32), (4, 8), (8, 4), (16, 2)])
        region, longest, shorter = rng.choice([("64K", "4K", 1), ("512K", "4K", 1), ("512K", "32K", 1), ("8M", "64K", 2),
                                               ("8M", "256K", 8), ("8M", "1M", 32)])
        operations //= shorter if operations > 100000 else 1
        command = [TOOLS / "nbd-history", "--region", region, "--max", longest, "--connections", connections, "--depth", depth,
                   "--operations", operations, "--cut", cut, "--seed", seed, gateway.socket, "vm-200-disk-0"]
        result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        node.close()
        return result
    finally:
        shutil.rmtree(directory)


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    wanted, cuts_wanted = int(sys.argv[1]), int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) == 4 else time.time_ns() % 1000000
    rng, began = random.Random(seed), time.monotonic()
    operations = cuts = runs = 0
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    while (operations < wanted or cuts < cuts_wanted) and not ended:
        cut = rng.choice([50, 200, 1000]) if cuts < cuts_wanted else 0
        result = run(rng, 20000 if cut else 2000000, cut, seed + runs)
        runs += 1
        if result.returncode != 0:
            sys.exit(f"run {runs}, seed {seed}: {result.stdout}{result.stderr}")
        operations += int(re.search(r"(\d+) operations", result.stdout)[1])
        cuts += int(re.search(r"(\d+) reconnects", result.stdout)[1])
    print(f"{runs} runs, {operations} operations, {cuts} cuts, 0 violations, seed {seed}, "
          f"{time.monotonic() - began:.0f} s")


main()
