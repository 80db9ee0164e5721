"""A session that ends and the one that takes its place: no write of a dead session lands behind a write
of its successor (anchors R21)."""
import os
import random

import pytest

from support import inject, wire
from support.node import TOOLS, needs, run, wait_until

modes = pytest.mark.parametrize("mode", ["simple", "structured", "extended"])
HISTORY = TOOLS / "nbd-history"


@pytest.fixture
def served(make_node, memory_dir, faults):
    node = make_node(data_dir=memory_dir)
    node.create(200, "8M")
    return faults.start(node)


def in_flight(gateway, count, name=None):
    wait_until(lambda: gateway.volume_status(name)["in_flight"] == count, f"{count} requests are in flight")


def gone(gateway, connections=0):
    wait_until(lambda: gateway.status()["nbd"]["connections"] == connections,
               f"{connections} clients are left")


@modes
@pytest.mark.parametrize("kind", [wire.CMD_WRITE, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES])
def test_new_session_waits_for_the_writes_of_a_dead_one(served, faults, kind, mode):
    with served.connect() as first:
        first.write(0, b"0" * 4096)
        faults.set("write hang", "trim hang", "zero hang")
        first.send_request(kind, 0, 4096, 0, b"1" * 4096 if kind == wire.CMD_WRITE else b"")
        in_flight(served, 1)
    gone(served)
    with served.session(mode) as second:
        second.send_request(wire.CMD_READ, 0, 4096)
        assert second.is_silent()
        assert served.volume_status()["awaited_writes"] == 1
        faults.set()
        late = b"1" * 4096 if kind == wire.CMD_WRITE else bytes(4096)
        assert second.read_reply()[1].data == late
        assert served.volume_status()["awaited_writes"] == 0
        second.write(0, b"2" * 4096)
        assert second.read(0, 4096) == b"2" * 4096


@modes
def test_new_session_waits_for_the_writes_of_a_living_one(served, faults, mode):
    """The server cannot know whether the old one's client is still there."""
    with served.session(mode) as first:
        faults.set("write hang")
        first.send_request(wire.CMD_WRITE, 0, 512, wire.PAYLOAD_LEN if first.extended else 0, b"1" * 512)
        in_flight(served, 1)
        with served.session(mode) as second:
            second.send_request(wire.CMD_READ, 0, 512)
            assert second.is_silent()
            faults.set()
            assert second.read_reply()[1].data == b"1" * 512
        assert first.read_reply()[1].error == 0


def test_reads_of_a_dead_session_keep_nobody_waiting(served, faults):
    with served.connect() as first:
        faults.set("read hang")
        first.send_request(wire.CMD_READ, 0, 512)
        in_flight(served, 1)
    gone(served)
    with served.connect() as second:
        second.write(0, b"2" * 512)
        assert served.volume_status()["awaited_writes"] == 0
    faults.set()


def test_dead_session_keeps_waiting_sessions_of_its_own_export_only(make_node, memory_dir, faults):
    node = make_node(data_dir=memory_dir)
    node.create(200, "8M")
    node.create(200, "8M", "--disk", 1)
    gateway = faults.start(node)
    with gateway.connect("vm-200-disk-1") as first:
        faults.set("write hang")
        first.send_request(wire.CMD_WRITE, 0, 512, 0, b"1" * 512)
        in_flight(gateway, 1, "vm-200-disk-1")
    gone(gateway)
    with gateway.connect("vm-200-disk-0") as other, gateway.connect("vm-200-disk-1") as second:
        second.send_request(wire.CMD_READ, 0, 512)
        assert other.read(0, 512) == bytes(512)
        other.flush()
        assert second.is_silent()
        faults.set()
        assert second.read_reply()[1].data == b"1" * 512


def test_requests_that_a_dead_session_left_unread_are_not_done(served, faults):
    """Its client has no answer and repeats them; the originals would come too late."""
    with served.connect() as first:
        faults.set("write hang")
        first.send_request(wire.CMD_WRITE, 0, 512, 0, b"1" * 512)
        in_flight(served, 1)
    with served.connect() as second:  # waits for the first one's write
        for number in range(1, 40):
            second.send_request(wire.CMD_WRITE, number * 512, 512, 0, b"2" * 512)
    gone(served)
    faults.set()
    in_flight(served, 0)
    with served.connect() as third:
        assert third.read(0, 512) == b"1" * 512
        assert third.read(512, 39 * 512) == bytes(39 * 512)


@needs("strace")
def test_requests_left_unread_are_not_done_behind_those_of_another_connection(make_node, memory_dir):
    """The kernel's client closes one of its sockets and repeats on another what that one owes it. Here this happens
    while the gateway is busy with the other one, and had learnt before that there is something to read on both."""
    node = make_node(data_dir=memory_dir)
    node.create(200, "1M")
    gateway = node.start(200, wrap=("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=writev", "-e",
                                    "inject=writev:delay_exit=500000"), env=inject.ENVIRONMENT)
    with gateway.connect() as first, gateway.connect() as second, gateway.connect() as busy:
        busy.send_request(wire.CMD_READ, 0, 512)
        assert busy.read_reply()[1].error == 0  # the gateway is still in its writev
        for _ in range(4):  # so many that it looks for more at once
            second.send_request(wire.CMD_READ, 0, 512)
        first.send_request(wire.CMD_WRITE, 0, 512, 0, b"1" * 512)
        assert len(second.read_replies(4)) == 4  # it is again
        first.close()
        second.write(0, b"2" * 512)
        gone(gateway, 2)
        assert second.read(0, 512) == b"2" * 512


def test_write_that_waited_for_another_is_not_done_for_a_dead_session(make_node, memory_dir, faults):
    node = make_node(data_dir=memory_dir)
    node.create(200, "8M")
    gateway = faults.start(node, block_min=4096)
    with gateway.connect(infos=()) as first, gateway.connect(infos=()) as second:
        faults.set("read hang")
        first.send_request(wire.CMD_WRITE, 0, 100, 0, b"1" * 100)
        in_flight(gateway, 1)
        second.send_request(wire.CMD_WRITE, 50, 100, 0, b"2" * 100)
        in_flight(gateway, 2)
        second.close()
        in_flight(gateway, 1)
        faults.set()
        assert first.read_reply()[1].error == 0
        assert first.read(0, 4096) == b"1" * 100 + bytes(3996)


def test_unfinished_payload_of_a_dead_session_is_no_write(served):
    with served.connect() as first:
        first.write(0, b"1" * 65536)
        second = served.connect()
        second.send_request(wire.CMD_WRITE, 0, 65536, 0, b"2" * 65535)
        second.close()
        gone(served, 1)
        assert first.read(0, 65536) == b"1" * 65536


def test_many_sessions_each_cut_in_the_middle_of_writes(served, faults):
    """Each writes its number, is cut, and its successor writes another: the last write is what stays."""
    faults.set("write delay 0 8")
    rng = random.Random(4)
    blocks = {}
    for session in range(60):
        client = served.connect()
        for _ in range(rng.randrange(1, 12)):
            block = rng.randrange(8)
            client.send_request(wire.CMD_WRITE, block * 4096, 4096, 0, bytes([session]) * 4096)
        if rng.random() < 0.5:
            block = rng.randrange(8, 16)
            cookie = client.send_request(wire.CMD_WRITE, block * 4096, 4096, 0, bytes([session]) * 4096)
            while client.read_reply()[0] != cookie:
                pass
            blocks[block] = session
        client.close()
    with served.connect() as client:
        seen = [client.read(block * 4096, 4096) for block in range(8)]
        wait_until(lambda: served.volume_status()["awaited_writes"] == 0, "nothing is awaited")
        assert [client.read(block * 4096, 4096) for block in range(8)] == seen
        for block, session in blocks.items():
            assert client.read(block * 4096, 4096) == bytes([session]) * 4096


@pytest.mark.skipif(not HISTORY.exists(), reason="nbd-history is not built: needs libnbd-dev")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_histories_with_cuts_and_late_writes_are_possible(served, faults, seed):
    faults.set("write delay 0 6", "read late 0 3", "zero delay 0 6")
    line = run(HISTORY, "--region", "512K", "--max", "32K", "--operations", "4000", "--cut", "60",
               "--seed", str(seed), served.socket, "")
    assert " 0 violations" in line and " 0 errors" in line


def test_thousand_sessions_leave_nothing_behind(make_node, memory_dir):
    node = make_node(data_dir=memory_dir)
    node.create(200, "8M")
    gateway = node.start(200)
    before = len(os.listdir(f"/proc/{gateway.pid}/fd"))
    for number in range(1000):
        client = gateway.session(("simple", "structured", "extended")[number % 3])
        client.send_request(wire.CMD_READ, 0, 65536)
        if number % 2:
            client.read_reply()
        if number % 4 == 3:
            client.send_request(wire.CMD_DISC)
        client.close()
    gone(gateway)
    wait_until(lambda: len(os.listdir(f"/proc/{gateway.pid}/fd")) <= before, "all descriptors are closed")
    status = gateway.status()["nbd"]
    assert (status["handshakes"], status["memory_used"], status["accepted"]) == (0, 0, 1000)


def test_reconnecting_in_a_storm_makes_progress(served, faults):
    """Each newcomer is a moment in which all wait; a writer still gets on."""
    faults.set("write delay 0 2")
    with served.connect() as writer:
        for number in range(50):
            writer.send_request(wire.CMD_WRITE, 0, 512, 0, bytes([number]) * 512)
            with served.connect():
                pass
            assert writer.read_reply()[1].error == 0
        assert writer.read(0, 512) == bytes([49]) * 512
