#!/usr/bin/python3
"""kill -9 of the gateway under load, again and again: nothing acknowledged may be lost.

usage: kill-cycles.py COUNT [SEED]        (TB4_BUILD chooses the build)

In each cycle nbd-history zeroes a small region, loads it with several clients, the gateway is killed at a
random moment and started again, the load goes on for a while, ends, and every byte of the region is read and
checked. The volume's own file systems take turns: one on tmpfs, one on the disk. So do resumed starts, fresh
ones after an orderly stop, and two kills in a row.

Prints one line of figures; SIGTERM ends the run after the cycle at hand. Exit status 0 if nothing was wrong.
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

REGION = "2M"


class Wrong(Exception):
    """Something that must not happen."""


def start(node, last):
    """Starts the gateway. Returns it and its generation, which must be above the last one."""
    gateway = node.start(200)
    generation = gateway.status()["volumes"][0]["generation"]
    if generation <= last:
        raise Wrong(f"generation {generation} after {last}")
    return gateway, generation


def cycle(node, gateway, last, dice, stop_file):
    """One cycle: (the gateway that runs at its end, its generation, figures of nbd-history)."""
    stop_file.unlink(missing_ok=True)
    command = [TOOLS / "nbd-history", "--region", REGION, "--max", "32K", "--connections", "3", "--depth", "8",
               "--seed", dice.randrange(1 << 32), "--stop-file", stop_file, "--wait", gateway.socket, "vm-200-disk-0"]
    load = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    try:
        if load.stdout.readline() != "ready\n":
            raise Wrong(f"no load: {load.stderr.read()}")
        load.stdin.write("go\n")
        load.stdin.flush()
        for _ in range(dice.choice([1, 1, 1, 2])):
            time.sleep(dice.uniform(0.01, 0.15))
            gateway.kill()
            gateway, last = start(node, last)
        time.sleep(dice.uniform(0.01, 0.1))
        stop_file.touch()
        out, err = load.communicate(timeout=100)
    finally:
        load.kill()
        load.wait()
    if load.returncode != 0 or " 0 violations" not in out or not re.search(r" [1-9]\d* reconnects", out):
        raise Wrong(f"nbd-history: {load.returncode}: {out}{err}")
    return gateway, last, out


def main():
    count = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    dice = random.Random(seed)
    directory = Path(tempfile.mkdtemp(prefix="tb4-kills-"))
    memory = tempfile.mkdtemp(prefix="tb4-kills-", dir="/dev/shm")
    nodes, running, ended = [], [], []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    began, operations, lost, kills, done = time.monotonic(), 0, 0, 0, 0
    try:
        for i, data_dir in enumerate((memory, None)):
            (directory / str(i)).mkdir()
            node = Node(directory / str(i), data_dir=data_dir)
            nodes.append(node)
            node.create(200, "8M")
            running.append(start(node, 0))
        for i in range(count):
            if ended:
                break
            node, (gateway, last) = nodes[i % 2], running[i % 2]
            first = last
            gateway, last, figures = cycle(node, gateway, last, dice, directory / "stop")
            operations += int(re.match(r"\d+", figures)[0])
            lost += int(re.search(r"(\d+) lost", figures)[1])
            kills += last - first
            if dice.random() < 0.2:
                if gateway.stop() != 0:
                    raise Wrong(f"the stop failed: {gateway.log}")
                gateway, last = start(node, last)
            running[i % 2] = gateway, last
            node.gateways[:] = [gateway]
            done += 1
    except (Wrong, AssertionError) as error:
        print(f"cycle {i} of {count}, seed {seed}: {error}", file=sys.stderr)
        return 1
    finally:
        for node in nodes:
            node.close()
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)
    print(f"{done} cycles, {kills} kills, {operations} operations, {lost} unanswered at a kill, 0 violations, "
          f"seed {seed}, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
