#!/usr/bin/python3
"""Races of two gateways for one Crucible volume under load: what the loser has acknowledged is there, and nothing of it comes
after the take-over.

usage: crucible-takeovers.py COUNT [SEED] [own|upstream] [KIND...]      (TB4_BUILD chooses the build)

The owner's client writes numbers that rise, block by block, and knows the last one that was acknowledged of each. The other
node takes the volume by force and starts. As soon as it serves, its client reads all blocks, and writes others; when the
old owner has come to its end they are read once more. Each must hold what was acknowledged last or something newer that
was sent, and the two reads must not differ. The kinds, by default the first two, take turns:
  live      the owner goes on until it notices
  paused    the owner is stopped (SIGSTOP) with requests under way, and wakes when the other one serves
  rival     the other one is upstream's own crucible-nbd-server, with a higher generation
  defeated  upstream's server is the owner, and loses; it acknowledges before it sends, so only its late writes count

Prints one line of figures. Exit status 0 if nothing was wrong.
"""
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import nbd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from support import upstream  # noqa: E402
from support.node import Node  # noqa: E402
from support.volume import Volume  # noqa: E402

KINDS = ("live", "paused", "rival", "defeated")
BLOCK, BLOCKS = 4096, 24
OTHERS = 64  # where the new owner writes


def stamp(number):
    return number.to_bytes(8, "little") * (BLOCK // 8)


def connect(uri):
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


def read_all(handle, first=0):
    """The number in each block; every word of a block must be the same."""
    data = handle.pread(BLOCKS * BLOCK, first * BLOCK)
    found = []
    for at in range(0, len(data), BLOCK):
        number = int.from_bytes(data[at:at + 8], "little")
        assert data[at:at + BLOCK] == stamp(number), f"block {at // BLOCK} is torn"
        found.append(number)
    return found


class Writer(threading.Thread):
    """Several of them share the blocks: each has its own."""

    def __init__(self, uri, blocks, first):
        super().__init__(daemon=True)
        self.uri, self.blocks, self.number = uri, blocks, first
        self.acknowledged, self.sent, self.ends = dict.fromkeys(blocks, 0), dict.fromkeys(blocks, 0), False

    def run(self):
        try:
            handle = connect(self.uri)
            while not self.ends:
                for block in self.blocks:
                    self.number += 1
                    self.sent[block] = self.number
                    handle.pwrite(stamp(self.number), block * BLOCK)
                    self.acknowledged[block] = self.number
        except nbd.Error:
            pass  # fenced, or gone


def end(process):
    process.kill()
    process.wait()


class Races:
    def __init__(self, directory, seed, kind):
        self.dice, self.number = random.Random(seed), 1
        for name in ("volume", "a", "b"):
            (directory / name).mkdir()
        self.volume = Volume(directory / "volume", kind, extents=8)
        self.nodes = [Node(directory / "a", "node-a")]
        self.nodes.append(Node(directory / "b", "node-b", share_with=self.nodes[0]))
        self.nodes[0].tb4("volume", "create", 200, self.volume.size, "--backend", "crucible", *self.volume.target_options)
        self.acknowledged = 0

    def start_owner(self):
        gateway = self.nodes[0].start()
        handle = connect(gateway.uri())
        for block in range(BLOCKS):
            handle.pwrite(stamp(self.number), block * BLOCK)
        handle.pwrite(stamp(self.number) * BLOCKS, OTHERS * BLOCK)
        handle.flush()
        handle.shutdown()
        return gateway

    def start_writers(self, uri, count=3):
        writers = [Writer(uri, range(i, BLOCKS, count), self.number) for i in range(count)]
        for writer in writers:
            writer.start()
        time.sleep(self.dice.uniform(0.01, 0.15))
        return writers

    def take(self):
        node = self.nodes[1]
        node.tb4("claim", "force", "200", "--yes")
        node.tb4("claim", "release", "200")
        return node.start()

    def check(self, writers, seen, lossy=False):
        for writer in writers:
            for block in writer.blocks:
                least = self.number if lossy else max(self.number, writer.acknowledged[block])
                assert least <= seen[block] <= max(self.number, writer.sent[block]), \
                    f"block {block}: {seen[block]}, acknowledged {writer.acknowledged[block]}, sent {writer.sent[block]}"
                self.acknowledged += writer.acknowledged[block] > 0

    def compare(self, writers, uri, lossy, wake=None):
        """The new owner serves: reads at once, writes beside, wakes the old one, and reads again at the end."""
        handle = connect(uri)
        first = read_all(handle)
        handle.pwrite(stamp(self.number + 1) * BLOCKS, OTHERS * BLOCK)
        if wake:
            wake()
        time.sleep(self.dice.uniform(0, 0.05))
        for writer in writers:
            writer.ends = True
        for writer in writers:
            writer.join(20)
            assert lossy or not writer.is_alive(), "the old owner neither answers nor fails"
        assert read_all(handle) == first, "something of the old owner was written after the take-over"
        assert read_all(handle, OTHERS) == [self.number + 1] * BLOCKS
        self.check(writers, first, lossy)
        handle.shutdown()
        self.number = max([self.number + 1, *(writer.number for writer in writers)]) + 1

    def give_back(self, new):
        """The volume is node-a's again, and nobody runs."""
        assert new.stop() == 0
        self.nodes[0].tb4("claim", "force", "200", "--yes")
        self.nodes[0].tb4("claim", "release", "200")
        for node in self.nodes:
            node.gateways.clear()

    # the kinds

    def live(self):
        old = self.start_owner()
        writers = self.start_writers(old.uri())
        new = self.take()
        self.compare(writers, new.uri(), False)
        old.wait_for("fenced")
        old.stop()
        self.give_back(new)

    def paused(self):
        old = self.start_owner()
        writers = self.start_writers(old.uri())
        os.kill(old.pid, signal.SIGSTOP)
        new = self.take()
        self.compare(writers, new.uri(), False, lambda: os.kill(old.pid, signal.SIGCONT))
        old.wait_for("fenced")
        old.stop()
        self.give_back(new)

    def rival(self):
        with upstream.alone():
            self.lose_to_upstream()

    def lose_to_upstream(self):
        old = self.start_owner()
        writers = self.start_writers(old.uri())
        rival = upstream.start(upstream.ports_of(self.volume), self.nodes[0].record()["generation_last"] + 1000)
        try:
            self.compare(writers, upstream.URI, False)
            old.wait_for("fenced")
        finally:
            end(rival)
        old.stop()
        self.nodes[0].tb4("claim", "release", "200")
        self.nodes[0].gateways.clear()

    def defeated(self):
        with upstream.alone():
            self.defeat_upstream()

    def defeat_upstream(self):
        owner = self.start_owner()
        assert owner.stop() == 0
        rival = upstream.start(upstream.ports_of(self.volume), self.nodes[0].record()["generation_last"] + 1)
        try:
            writers = self.start_writers(upstream.URI, 1)
            self.nodes[1].tb4("claim", "force", "200", "--yes")
            self.nodes[1].tb4("claim", "release", "200")
            new = self.nodes[1].spawn()
            # its downstairs tell nobody the generation of a live one: ours waits until it ends
            time.sleep(self.dice.uniform(0, 0.1))
            end(rival)
            new.wait_for("serving")
            self.compare(writers, new.uri(), True)
        finally:
            end(rival)
        self.give_back(new)

    def close(self):
        for node in self.nodes:
            node.close()
        self.volume.close()


def main():
    count, words = int(sys.argv[1]), sys.argv[2:]
    seed = int(words[0]) if words and words[0].isdigit() else random.randrange(1 << 32)
    kinds = [word for word in words if word in KINDS] or KINDS[:2]
    directory = Path(tempfile.mkdtemp(prefix="tb4-takeovers-", dir="/dev/shm"))
    began, done, races = time.monotonic(), Counter(), None
    try:
        races = Races(directory, seed, "upstream" if "upstream" in words else "own")
        for number in range(count):
            kind = kinds[number % len(kinds)]
            try:
                getattr(races, kind)()
            except AssertionError as error:
                print(f"race {number} ({kind}), seed {seed}: {error}", file=sys.stderr)
                return 1
            done[kind] += 1
    finally:
        if races:
            races.close()
        shutil.rmtree(directory, ignore_errors=True)
    figures = ", ".join(f"{number} {kind}" for kind, number in done.items())
    print(f"{count} take-overs: {figures}; {races.acknowledged} blocks with acknowledged writes, 0 lost, 0 written later, "
          f"seed {seed}, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
