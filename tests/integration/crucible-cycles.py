#!/usr/bin/python3
"""kill -9 of the gateway, or of a downstairs, under a load through NBD, again and again: no acknowledged write may be lost.

usage: crucible-cycles.py COUNT [SEED] [own|upstream] [encrypted]      (TB4_BUILD chooses the build)

nbd-history loads one Crucible volume over several connections and checks every read against what may be there; it goes
on over the kills. In each cycle the gateway, one downstairs, or one right after the other is killed at a random instant and
started again, sometimes before all copies count again. Every hundred cycles, and at the end, the load ends, the gateway
stops in order, and the three regions must be equal, byte by byte.

Prints one line of figures. Exit status 0 if nothing was wrong.
"""
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from support.node import Node  # noqa: E402
from support.volume import KEY, Volume  # noqa: E402
from test_crucible_volumes import assert_equal, create, end, load, wait_for_slot  # noqa: E402

COMPARE_EVERY = 100


class Cycles:
    def __init__(self, directory, seed, kind, key):
        self.dice = random.Random(seed)
        (directory / "volume").mkdir()
        (directory / "node").mkdir()
        self.volume = Volume(directory / "volume", kind, extents=64, key=key)
        self.node = Node(directory / "node")
        self.stop_file = directory / "stop"
        self.gateway = self.history = None
        self.gateway_kills = self.sled_kills = self.operations = self.compared = 0
        create(self.node, self.volume)

    def begin(self):
        self.stop_file.unlink(missing_ok=True)
        self.gateway = self.node.start()
        self.history = load(self.gateway, self.stop_file)

    def wait_until_whole(self):
        for slot in range(3):
            wait_for_slot(self.gateway, slot, "active", timeout=90)

    def finish(self):
        self.wait_until_whole()
        self.operations += end(self.history, self.stop_file)
        assert self.gateway.stop() == 0, self.gateway.log[-3000:]
        assert_equal(self.volume)
        self.compared += 1

    def kill_gateway(self):
        self.gateway.kill()
        self.gateway_kills += 1
        self.gateway = self.node.start()
        assert "claim resumed" in self.gateway.log
        self.node.gateways[:] = [self.gateway]

    def kill_sled(self, also_gateway=False):
        sled = self.dice.choice(self.volume.sleds)
        sled.kill()
        self.sled_kills += 1
        time.sleep(self.dice.uniform(0, 0.1))
        if also_gateway:
            self.kill_gateway()
        sled.start()

    def cycle(self):
        assert self.history.poll() is None, self.history.communicate()
        time.sleep(self.dice.uniform(0.02, 0.4))
        what = self.dice.choice(["gateway", "gateway", "sled", "sled", "both"])
        if what == "gateway":
            self.kill_gateway()
        else:
            self.kill_sled(what == "both")
        if self.dice.random() < 0.5:
            self.wait_until_whole()

    def run(self, count):
        self.begin()
        for number in range(1, count + 1):
            self.cycle()
            if number % COMPARE_EVERY == 0 and number < count:
                self.finish()
                self.begin()
        self.finish()

    def close(self):
        if self.history:
            self.history.kill()
            self.history.wait()
        self.node.close()
        self.volume.close()


def main():
    count, words = int(sys.argv[1]), sys.argv[2:]
    seed = int(words[0]) if words and words[0].isdigit() else random.randrange(1 << 32)
    kind = "upstream" if "upstream" in words else "own"
    directory = Path(tempfile.mkdtemp(prefix="tb4-cycles-", dir="/dev/shm"))
    began, cycles = time.monotonic(), None
    try:
        cycles = Cycles(directory, seed, kind, KEY if "encrypted" in words else None)
        cycles.run(count)
    except AssertionError as error:
        print(f"seed {seed}: {error}", file=sys.stderr)
        return 1
    finally:
        if cycles:
            cycles.close()
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{count} cycles, {cycles.gateway_kills} kills of the gateway, {cycles.sled_kills} of a downstairs ({kind}), "
          f"{cycles.operations} operations, 0 violations, regions equal {cycles.compared} times, seed {seed}, "
          f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
