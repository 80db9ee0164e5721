"""What clients of a fenced gateway see: their size and flags, and EIO for everything (design 5)."""
import pytest

from support import wire
from support.node import wait_until
from support.wire import Closed

DISK_0, DISK_1 = "vm-200-disk-0", "vm-200-disk-1"
modes = pytest.mark.parametrize("mode", ["simple", "structured", "extended"])


@pytest.fixture
def served(make_node, memory_dir, faults):
    node = make_node(data_dir=memory_dir)
    node.create(200, "4M")
    node.create(200, "4M", "--disk", 1)
    return faults.start(node)


def fence(gateway, name=DISK_0):
    gateway.node.tb4("claim", "force", name, "--yes")
    gateway.wait_for("fenced")


def requests(client):
    """One of each command."""
    payload_flag = wire.PAYLOAD_LEN if client.extended else 0
    commands = [(wire.CMD_READ, 4096, 0, b""), (wire.CMD_READ, 1 << 20, 0, b""),
                (wire.CMD_WRITE, 4096, payload_flag, b"n" * 4096),
                (wire.CMD_WRITE, 4096, payload_flag | wire.FUA, b"n" * 4096), (wire.CMD_FLUSH, 0, 0, b""),
                (wire.CMD_TRIM, 4096, 0, b""), (wire.CMD_WRITE_ZEROES, 4096, 0, b""),
                (wire.CMD_WRITE_ZEROES, 4096, wire.FAST_ZERO, b""), (wire.CMD_CACHE, 4096, 0, b"")]
    if client.structured:
        commands += [(wire.CMD_BLOCK_STATUS, 1 << 20, 0, b"")]
    return commands


@modes
def test_every_command_is_answered_with_eio_and_the_reason(served, mode):
    with served.session(mode, allocation=mode != "simple") as client:
        client.write(0, b"kept" * 1024)
        fence(served)
        for kind, length, flags, payload in requests(client):
            reply = client.request(kind, 0, length, flags, payload)
            assert reply.error == wire.EIO
            assert DISK_0 in reply.text or mode == "simple"
    assert served.node.image().read_bytes()[:4096] == b"kept" * 1024


@modes
def test_newcomers_find_what_they_had(served, mode):
    """A guest that reconnects must not see another disk: its size and flags are the same."""
    with served.session(mode, allocation=mode != "simple") as before:
        fence(served)
        with served.session(mode, allocation=mode != "simple") as client:
            assert (client.size, client.flags) == (before.size, before.flags)
            assert client.block_sizes() == before.block_sizes()
            for kind, length, flags, payload in requests(client):
                assert client.request(kind, 0, length, flags, payload).error == wire.EIO


def test_all_volumes_of_the_vm_are_fenced(served):
    with served.connect(DISK_1) as client:
        fence(served, DISK_0)
        assert client.request(wire.CMD_WRITE, 0, 512, 0, bytes(512)).error == wire.EIO


def test_requests_in_flight_end_as_the_backend_ends_them(served, faults):
    with served.connect() as client:
        faults.set("write hang", "flush hang")
        client.send_request(wire.CMD_WRITE, 0, 512, 0, b"1" * 512)
        client.send_request(wire.CMD_FLUSH)
        wait_until(lambda: served.volume_status(DISK_0)["in_flight"] == 2, "both are in flight")
        late = client.send_request(wire.CMD_FLUSH)  # has not begun
        wait_until(lambda: served.volume_status(DISK_0)["in_flight"] == 3, "the third is there")
        fence(served)
        faults.set()
        replies = client.read_replies(3)
        assert sorted(reply.error for reply in replies.values()) == [0, 0, wire.EIO]
        assert replies[late].error == wire.EIO


def test_unaligned_requests_are_refused_too(make_node, memory_dir, faults):
    node = make_node(data_dir=memory_dir)
    node.create(200, "4M")
    gateway = faults.start(node, block_min=4096)
    with gateway.connect(infos=()) as client:
        client.write(0, b"kept" * 1024)
        fence(gateway)
        for kind, payload in ((wire.CMD_READ, b""), (wire.CMD_WRITE, b"n" * 100), (wire.CMD_TRIM, b""),
                              (wire.CMD_WRITE_ZEROES, b""), (wire.CMD_CACHE, b"")):
            assert client.request(kind, 50, 100, 0, payload).error == wire.EIO
    assert node.image().read_bytes()[:4096] == b"kept" * 1024


def test_writes_that_wait_for_others_are_refused_at_once(make_node, memory_dir, faults):
    node = make_node(data_dir=memory_dir)
    node.create(200, "4M")
    gateway = faults.start(node, block_min=4096)
    with gateway.connect(infos=()) as first, gateway.connect(infos=()) as second:
        faults.set("write hang")
        first.send_request(wire.CMD_WRITE, 0, 4096, 0, b"1" * 4096)
        wait_until(lambda: gateway.volume_status()["in_flight"] == 1, "the first is in flight")
        second.send_request(wire.CMD_WRITE, 50, 100, 0, b"2" * 100)
        wait_until(lambda: gateway.volume_status()["in_flight"] == 2, "the second waits")
        fence(gateway)
        assert second.read_reply()[1].error == wire.EIO
        faults.set()
        assert first.read_reply()[1].error == 0
        assert gateway.volume_status()["in_flight"] == 0
    assert node.image().read_bytes()[:4096] == b"1" * 4096


def test_stop_of_a_fenced_gateway_cuts_its_clients_off(served):
    with served.connect() as client:
        fence(served)
        assert client.request(wire.CMD_READ, 0, 512).error == wire.EIO
        served.stop()
        with pytest.raises(Closed):
            client.recv(1)


def test_stop_while_a_fenced_volume_has_requests_in_flight(served, faults):
    with served.connect() as client:
        faults.set("write hang")
        client.send_request(wire.CMD_WRITE, 0, 512, 0, b"1" * 512)
        wait_until(lambda: served.volume_status(DISK_0)["in_flight"] == 1, "it is in flight")
        fence(served)
        served.process.terminate()
        served.wait_for_log("stopping")
        faults.set()
        assert client.read_reply()[1].error == 0
        assert served.process.wait(30) in (0, 90)
        assert "Sanitizer" not in served.log
