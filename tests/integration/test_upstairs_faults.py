"""What downstairs do wrong, and who else wants the volume: the guest goes on with two copies, or is told why not.

No answer, however wrong, ends the client or makes it take memory without bound (run it with the sanitizers): the
connection is dropped, and the slot is out until it has come back by replay or repair.
"""
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import uuid

import pytest

from support import upstream
from support.crucible import NUMBERS, encode
from support.node import needs, wait_until
from support.relay import DOWN, change, on_nth
from support.volume import KEY, MIB, QUICK, both

LIMIT = 700 * MIB  # of the client's memory: its history's 256 MiB, and what the sanitizers take


def peak_of(command, log_path, timeout=60):
    """Runs a client to its end: (exit status, its log, peak of its memory in bytes)."""
    with open(log_path, "wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    deadline, peak = time.monotonic() + timeout, 0
    while process.poll() is None:
        assert time.monotonic() < deadline or process.kill(), log_path.read_text()
        with open(f"/proc/{process.pid}/status", encoding="ascii") as lines:  # at first it may be the forking process's
            peak = next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), peak)
        time.sleep(0.002)
    return process.returncode, log_path.read_text(), peak


# what is wrong with an answer


def half_and_end(connection, frame):
    connection.say(frame.bytes[:len(frame.bytes) // 2])
    connection.cut()
    return b""


def with_length(length):
    return lambda _connection, frame: struct.pack("<I", length) + frame.bytes[4:]


def with_number(number):
    return lambda _connection, frame: frame.bytes[:4] + struct.pack("<I", number) + frame.bytes[8:]


def longer(_connection, frame):
    return struct.pack("<I", len(frame.bytes) + 5) + frame.bytes[4:] + b"extra"


def shorter(_connection, frame):
    return struct.pack("<I", max(len(frame.bytes) - 3, 4)) + frame.bytes[4:-3]


def without_body(_connection, frame):
    return struct.pack("<I", 8) + frame.bytes[4:8]


def noise(connection, frame):
    return random.Random(len(frame.bytes) + connection.number).randbytes(5000)


def zeros(_connection, _frame):
    return bytes(100)


def ones(_connection, frame):
    """Every count, length, option and number in it is absurd."""
    return frame.bytes[:8] + b"\xff" * (len(frame.bytes) - 8)


def claims_much_and_says_nothing(_connection, frame):
    return struct.pack("<I", 31 << 20) + frame.bytes[4:8]


def twice(_connection, frame):
    return frame.bytes + frame.bytes


def flipped(seed):
    def flip(_connection, frame):
        """One bit, not in the job's id: a false answer to another job cannot be told from a right one."""
        data, dice = bytearray(frame.bytes), random.Random(seed)
        at = dice.choice([i for i in range(4, min(len(data), 400)) if not 56 <= i < 64])
        data[at] ^= 1 << dice.randrange(8)
        return bytes(data)
    return flip


DAMAGES = [half_and_end, with_length(0), with_length(3), with_length(7), with_length(0xffffffff),
           with_length((100 << 20) + 1), with_length(100 << 20), with_number(41), with_number(0xffffffff),
           with_number(NUMBERS["HereIAm"]), longer, shorter, without_body, noise, zeros, ones]


# negotiation: each damage on a client of its own

@pytest.mark.parametrize("name", ["YesItsMe", "YouAreNowActive", "RegionInfo", "ExtentVersions"])
def test_wrong_answer_in_the_negotiation(make_volume, relay, tmp_path, name):
    """The slot is not used; the two others serve. But a generation above ours is believed, whoever shows it: fenced."""
    volume = make_volume(extents=3, extent_size=8)
    volume.options = ["--wait-for-named", "100"]
    volume.check(0.1)
    relays = relay(volume)
    flips = [flipped(seed) for seed in range(5)]
    complaints = 0
    for damage in DAMAGES + flips:
        # every time: it is tried again
        relays[1].hook = lambda connection, frame, damage=damage: \
            damage(connection, frame) if frame.message.name == name else True
        status, log, peak = peak_of(volume.command(*volume.check_command(0.2)), tmp_path / "log")
        is_fenced = name == "ExtentVersions" and "slot 1 shows generation" in log
        assert status == is_fenced and peak < LIMIT, (status, peak, log[-2000:])
        complaints += "slot 1: " in log
    assert complaints > len(DAMAGES) / 2  # the rest: only waited for, or one of the bits of a port
    for one in relays:
        one.hook = None
    volume.make_whole()
    volume.assert_equal()


IMPOSSIBLE = [  # of three extents of 8 blocks
    ("RegionInfo", [{"block_size": 0}, {"block_size": 4095}, {"block_size": 1 << 40}, {"shift": 200}, {"shift": 13}]),
    ("RegionInfo", [{"extent_size": 0}, {"extent_size": (1 << 64) - 1}, {"extent_size": 9}, {"uuid": uuid.uuid4()}]),
    ("RegionInfo", [{"extent_count": 0}, {"extent_count": 0xffffffff}, {"extent_count": 4},
                    {"extent_count": 0xffffffff, "extent_size": 1 << 50}]),
    ("RegionInfo", [{"encrypted": True}, {"read_version": 2}, {"write_version": 0}]),
    ("ExtentVersions", [{"generations": [], "flush_numbers": [], "dirty": []}, {"generations": [1] * 4},
                        {"flush_numbers": [1]}, {"dirty": [False] * 6}]),
]


def late(bytes_):
    time.sleep(0.1)
    return bytes_


@pytest.mark.parametrize("name, lies", IMPOSSIBLE, ids=["block", "extent", "count", "kind", "versions"])
def test_impossible_region(make_volume, relay, name, lies):
    """It comes late; what the first slot says that has the right region decides."""
    volume = make_volume(extents=3, extent_size=8)
    volume.check(0.1)
    relays = relay(volume)
    for lie in lies:
        relays[1].hook = lambda _, frame, lie=lie: frame.message.name != name or late(change(frame, **lie))
        client = volume.load(seed=3)
        client.wait_for_log("slot 1: ")
        assert client.memory() < LIMIT
        status, _, log = client.stop()
        assert status == 0, (lie, log[-2000:])
    relays[1].hook = None
    volume.make_whole()


# at work: one client takes all of it


def other_job(_connection, frame):
    return change(frame, job_id=frame.message.job_id ^ 1 << 40)


def other_session(_connection, frame):
    return change(frame, session_id=uuid.uuid4())


def other_upstairs(_connection, frame):
    return change(frame, upstairs_id=uuid.uuid4())


def failed(name, *text):
    def fail(_connection, frame):
        return change(frame, result=Exception((name, *text)))
    return fail


JOB_DAMAGES = [other_job, other_session, other_upstairs, twice, claims_much_and_says_nothing,
               failed("GenericError", "x" * 100000), failed("GenericError", "\0\x1b[2J\u202e"), failed("Disconnect")]


class Damager:
    """A hook for a relay: the next damage at the third of these answers on each connection, until all are done."""

    def __init__(self, name, damages):
        self.name, self.damages, self.done = name, list(damages), 0
        self.connection, self.seen = None, 0

    def __call__(self, connection, frame):
        if frame.direction != DOWN or frame.message.name != self.name or self.is_done():
            return True
        if connection.number != self.connection:
            self.connection, self.seen = connection.number, 0
        self.seen += 1
        if self.seen != 3:
            return True
        self.done += 1
        return self.damages[self.done - 1](connection, frame)

    def is_done(self):
        return self.done == len(self.damages)


def some_at_a_time(things, count=4):
    """A client tries again later each time: so each gets only so many."""
    return [things[i:i + count] for i in range(0, len(things), count)]


def bear(volume, one, name, damages):
    """A client under load bears them, without a pause."""
    one.hook = damager = Damager(name, damages)
    client = volume.load()
    wait_until(lambda: not client.is_running() or damager.is_done(), "all damages", 60)
    volume.wait_for_in_sync(1, 1, 1)
    assert client.memory() < LIMIT
    status, _, log = client.stop()
    assert status == 0 and "paused" not in log, log[-3000:]
    assert "\x1b" not in log and "\u202e" not in log
    one.hook = None


@pytest.mark.timeout(300)
def test_wrong_answer_to_a_write(make_volume, relay):
    """Under load. A slot that is silent, as after half a frame, is left after a while."""
    volume = make_volume()
    volume.options = [*QUICK, "--leave-after", "500", "--flush-interval", "20"]
    relays = relay(volume)
    damages = DAMAGES + JOB_DAMAGES + [flipped(seed) for seed in range(6)]
    for some in some_at_a_time(damages):
        bear(volume, relays[1], "WriteAck", some)
    volume.assert_equal()


def test_wrong_answer_in_a_mend(make_volume, relay):
    volume = make_volume(extents=6, extent_size=16)
    relays = relay(volume)
    damages = DAMAGES[:4] + [with_number(NUMBERS["WriteAck"]), longer, noise, ones,
                             lambda _, frame: change(frame, repair_id=frame.message.repair_id + 1),
                             lambda _, frame: encode("ExtentError", repair_id=frame.message.repair_id, extent=1,
                                                     error=("IoError", "x"))]
    for damage in damages:
        client = volume.load()
        time.sleep(0.05)
        client.kill()
        relays[0].hook = on_nth("RepairAckId", 3, damage)
        volume.check()
        relays[0].hook = None
    volume.make_whole()
    volume.assert_equal()


# a downstairs in trouble


@both
def test_killed_and_started_again_and_again(make_volume, kind):
    volume = make_volume(kind)
    client = volume.load()
    for i in range(6):
        volume.sleds[i % 3].kill()
        time.sleep(0.1)
        volume.sleds[i % 3].start()
        volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0, client.log[-3000:]
    volume.assert_equal()


@both
def test_paused_process(make_volume, kind):
    """SIGSTOP: it takes connections and says nothing."""
    volume = make_volume(kind)
    volume.options = ["--leave-after", "700"]
    client = volume.load()
    os.kill(volume.sleds[0].process.pid, signal.SIGSTOP)
    volume.wait_for_in_sync(0, 1, 1)
    os.kill(volume.sleds[0].process.pid, signal.SIGCONT)
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0 and "paused" not in client.log
    assert "slot 0: does not answer, and the others have" in client.log
    volume.assert_equal()


@both
def test_two_lost_is_a_pause_and_no_error(make_volume, kind):
    """Nothing is acknowledged with one copy; the guest waits and goes on."""
    volume = make_volume(kind)
    client = volume.load()
    for sled in volume.sleds[:2]:
        sled.kill()
    client.wait_for_log("paused")
    time.sleep(0.3)
    volume.sleds[0].start()
    client.wait_for_log("serving", count=2)
    volume.sleds[1].start()
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0, client.log[-3000:]
    volume.assert_equal()


def test_slow_slot_leaves_and_comes_back(make_volume):
    volume = make_volume()
    volume.options = ["--leave-after", "500"]
    client = volume.load()
    volume.sleds[2].control("delay 100")  # within what is borne
    time.sleep(0.5)
    assert volume.in_sync() == [True] * 3
    volume.sleds[2].control("delay 5000")
    volume.wait_for_in_sync(1, 1, 0)
    volume.sleds[2].control("delay 0")
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0 and "paused" not in client.log
    volume.assert_equal()


def test_full_disk(make_volume):
    """The process is wedged for everybody; when there is room again it goes on, and the slot returns."""
    volume = make_volume()
    volume.options = ["--leave-after", "500"]
    client = volume.load()
    volume.sleds[1].control("full on")
    volume.wait_for_in_sync(1, 0, 1)
    time.sleep(0.5)
    volume.sleds[1].control("full off")
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0 and "paused" not in client.log
    volume.assert_equal()


def keep_copy(sled):
    shutil.copytree(sled.directory, f"{sled.directory}.old")


def roll_back(sled):
    sled.kill()
    shutil.rmtree(sled.directory)
    shutil.move(f"{sled.directory}.old", sled.directory)


@both
def test_rolled_back_while_we_run(make_volume, kind):
    """An old copy of its directory: it shows less than it must, so all of it is copied."""
    volume = make_volume(kind, extents=8, extent_size=32)
    volume.check(0.2)
    volume.sleds[0].kill()
    keep_copy(volume.sleds[0])
    volume.sleds[0].start()
    client = volume.load()
    volume.wait_for_in_sync(1, 1, 1)
    time.sleep(0.2)
    roll_back(volume.sleds[0])
    volume.sleds[0].start()
    client.wait_for_log("slot 0: is older than it was when we left it")
    client.wait_for_log("slot 0: is copied from")
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0, client.log[-3000:]
    volume.assert_equal()


@both
@pytest.mark.parametrize("count", [1, 2, 3])
def test_rolled_back_before_a_start(make_volume, kind, count):
    """One: it is no source. Two: the third alone is not enough, where the record names three. All: refused."""
    volume = make_volume(kind, extents=8, extent_size=32)
    volume.check(0.2)
    for sled in volume.sleds:
        sled.kill()
        keep_copy(sled)
        sled.start()
    volume.check(0.2, seed=2)
    for sled in volume.sleds[:count]:
        roll_back(sled)
        sled.start()
    if count == 1:
        volume.make_whole()
        volume.check()
        volume.assert_equal()
    elif count == 2:
        client = volume.spawn(*volume.check_command(0))
        time.sleep(4)
        assert client.is_running() and "serving" not in client.log
    else:
        result = volume.check(check=False)
        assert result.returncode == 1
        assert "older than the claim: restored from a backup, or wiped?" in result.stderr


@both
def test_wrong_region_while_we_run(make_volume, kind, tmp_path):
    """Another region at the same port; two go on, and the right one is taken back by the next start."""
    volume = make_volume(kind, extents=8, extent_size=32)
    client = volume.load()
    sled = volume.sleds[1]
    right = sled.uuid, tmp_path / "right"
    sled.kill()
    shutil.move(sled.directory, right[1])
    sled.uuid = uuid.uuid4()
    sled.create()
    sled.start()
    client.wait_for_log("slot 1: another region than the one that belongs to this slot")
    assert client.stop()[0] == 0 and volume.in_sync() == [True, False, True]
    sled.kill()
    shutil.rmtree(sled.directory)
    shutil.move(right[1], sled.directory)
    sled.start()
    volume.make_whole()
    volume.check()
    volume.assert_equal()


@both
def test_record_that_cannot_be_stored_stops_acknowledgements(make_volume, kind):
    """A slot is lost while the record cannot be changed: a pause, and nothing is lost."""
    volume = make_volume(kind)
    client = volume.load()
    in_the_way = volume.directory / "record.new"
    in_the_way.mkdir()
    volume.sleds[1].kill()
    client.wait_for_log("cannot be written", count=2)
    before = (volume.directory / "blocks").read_bytes()
    time.sleep(0.5)
    after = (volume.directory / "blocks").read_bytes()
    acknowledged = sum(before[i:i + 8] != after[i:i + 8] for i in range(24, len(after), 16))
    assert acknowledged == 0
    in_the_way.rmdir()
    volume.wait_for_in_sync(1, 0, 1)
    volume.sleds[1].start()
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0, client.log[-3000:]
    volume.assert_equal()


# rivals


@both
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_a_higher_generation_takes_over_and_the_loser_stops(make_volume, kind, key):
    """Both under load: what the first was told is there for the second, and nothing of the first comes later."""
    volume = make_volume(kind, key=key)
    for seed in range(3):
        first = volume.load(seed=seed)
        time.sleep(0.2)
        second = volume.spawn("status")
        status, _, log = first.end(20)
        assert status == 1 and re.search(r"superseded by generation \d+ on slot \d", log), log[-2000:]
        second.expect_good()
        volume.check(0.2, seed=100 + seed)
    volume.assert_equal()


@both
def test_a_lower_generation_never_serves(make_volume, kind):
    volume = make_volume(kind)
    volume.generation = 10
    first = volume.load()
    second = volume.spawn("status", generation=5, record=volume.directory / "other")
    second.wait_for_log("closes right after our promotion", count=3)
    assert second.is_running() and "serving" not in second.log
    assert first.stop()[0] == 0 and "superseded" not in first.log
    # nobody is registered any more: now the regions say it
    status, _, log = second.end(30)
    assert status == 1 and "shows generation 11, ours is 5" in log
    volume.assert_equal()


@pytest.fixture
def upstream_server():
    processes = []

    def start(volume, generation, wait=True):
        with open(volume.directory / "server.log", "wb") as log:
            processes.append(upstream.start(upstream.ports_of(volume), generation, volume.key, log, wait))
        return processes[-1]

    with upstream.alone():
        yield start
        for process in processes:
            process.kill()
            process.wait()


@needs("crucible-nbd-server", "nbdinfo")
@pytest.mark.parametrize("kind", [both.args[1][1]])
def test_the_real_server_takes_over_from_us(make_volume, upstream_server, kind):
    volume = make_volume(kind)
    client = volume.load()
    upstream_server(volume, volume.generation + 1)
    status, _, log = client.end(20)
    assert status == 1 and f"superseded by generation {volume.generation + 1} on slot" in log
    volume.generation += 1


@needs("crucible-nbd-server", "nbdinfo")
@pytest.mark.parametrize("kind", [both.args[1][1]])
def test_we_take_over_from_the_real_server(make_volume, upstream_server, kind):
    """It loses, whatever it does then; and what it says it is does not matter for who wins."""
    volume = make_volume(kind)
    upstream_server(volume, 5)
    volume.generation = 5
    volume.check(0.5)
    volume.make_whole()
    volume.assert_equal()


@needs("crucible-nbd-server", "nbdinfo")
@pytest.mark.parametrize("kind", [both.args[1][1]])
def test_the_real_server_does_not_get_in_with_our_generation_or_less(make_volume, upstream_server, kind):
    """It tries for ever, under the nil upstairs id; we notice nothing."""
    volume = make_volume(kind)
    volume.generation = 10
    client = volume.load()
    for generation in (11, 3):
        upstream_server(volume, generation, wait=False)
    time.sleep(3)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 10809)) != 0
    assert client.stop()[0] == 0 and "superseded" not in client.log and "paused" not in client.log
