"""FLUSH and FUA: shared rounds, all connections, and failures that stay until a flush succeeds."""
import pytest

from support import wire
from support.node import wait_until

modes = pytest.mark.parametrize("mode", ["simple", "structured", "extended"])


@pytest.fixture
def served(make_node, memory_dir, faults):
    node = make_node(data_dir=memory_dir)
    node.create(200, "8M")
    return faults.start(node)


def error_of(client, kind, offset=0, length=0, flags=0, payload=b""):
    return client.request(kind, offset, length, flags, payload).error


def fua_requests(client):
    """The errors of a WRITE, a TRIM and a WRITE_ZEROES with FUA."""
    return [error_of(client, wire.CMD_WRITE, 0, 4096, wire.FUA, b"f" * 4096),
            error_of(client, wire.CMD_TRIM, 4096, 4096, wire.FUA),
            error_of(client, wire.CMD_WRITE_ZEROES, 8192, 4096, wire.FUA)]


def test_flushes_that_arrive_while_one_runs_share_the_next(served, faults):
    """The backend sees two for twenty-one: the first that it fails is the third."""
    faults.set("flush error EIO 3", "flush delay 100 100")
    with served.connect() as client:
        for _ in range(21):
            client.send_request(wire.CMD_FLUSH)
        assert {reply.error for reply in client.read_replies(21).values()} == {0}
        assert error_of(client, wire.CMD_FLUSH) == wire.EIO


def test_flush_is_answered_only_by_one_that_began_after_it(served, faults):
    """What runs already may have missed the last writes: it does not count, also for another connection."""
    with served.connect() as first, served.connect() as second:
        faults.set("flush hang")
        first.send_request(wire.CMD_FLUSH)
        wait_until(lambda: served.volume_status()["in_flight"] == 1, "the flush runs")
        second.write(0, b"w" * 512)
        second.send_request(wire.CMD_FLUSH)
        wait_until(lambda: served.volume_status()["in_flight"] == 2, "the second flush is there")
        faults.set("flush error EIO 1")
        assert first.read_reply()[1].error == 0
        assert second.read_reply()[1].error == wire.EIO


def test_writes_go_on_while_a_flush_runs(served, faults):
    faults.set("flush hang")
    with served.connect() as client, served.connect() as other:
        client.send_request(wire.CMD_FLUSH)
        other.write(0, b"w" * 4096)
        assert other.read(0, 4096) == b"w" * 4096
        assert client.is_silent()
        faults.set()
        assert client.read_reply()[1].error == 0


def test_every_waiter_of_a_failed_flush_is_told(served, faults):
    faults.set("flush error EIO 1", "flush delay 10 10")
    clients = [served.connect() for _ in range(3)]
    for client in clients:
        for _ in range(5):
            client.send_request(wire.CMD_FLUSH)
    for client in clients:
        assert [reply.error for reply in client.read_replies(5).values()] == [wire.EIO] * 5
        client.close()


def test_failure_is_reported_until_a_flush_succeeds(served, faults):
    faults.set("flush error EIO 1")
    with served.connect() as client, served.connect() as other:
        assert error_of(client, wire.CMD_FLUSH) == wire.EIO
        assert served.volume_status()["flush_failed"]
        assert error_of(other, wire.CMD_FLUSH) == wire.EIO
        faults.set()
        assert error_of(other, wire.CMD_FLUSH) == 0
        assert not served.volume_status()["flush_failed"]
        assert error_of(client, wire.CMD_FLUSH) == 0
    assert served.log.count("flush failed") == 1


@modes
def test_fua_is_an_error_while_a_failed_flush_is_owed(served, faults, mode):
    """Also by a write whose backend could make it durable alone, and on other connections."""
    faults.set("flush error EIO 1")
    with served.session("simple") as first, served.session(mode) as client:
        assert error_of(first, wire.CMD_FLUSH) == wire.EIO
        flags = wire.FUA | (wire.PAYLOAD_LEN if client.extended else 0)
        assert error_of(client, wire.CMD_WRITE, 0, 512, flags, b"f" * 512) == wire.EIO
        assert error_of(client, wire.CMD_TRIM, 0, 4096, wire.FUA) == wire.EIO
        assert error_of(client, wire.CMD_WRITE_ZEROES, 0, 4096, wire.FUA) == wire.EIO
        client.write(0, b"n" * 512)  # without FUA nothing is promised
        faults.set()
        assert error_of(client, wire.CMD_WRITE, 0, 512, flags, b"f" * 512) == 0
        assert not served.volume_status()["flush_failed"]


def test_fua_is_a_flush_where_the_backend_has_none(served, faults):
    faults.set("flush error EIO 1")
    with served.connect() as client:
        write, trim, zeroes = fua_requests(client)
        assert (write, trim) == (0, wire.EIO)
        assert zeroes == wire.EIO
        faults.set()
        assert fua_requests(client) == [0, 0, 0]


def test_fua_of_a_failed_write_is_that_failure(served, faults):
    faults.set("write error ENOSPC 1", "flush error EIO 1")
    with served.connect() as client:
        assert error_of(client, wire.CMD_WRITE, 0, 512, wire.FUA, bytes(512)) == wire.ENOSPC


def test_fua_reply_waits_for_the_flush(served, faults):
    faults.set("flush hang")
    with served.connect() as client, served.connect() as other:
        client.send_request(wire.CMD_WRITE_ZEROES, 0, 4096, wire.FUA)
        assert client.is_silent()
        other.write(0, b"o" * 4096)  # nobody waits for a request that is done but for its flush
        faults.set()
        assert client.read_reply()[1].error == 0


def test_unaligned_fua_write_is_flushed(make_node, memory_dir, faults):
    node = make_node(data_dir=memory_dir)
    node.create(200, "8M")
    with faults.start(node, block_min=4096).connect(infos=()) as client:
        faults.set("flush error EIO 1")
        assert error_of(client, wire.CMD_WRITE, 100, 512, wire.FUA, b"f" * 512) == wire.EIO
        faults.set()
        assert error_of(client, wire.CMD_WRITE, 100, 512, wire.FUA, b"f" * 512) == 0


def test_flush_of_a_read_only_export_succeeds(node):
    node.create(200, "1M")
    file = node.volume_dir / "vm-200-disk-0.conf"
    file.write_text(file.read_text().replace("[volume]\n", "[volume]\nread_only = yes\n"))
    with node.start(200).connect() as client:
        client.flush()
