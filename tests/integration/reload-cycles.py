#!/usr/bin/python3
"""Volumes of a VM come, go and get other limits under load, again and again: one that is not touched must not notice (R16).

usage: reload-cycles.py COUNT [SEED]        (TB4_BUILD chooses the build)

nbd-history loads vm-200-disk-0 with several clients and checks every byte it reads; each change of other volumes and of
limits that do not bind is followed by a reload. A client of each new volume writes and reads, and must find its own bytes
when the volume comes back.

Prints one line of figures. Exit status 0 if nothing was wrong.
"""
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.node import TOOLS, Node  # noqa: E402

DISKS = range(1, 6)


class Others:
    """The volumes beside the one that is not touched: each is served, put aside, or not made yet."""

    def __init__(self, node, gateway, dice):
        self.node, self.gateway, self.dice = node, gateway, dice
        self.served, self.aside = {}, {}
        self.added = self.removed = self.retuned = 0

    def file_of(self, disk):
        return self.node.volume_dir / f"vm-200-disk-{disk}.conf"

    def add(self):
        free = [disk for disk in DISKS if disk not in self.served]
        if not free:
            return
        disk = self.dice.choice(free)
        if disk in self.aside:
            self.file_of(disk).with_suffix(".aside").rename(self.file_of(disk))
            self.served[disk] = self.aside.pop(disk)
        else:
            self.node.tb4("volume", "create", 200, "4M", "--disk", disk)
            self.served[disk] = bytes(4096)
        self.added += 1

    def remove(self):
        if not self.served:
            return
        disk = self.dice.choice(list(self.served))
        self.file_of(disk).rename(self.file_of(disk).with_suffix(".aside"))
        self.aside[disk] = self.served.pop(disk)
        self.removed += 1

    def retune(self):
        disk = self.dice.choice([0, *self.served])
        self.node.tb4("volume", "limit", f"vm-200-disk-{disk}", "--iops", self.dice.choice([0, 1000000, 2000000]))
        self.retuned += 1

    def use(self):
        """Each holds what was written to it last, whether it left meanwhile or not."""
        for disk, last in self.served.items():
            with self.gateway.connect(f"vm-200-disk-{disk}") as client:
                found = client.read(0, 4096)
                assert found == last, f"disk {disk} has other bytes than were written"
                self.served[disk] = self.dice.randbytes(4096)
                client.write(0, self.served[disk])


def cycles(node, gateway, dice, count):
    others = Others(node, gateway, dice)
    for _ in range(count):
        dice.choice([others.add, others.add, others.remove, others.retune])()
        node.tb4("reload", 200)
        shown = {volume["name"]: volume["state"] for volume in gateway.status()["volumes"]}
        expected = {f"vm-200-disk-{disk}": "serving" for disk in (0, *others.served)}
        assert shown == expected, f"{shown}, not {expected}"
        others.use()
    return others


def main():
    count = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    directory = Path(tempfile.mkdtemp(prefix="tb4-reloads-"))
    node, stop_file, load = Node(directory), directory / "stop", None
    began = time.monotonic()
    try:
        node.create(200, "8M")
        gateway = node.start(200)
        load = subprocess.Popen([TOOLS / "nbd-history", "--region", "4M", "--max", "32K", "--connections", "2", "--depth", "8",
                                 "--seed", str(seed), "--stop-file", stop_file, gateway.socket, "vm-200-disk-0"],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        others = cycles(node, gateway, random.Random(seed), count)
        stop_file.touch()
        out, err = load.communicate(timeout=100)
        if load.returncode or " 0 violations" not in out or not re.search(r" 0 reconnects", out):
            print(f"nbd-history: {load.returncode}: {out}{err}", file=sys.stderr)
            return 1
        assert gateway.stop() == 0, gateway.log
    except AssertionError as error:
        print(f"seed {seed}: {error}", file=sys.stderr)
        return 1
    finally:
        if load:
            load.kill()
            load.wait()
        node.close()
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{count} reloads, {others.added} added, {others.removed} removed, {others.retuned} retuned, "
          f"{re.match(r'[0-9]+', out)[0]} operations, 0 violations, seed {seed}, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
