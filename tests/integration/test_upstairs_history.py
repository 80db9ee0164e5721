"""A history in a file: a client that is killed goes on where it was, without a mend, and loses nothing.

What is no history of this claim is given up with one line, and the start is an ordinary one.
"""
import random
import re
import subprocess
import time

import pytest

from support.downstairs import OWN
from support.node import run
from support.volume import KEY, both

MENDED = "are made equal first"
GIVEN_UP = re.compile("the history is given up: (.*)")


@pytest.fixture
def make_resuming(make_volume):
    def make(kind, **options):
        volume = make_volume(kind, **options)
        volume.history = volume.directory / "history"
        volume.options = ["--history", volume.history, "--wait-for-named", "1000", "--leave-after", "1000"]
        return volume
    return make


def assert_same_data(volume):
    """A replay leaves other versions on each slot, and the same data."""
    volume.assert_alive()
    for sled in volume.sleds:
        sled.kill()
    dump = run(OWN, "dump", "--data", *[word for sled in volume.sleds for word in ("--dir", sled.directory)],
               check=False).stdout
    assert f"{volume.extents} extents" in dump and "block" not in dump and "dirty" not in dump, dump


def load_and_kill(volume, seed):
    """A load for a moment, then kill -9. Its log."""
    client = volume.load(seed=seed, depth=16)
    time.sleep(0.3 + seed % 3 / 10)  # whatever it has done by then
    assert client.is_running(), client.log
    client.kill()
    return client.log


@both
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_killed_client_goes_on_without_a_mend(make_resuming, kind, key):
    volume = make_resuming(kind, key=key)
    for seed in range(5):
        log = load_and_kill(volume, seed)
        assert MENDED not in log and not GIVEN_UP.search(log)
        assert volume.history.stat().st_size > 1 << 20
    result = volume.check()
    assert MENDED not in result.stderr and "copied from" not in result.stderr
    assert not volume.history.exists()  # a claim that is released has none
    assert_same_data(volume)


@both
def test_without_a_history_the_same_needs_a_mend(make_resuming, kind):
    """So the test above looks for the right words."""
    volume = make_resuming(kind)
    load_and_kill(volume, 0)
    volume.history.unlink()
    assert MENDED in volume.check().stderr


@both
def test_killed_client_and_killed_downstairs(make_resuming, kind):
    """All at once, or one; those that come back late return by the history as well, unless the client went on for so long
    meanwhile that the history has no room for what they missed."""
    volume = make_resuming(kind)
    dice = random.Random(7)
    longest = 0
    for seed in range(6):
        client = volume.load(seed=seed, depth=16)
        time.sleep(0.3)
        victims = dice.sample(volume.sleds, dice.choice([1, 2, 3]))
        began = time.monotonic()
        for victim in dice.sample([client, *victims], len(victims) + 1):
            victim.kill()
            if victim is client:
                longest = max(longest, time.monotonic() - began)
        for victim in victims:
            victim.start()
        assert "is copied from" not in client.log
    result = volume.check()
    assert MENDED not in result.stderr and (longest > 0.2 or "is copied from" not in result.stderr)
    assert_same_data(volume)


def garble(volume, how):
    size = volume.history.stat().st_size
    with open(volume.history, "r+b") as file:
        if how == "short":
            file.truncate(100)
        elif how == "cut":
            file.truncate(size // 3)
        elif how == "older":
            file.write(b"history1")
        elif how == "noise":
            file.write(random.Random(1).randbytes(size))
        elif how == "data":
            file.seek(4096)
            file.write(random.Random(2).randbytes(size - 4096))


@pytest.mark.parametrize("how, reason", [
    ("short", "its header makes no sense|an entry is damaged|it is none of this version"),
    ("cut", "an entry is damaged|its header makes no sense"),
    ("older", "it is none of this version"),
    ("noise", "it is none of this version"),
    ("data", "an entry is damaged"),
])
def test_damaged_history_is_given_up(make_resuming, how, reason):
    volume = make_resuming("own")
    client = volume.load(depth=16)
    volume.sleds[2].kill()  # for its sake entries are kept
    volume.wait_for_in_sync(True, True, False)
    time.sleep(0.5)
    client.kill()
    volume.sleds[2].start()
    garble(volume, how)
    result = volume.check()
    given_up = GIVEN_UP.findall(result.stderr)
    assert len(given_up) == 1 and re.fullmatch(reason, given_up[0]), result.stderr
    volume.make_whole()
    volume.assert_equal()


def test_history_of_another_claim_is_given_up(make_resuming):
    """A start without it has written since then."""
    volume = make_resuming("own")
    load_and_kill(volume, 1)
    with_history, volume.options = volume.options, []
    volume.check(1)
    volume.options = with_history
    assert GIVEN_UP.findall(volume.check().stderr) == ["it belongs to another claim"]


def test_one_process_at_a_time(make_resuming):
    volume = make_resuming("own")
    first = volume.load()
    second = volume.io("status", check=False)
    assert second.returncode == 70 and f"{volume.history}: another process has it" in second.stderr
    assert first.stop()[0] == 0


def test_full_file_system(make_resuming, tmp_path):
    """The history finds no room: writes wait for flushes, and none fails."""
    volume = make_resuming("own")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], check=True)
    try:
        volume.history = small / "history"
        volume.options[1] = volume.history
        client = volume.load(depth=32)
        time.sleep(1)
        client.kill()
        assert MENDED not in volume.check(1).stderr
    finally:
        subprocess.run(["umount", "-l", small], check=True)
