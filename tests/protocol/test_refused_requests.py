"""Requests that are wrong: each is refused with the right error, and the session goes on."""
import struct

import pytest

from support import wire

SIZE = 64 << 20
modes = pytest.mark.parametrize("mode", ["simple", "structured", "extended"])
COMMANDS = {"read": wire.CMD_READ, "write": wire.CMD_WRITE, "trim": wire.CMD_TRIM, "cache": wire.CMD_CACHE,
            "write_zeroes": wire.CMD_WRITE_ZEROES, "block_status": wire.CMD_BLOCK_STATUS}
commands = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def client(shared, mode):
    with shared.session(mode, allocation=mode != "simple") as client:
        client.write(0, b"kept" * 1024)
        yield client
        assert client.read(0, 4096) == b"kept" * 1024


def refuse(client, kind, offset=0, length=0, flags=0, payload=b""):
    """The error of a request that must fail; in structured replies a sentence comes with it."""
    if client.extended and kind == wire.CMD_WRITE:
        flags |= wire.PAYLOAD_LEN
    reply = client.request(kind, offset, length, flags, payload)
    assert reply.error != 0
    assert bool(reply.text) == client.structured
    return reply.error


def skip_status_in_simple_mode(client, command):
    if command == "block_status" and not client.structured:
        assert refuse(client, wire.CMD_BLOCK_STATUS, 0, 512) == wire.EINVAL
        return True
    return False


@modes
@pytest.mark.parametrize("kind", [8, 9, 100, 0x7FFF, 0xFFFF])
def test_unknown_command(client, kind):
    assert refuse(client, kind, 0, 512) == wire.EINVAL
    assert refuse(client, kind, 0, 0) == wire.EINVAL


@modes
@commands
@pytest.mark.parametrize("flag", [1 << 6, 1 << 7, 1 << 15])
def test_unknown_flag(client, command, flag):
    payload = b"n" * 512 if command == "write" else b""
    assert refuse(client, COMMANDS[command], 0, 512, flag, payload) == wire.EINVAL


@modes
@pytest.mark.parametrize("command, flags", [
    ("read", [wire.NO_HOLE, wire.REQ_ONE, wire.FAST_ZERO]),
    ("write", [wire.NO_HOLE, wire.DF, wire.REQ_ONE, wire.FAST_ZERO]),
    ("trim", [wire.NO_HOLE, wire.DF, wire.REQ_ONE, wire.FAST_ZERO]),
    ("cache", [wire.NO_HOLE, wire.DF, wire.REQ_ONE, wire.FAST_ZERO]),
    ("write_zeroes", [wire.DF, wire.REQ_ONE]),
    ("block_status", [wire.NO_HOLE, wire.DF, wire.FAST_ZERO])])
def test_flag_of_another_command(client, command, flags):
    payload = b"n" * 512 if command == "write" else b""
    for flag in flags:
        assert refuse(client, COMMANDS[command], 0, 512, flag, payload) == wire.EINVAL


@pytest.mark.parametrize("mode", ["simple"])
def test_df_needs_structured_replies(client):
    assert refuse(client, wire.CMD_READ, 0, 512, wire.DF) == wire.EINVAL


@pytest.mark.parametrize("mode", ["simple", "structured"])
@commands
def test_payload_flag_needs_extended_headers(client, command):
    payload = b"n" * 512 if command == "write" else b""
    assert refuse(client, COMMANDS[command], 0, 512, wire.PAYLOAD_LEN, payload) == wire.EINVAL


@pytest.mark.parametrize("mode", ["extended"])
@pytest.mark.parametrize("kind", [wire.CMD_READ, wire.CMD_FLUSH, wire.CMD_TRIM, wire.CMD_CACHE,
                                  wire.CMD_WRITE_ZEROES, 77])
@pytest.mark.parametrize("length", [1, 4096, 300000])
def test_payload_that_a_command_does_not_have_is_thrown_away(client, kind, length):
    payload = (struct.pack(">I", wire.EXTENDED_REQUEST_MAGIC) * (length // 4 + 1))[:length]
    assert refuse(client, kind, 0, length, wire.PAYLOAD_LEN, payload) == wire.EINVAL


@modes
@commands
def test_length_of_zero(client, command):
    if not skip_status_in_simple_mode(client, command):
        assert refuse(client, COMMANDS[command], 4096, 0) == wire.EINVAL


@modes
@commands
@pytest.mark.parametrize("offset, length", [
    (SIZE, 1), (SIZE - 1, 2), (SIZE - 511, 512), (SIZE + (1 << 20), 512), (SIZE - 512, 32 << 20),
    (1 << 62, 512), ((1 << 63) - 512, 512), ((1 << 63) - 1, 1), (1 << 63, 512), ((1 << 64) - 512, 512),
    ((1 << 64) - 512, 1024), ((1 << 64) - 1, 1), ((1 << 64) - 4096, 8192)])
def test_range_beyond_the_end(client, command, offset, length):
    if skip_status_in_simple_mode(client, command):
        return
    if command == "write" and length > 4096:
        length = 4096
    wanted = wire.ENOSPC if command in ("write", "write_zeroes") else wire.EINVAL
    payload = b"n" * length if command == "write" else b""
    assert refuse(client, COMMANDS[command], offset, length, 0, payload) == wanted


@pytest.mark.parametrize("mode", ["extended"])
@pytest.mark.parametrize("command", ["read", "trim", "cache", "write_zeroes", "block_status"])
@pytest.mark.parametrize("offset, length", [
    (0, SIZE + 1), (0, 1 << 32), (4096, (1 << 32) + 4096), (0, 1 << 63), (512, (1 << 64) - 512),
    (512, (1 << 64) - 1), (0, (1 << 64) - 1), ((1 << 63), 1 << 63), ((1 << 64) - 1, (1 << 64) - 1)])
def test_64_bit_range_beyond_the_end(client, command, offset, length):
    wanted = wire.ENOSPC if command == "write_zeroes" else wire.EINVAL
    assert refuse(client, COMMANDS[command], offset, length) == wanted


@modes
@pytest.mark.parametrize("offset, length", [(1, 0), (0, 1), (0, 4096), (1 << 63, 0)])
def test_flush_has_no_range(client, offset, length):
    assert refuse(client, wire.CMD_FLUSH, offset, length) == wire.EINVAL


@modes
@pytest.mark.parametrize("length", [(32 << 20) + 1, (32 << 20) + 512, 33 << 20, 60 << 20])
def test_read_of_more_than_32_mib(client, length):
    assert refuse(client, wire.CMD_READ, 0, length) == wire.EINVAL


@modes
@pytest.mark.parametrize("length", [(32 << 20) + 1, 64 << 20])
def test_write_of_more_than_32_mib_is_thrown_away(client, length):
    assert refuse(client, wire.CMD_WRITE, 0, length, 0, bytes(length)) == wire.EINVAL


@modes
def test_payload_of_a_refused_write_is_thrown_away(client):
    """Whatever it looks like, no byte of it is taken for a request."""
    request = struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, wire.CMD_DISC, 5, 0, 0)
    for length in (1, 27, 28, 4096, 262144 - 28, 262144, 262145, 3 << 20):
        payload = (request * (length // len(request) + 1))[:length]
        assert refuse(client, wire.CMD_WRITE, SIZE, length, 0, payload) == wire.ENOSPC


@modes
def test_refused_requests_among_good_ones(client):
    """Pipelined; each gets its own answer."""
    wanted = {}
    flags = wire.PAYLOAD_LEN if client.extended else 0
    for number in range(100):
        block = 4096 + number * 512
        wanted[client.send_request(wire.CMD_WRITE, block, 512, flags, bytes([number]) * 512)] = 0
        wanted[client.send_request(wire.CMD_WRITE, SIZE, 512, flags, bytes(512))] = wire.ENOSPC
        wanted[client.send_request(50 + number, 0, 512)] = wire.EINVAL
        wanted[client.send_request(wire.CMD_READ, SIZE - 100, 512)] = wire.EINVAL
    assert {cookie: reply.error for cookie, reply in client.read_replies(400).items()} == wanted
    for number in range(100):
        assert client.read(4096 + number * 512, 512) == bytes([number]) * 512


@modes
@pytest.mark.parametrize("length", [(64 << 20) + 1, (1 << 32) - 1])
def test_huge_payload_closes_before_it_comes(shared, mode, length):
    with shared.session(mode) as client:
        client.send_request(wire.CMD_WRITE, 0, length, wire.PAYLOAD_LEN if client.extended else 0)
        assert client.is_closed()


@pytest.mark.parametrize("length", [1 << 32, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("kind", [wire.CMD_WRITE, wire.CMD_READ, wire.CMD_BLOCK_STATUS, 99])
def test_huge_payload_of_64_bits_closes(shared, kind, length):
    with shared.session("extended", allocation=True) as client:
        client.send_request(kind, 0, length, wire.PAYLOAD_LEN)
        assert client.is_closed()


@modes
@pytest.mark.parametrize("magic", [0, 0x25609514, 0x13956025, 0x67446698, 0xFFFFFFFF])
def test_wrong_magic_closes_and_nothing_behind_it_is_done(shared, mode, magic):
    with shared.session(mode) as client, shared.session() as other:
        other.write(8192, b"o" * 512)
        client.send(struct.pack(">I", magic) + bytes(28 if client.extended else 24))
        flags = wire.PAYLOAD_LEN if client.extended else 0
        try:
            client.send_request(wire.CMD_WRITE, 8192, 512, flags, b"n" * 512)
        except OSError:
            pass  # already closed
        assert client.is_closed()
        assert other.read(8192, 512) == b"o" * 512


# Read-only exports

@pytest.fixture
def read_only(node):
    node.create(200, "4M")
    node.image().write_bytes(b"fixed" * 100 + bytes((4 << 20) - 500))
    file = node.volume_dir / "vm-200-disk-0.conf"
    file.write_text(file.read_text().replace("[volume]\n", "[volume]\nread_only = yes\n"))
    return node.start(200)


@modes
def test_read_only_export_refuses_every_change(read_only, mode):
    with read_only.session(mode) as client:
        assert client.flags & wire.FLAG_READ_ONLY
        for kind, payload in ((wire.CMD_WRITE, b"n" * 512), (wire.CMD_TRIM, b""),
                              (wire.CMD_WRITE_ZEROES, b"")):
            assert refuse(client, kind, 0, 512, 0, payload) == wire.EPERM
        assert client.read(0, 512)[:500] == b"fixed" * 100
        client.flush()


# Error text

def test_error_text_says_why(shared):
    with shared.session("structured") as client:
        for kind, offset, length, text in (
                (wire.CMD_READ, SIZE, 512, "beyond the end"), (wire.CMD_READ, 0, 0, "zero"),
                (wire.CMD_READ, 0, 40 << 20, "32 MiB"), (200, 0, 512, "unknown command"),
                (wire.CMD_BLOCK_STATUS, 0, 512, "not available")):
            assert text in client.request(kind, offset, length).text


def test_error_text_names_export_and_backend(node, faults):
    node.create(200, "1M")
    gateway = faults.start(node)
    faults.set("read error EIO 1", "write error ENOSPC 1", "flush error ETIMEDOUT 1", "trim error EPERM 1",
               "zero error ENOMEM 1", "cache error ESHUTDOWN 1", "status error EIO 1")
    with gateway.session("structured", allocation=True) as client:
        for kind, length, payload, error, text in (
                (wire.CMD_READ, 512, b"", wire.EIO, "Input/output error"),
                (wire.CMD_WRITE, 512, bytes(512), wire.ENOSPC, "No space left on device"),
                (wire.CMD_FLUSH, 0, b"", wire.EIO, "Connection timed out"),
                (wire.CMD_TRIM, 4096, b"", wire.EPERM, "Operation not permitted"),
                (wire.CMD_WRITE_ZEROES, 4096, b"", wire.ENOMEM, "Cannot allocate memory"),
                (wire.CMD_CACHE, 512, b"", wire.EIO, "Cannot send after transport endpoint shutdown"),
                (wire.CMD_BLOCK_STATUS, 512, b"", wire.EIO, "Input/output error")):
            reply = client.request(kind, 0, length, 0, payload)
            assert (reply.error, reply.text) == (error, f"vm-200-disk-0: file: {text}")
        faults.set()
        assert client.read(0, 512) == bytes(512)
