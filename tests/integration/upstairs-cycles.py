#!/usr/bin/python3
"""kill -9 of the client and of downstairs under load, again and again: no acknowledged write may be lost.

usage: upstairs-cycles.py kills|repairs COUNT [SEED] [own|upstream] [encrypted]      (TB4_BUILD chooses the build)

The load is `upstairs-io check`: writes, reads and flushes that overlap; what each block may hold outlives its process.
kills:    each cycle kills the client, one downstairs, two of them, or one and the client, at a random moment, and
          starts them again in any order.
repairs:  each cycle wipes a downstairs, or leaves it behind, and, while it is copied, kills at a random moment the
          target, a source, the client or nobody. Then all three must become whole.
Every tenth cycle ends the client in good order, which reads back every block, and every thirtieth stops the downstairs
as well and compares the regions by the dump and verify tools of both projects.

Prints one line of figures. Exit status 0 if nothing was wrong.
"""
import random
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.node import wait_until  # noqa: E402
from support.volume import KEY, Volume  # noqa: E402

READ_BACK_EVERY, COMPARE_EVERY = 10, 30


class Cycles:
    def __init__(self, directory, seed, kind, key):
        self.dice = random.Random(seed)
        self.volume = Volume(directory, kind, extents=12, extent_size=64, key=key)
        self.volume.options = ["--leave-after", "1000", "--wait-for-named", "1500"]
        self.client = None
        self.kills = self.copies = self.operations = self.compared = 0

    def start_client(self):
        self.client = self.volume.spawn(*self.volume.check_command(600, self.dice.randrange(1 << 32), 12))

    def count_log(self):
        self.copies += len(re.findall("is copied from", self.client.log))

    def kill(self, what):
        what.kill()
        self.kills += 1

    def wait(self):
        time.sleep(self.dice.choice([0, 0.002, 0.02, 0.2]) * self.dice.random())

    def alive(self):
        """The client must not end by itself: that is an error, or something wrong that it has read."""
        assert self.client.is_running(), f"status {self.client.end()[0]}: {self.client.log[-3000:]}"
        return True

    def wait_until_whole(self):
        """All three are in sync, for the client that runs."""
        wait_until(lambda: self.alive() and self.volume.in_sync() == [True] * 3 and "serving" in self.client.log,
                   "all three are in sync", 60)

    # one cycle

    def kills_cycle(self):
        sleds = self.volume.sleds
        victims = self.dice.choice([[self.client], [self.dice.choice(sleds)], self.dice.sample(sleds, 2),
                                    [self.dice.choice(sleds), self.client]])
        self.alive()
        for victim in victims:
            self.kill(victim)
            self.wait()
        self.dice.shuffle(victims)
        for victim in victims:
            self.wait()
            if victim is self.client:
                self.count_log()
                self.start_client()
            else:
                victim.start()
        if self.dice.random() < 0.5:
            self.wait_until_whole()

    def repairs_cycle(self):
        volume = self.volume
        self.wait_until_whole()
        target = self.dice.choice(volume.sleds)
        if self.dice.random() < 0.7:
            target.wipe()
        else:  # behind: a start without it leaves no history that reaches back
            self.kill(target)
            wait_until(lambda: self.alive() and volume.in_sync().count(True) == 2, "the slot has left")
            self.kill(self.client)
            self.count_log()
            self.start_client()
            self.client.wait_until_serving()
        before = self.client.log.count("is copied from")
        target.start()
        wait_until(lambda: self.alive() and self.client.log.count("is copied from") > before, "a copy begins")
        time.sleep(self.dice.uniform(0, 0.15))
        others = [sled for sled in volume.sleds if sled is not target]
        victim = self.dice.choice([target, self.dice.choice(others), self.client, None])
        if victim:
            self.kill(victim)
            self.wait()
        if victim is self.client:
            self.count_log()
            self.start_client()
        elif victim:
            victim.start()
        self.wait_until_whole()

    def read_back(self, compares):
        self.wait_until_whole()
        status, output, log = self.client.stop()
        assert status == 0, f"status {status}: {log[-3000:]}"
        self.operations += sum(map(int, re.findall(r"\d+", output)))
        self.count_log()
        if compares:
            self.volume.make_whole()
            self.volume.assert_equal()
            self.compared += 1
            for sled in self.volume.sleds:
                sled.start()
        self.start_client()

    def run(self, what, count):
        cycle = {"kills": self.kills_cycle, "repairs": self.repairs_cycle}[what]
        self.start_client()
        self.client.wait_until_serving()
        for i in range(1, count + 1):
            self.cycle = i
            time.sleep(self.dice.uniform(0.02, 0.2))
            cycle()
            if i % READ_BACK_EVERY == 0 or i == count:
                self.read_back(i % COMPARE_EVERY == 0 or i == count)
            while len(self.volume.clients) > 2:
                self.volume.clients.pop(0).log_path.unlink()


def main():
    what, count = sys.argv[1], int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 32)
    kind = sys.argv[4] if len(sys.argv) > 4 else "own"
    key = KEY if len(sys.argv) > 5 else None
    directory = Path(tempfile.mkdtemp(prefix="tb4-cycles-", dir="/dev/shm"))
    began, cycles = time.monotonic(), None
    try:
        cycles = Cycles(directory, seed, kind, key)
        cycles.run(what, count)
    except AssertionError as error:
        print(f"cycle {cycles.cycle if cycles else 0} of {count}, seed {seed}: {error}", file=sys.stderr)
        shutil.copytree(directory, f"{directory}.kept", dirs_exist_ok=True, ignore_dangling_symlinks=True)
        print(f"kept in {directory}.kept", file=sys.stderr)
        return 1
    finally:
        if cycles:
            cycles.volume.close()
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{what} on {kind}, {'encrypted' if key else 'plain'}: {count} cycles, {cycles.kills} kills, {cycles.copies} "
          f"copies begun, {cycles.operations} operations counted, {cycles.compared} comparisons, 0 wrong, seed {seed}, "
          f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
