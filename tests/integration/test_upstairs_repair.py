"""Live repair under a load that checks every block, and kills at every step of it, on ours and on the real ones.

After each test three equal, clean, valid regions are found by the dump and verify tools of both projects. Long runs:
upstairs-cycles.py.
"""
import os
import subprocess
import threading
import time

import pytest

from support.node import wait_until
from support.relay import on_nth
from support.volume import BLOCK, KEY, UPSTREAM_PARAM, both

SCRIPT = os.path.join(os.path.dirname(__file__), "upstairs-cycles.py")
keys = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])


@both
@keys
def test_wiped_slot_is_copied_under_load(make_volume, kind, key):
    """Each of the three in turn, so that in the end nothing is left of what was there first."""
    volume = make_volume(kind, key=key)
    client = volume.load(depth=16)
    time.sleep(0.3)
    for sled in volume.sleds:
        sled.wipe().start()
        client.wait_for_log(f"slot {volume.sleds.index(sled)}: is copied from")
        volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0 and "paused" not in client.log, client.log[-3000:]
    volume.assert_equal()


@both
@keys
def test_slot_that_is_behind_by_one_write(make_volume, relay, kind, key):
    """Copied are the extent of that write, and those that carry the slot's newest stamp, which a power loss may have
    torn; not the rest."""
    volume = make_volume(kind, key=key)
    volume.check(0.3)
    input_path = volume.directory / "input"
    input_path.write_bytes(os.urandom(BLOCK))

    def write(extent):
        with open(input_path, "rb") as file:
            volume.spawn("write", extent * volume.extent_size * BLOCK, stdin=file).expect_good()

    write(3)
    volume.sleds[1].kill()
    write(9)
    volume.sleds[1].start()
    relays = relay(volume, records=True)
    volume.io("wait")
    copied = {frame.message.extent for frame in relays[1].sent("ExtentLiveRepair")}
    assert 9 in copied and copied <= {0, 3, 9}, copied  # every start flushes extent 0
    volume.assert_equal()


STEPS = ["ExtentLiveReopen", "ExtentLiveClose", "ExtentLiveCloseAck", "ExtentLiveRepair", "ExtentLiveRepairAckId",
         "ExtentLiveNoOp", "ExtentLiveAckId"]


class Killing:
    """A hook: kills something at the nth of these messages, and withholds the message."""

    def __init__(self, step, number, kill):
        self.is_done = threading.Event()
        self.hook = on_nth(step, number, self)
        self.kill = kill

    def __call__(self, _connection, _frame):
        self.kill()
        self.is_done.set()
        return b""


@pytest.mark.parametrize("kind, key", [("own", None), pytest.param(*UPSTREAM_PARAM.values, KEY, marks=UPSTREAM_PARAM.marks)],
                         ids=["own-plain", "upstream-encrypted"])
@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", ["target", "source", "client"])
def test_repair_that_is_cut_short_at_every_step(make_volume, relay, kind, key, who):
    volume = make_volume(kind, extents=6, extent_size=32, key=key)
    relays = relay(volume)
    target, source = volume.sleds[0], volume.sleds[2]
    client = volume.load(depth=12)
    for number, step in enumerate(STEPS):
        victim = {"target": target, "source": source, "client": client}[who]
        killing = Killing(step, 1 + number % 4, victim.kill)
        relays[0].hook = killing.hook
        target.wipe().start()
        assert killing.is_done.wait(60), f"{step}: {client.log[-2000:]}"
        relays[0].hook = None
        if who == "client":
            client = volume.load(depth=12, seed=number)
        else:
            wait_until(lambda victim=victim: not victim.is_running(), f"{who} is killed at {step}")
            victim.start()
        volume.wait_for_in_sync(1, 1, 1)
        if who != "client":  # a new one has no back-off from the losses before
            assert client.stop()[0] == 0, client.log[-3000:]
            client = volume.load(depth=12, seed=number)
    assert client.stop()[0] == 0, client.log[-3000:]
    volume.assert_equal()


@both
def test_guest_requests_over_the_edge_of_the_repair(make_volume, relay, kind):
    """Requests that begin below the extent under repair and end above it, all the time: extents of 5 blocks, requests
    of up to 256."""
    volume = make_volume(kind, extents=60, extent_size=5)
    client = volume.load(depth=16)
    for _ in range(2):
        volume.sleds[1].wipe().start()
        wait_until(lambda: volume.in_sync() != [True] * 3, "slot 1 is out")
        volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0, client.log[-3000:]
    volume.assert_equal()


def cycles(*arguments):
    result = subprocess.run(["/usr/bin/python3", SCRIPT, *map(str, arguments)], capture_output=True, text=True,
                            timeout=115, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 wrong" in result.stdout


@pytest.mark.parametrize("what, key", [("kills", None), ("repairs", KEY)], ids=["kills-plain", "repairs-encrypted"])
@both
def test_random_cycles(what, kind, key):
    cycles(what, 8, 20, kind, *(["encrypted"] if key else []))
