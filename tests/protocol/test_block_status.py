"""BLOCK_STATUS: what is data and what is a hole."""
import random
import struct

import pytest

from support import wire

SIZE = 64 << 20
HOLE, DATA = 3, 0
reply_modes = pytest.mark.parametrize("mode", ["structured", "extended"])


@pytest.fixture
def client(shared, mode):
    """An export that is one hole."""
    with shared.session(mode, allocation=True) as client:
        assert client.request(wire.CMD_TRIM, 0, SIZE).error == 0
        yield client


def status(client, offset, length, flags=0):
    """The extents, after the checks that hold for every reply."""
    reply = client.request(wire.CMD_BLOCK_STATUS, offset, length, flags)
    assert reply.error == 0, reply.text
    assert len(reply.chunks) == 1 and reply.extents
    assert all(extent[0] > 0 for extent in reply.extents)
    assert sum(extent[0] for extent in reply.extents) <= length
    assert all(a[1] != b[1] for a, b in zip(reply.extents, reply.extents[1:]))
    if flags & wire.REQ_ONE:
        assert len(reply.extents) == 1
    return reply.extents


def status_of_all(client, offset, length, flags=0):
    """As a client that goes on where the last reply ended; joined where they are alike."""
    extents, end = [], offset + length
    while offset < end:
        for size, state in status(client, offset, end - offset, flags):
            offset += size
            if extents and extents[-1][1] == state:
                extents[-1] = (extents[-1][0] + size, state)
            else:
                extents.append((size, state))
    return extents


@reply_modes
def test_nothing_written_is_one_hole(client):
    assert status(client, 0, SIZE) == [(SIZE, HOLE)]


@reply_modes
@pytest.mark.parametrize("flags", [0, wire.REQ_ONE], ids=["free", "one"])
def test_data_between_holes(client, flags):
    client.write(1 << 20, b"x" * 65536)
    client.write(5 << 20, b"x" * 4096)
    assert status_of_all(client, 0, SIZE, flags) == [
        (1 << 20, HOLE), (65536, DATA), ((4 << 20) - 65536, HOLE), (4096, DATA),
        (SIZE - (5 << 20) - 4096, HOLE)]


@reply_modes
def test_one_extent_is_no_longer_than_asked(client):
    for length in (512, 4096, 65536, SIZE):
        assert status(client, 0, length, wire.REQ_ONE) == [(length, HOLE)]
    client.write(0, b"x" * 8192)
    assert status(client, 0, 4096, wire.REQ_ONE) == [(4096, DATA)]


@reply_modes
@pytest.mark.parametrize("flags", [0, wire.REQ_ONE], ids=["free", "one"])
def test_more_extents_than_a_reply_holds(client, flags):
    """Every other page is data: 1,400 extents, in pieces that follow each other."""
    for number in range(700):
        client.send_request(wire.CMD_WRITE, number * 8192, 4096, wire.PAYLOAD_LEN if client.extended else 0,
                            b"x" * 4096)
    client.read_replies(700)
    length = 700 * 8192
    assert status_of_all(client, 0, length, flags) == [(4096, DATA), (4096, HOLE)] * 700
    first = status(client, 0, length)
    assert 2 <= len(first) <= 1 << 20
    # offsets at which the last extent of a full reply begins, ends, and is cut
    for offset in (0, 4096, 1, 4095):
        for extents in range(509, 516):
            for cut in (-1, 0, 1):
                found = status(client, offset, extents * 4096 + cut - offset % 4096)
                assert sum(size for size, _ in found) <= extents * 4096 + cut


@reply_modes
@pytest.mark.parametrize("offset, length", [
    (0, 1), (1, 1), (4095, 1), (4095, 2), (4097, 4094), (100, 1 << 20), (SIZE - 1, 1), (SIZE - 4097, 4097),
    (SIZE - 8192, 8192), (SIZE - 1000, 1000)])
def test_any_range_is_described_from_its_beginning(client, offset, length):
    client.write(4096, b"x" * 4096)
    client.write(SIZE - 4096, b"x" * 4096)
    wanted = []
    for begin, end, state in ((0, 4096, HOLE), (4096, 8192, DATA), (8192, SIZE - 4096, HOLE),
                              (SIZE - 4096, SIZE, DATA)):
        size = min(end, offset + length) - max(begin, offset)
        if size > 0:
            wanted.append((size, state))
    assert status_of_all(client, offset, length) == wanted
    assert status(client, offset, length, wire.REQ_ONE) == wanted[:1]


@reply_modes
def test_status_and_reads_agree(client):
    """Where status says zero, zeros are read; every byte that is not zero lies in data."""
    rng, model = random.Random(3), bytearray(4 << 20)
    for _ in range(60):
        offset, length = rng.randrange(4 << 20), rng.randrange(1, 100000)
        length = min(length, (4 << 20) - offset)
        if rng.random() < 0.6:
            data = rng.randbytes(length)
            client.write(offset, data)
        else:
            data = bytes(length)
            kind = rng.choice((wire.CMD_TRIM, wire.CMD_WRITE_ZEROES))
            assert client.request(kind, offset, length).error == 0
            data = client.read(offset, length)  # TRIM may keep what it likes
        model[offset:offset + length] = data
    offset = 0
    for size, state in status_of_all(client, 0, 4 << 20):
        assert client.read(offset, size) == model[offset:offset + size]
        if state & 2:
            assert not any(model[offset:offset + size])
        offset += size


@reply_modes
def test_status_of_a_file_on_disk(gateway, mode):
    """On a file system with O_DIRECT, if the temporary directory lies on one."""
    with gateway.session(mode, allocation=True) as client:
        client.write(1 << 20, b"x" * 65536)
        client.flush()
        assert status_of_all(client, 0, SIZE) == [
            (1 << 20, HOLE), (65536, DATA), (SIZE - (1 << 20) - 65536, HOLE)]


def test_a_session_without_a_context_has_no_status(shared):
    with shared.session("structured") as client:
        assert client.request(wire.CMD_BLOCK_STATUS, 0, 4096).error == wire.EINVAL


# The payload of BLOCK_STATUS: the contexts to describe

@pytest.fixture
def filtering(shared):
    with shared.session("extended", allocation=True) as client:
        assert client.request(wire.CMD_TRIM, 0, SIZE).error == 0
        yield client


def status_with_payload(client, payload, offset=0):
    return client.request(wire.CMD_BLOCK_STATUS, offset, len(payload), wire.PAYLOAD_LEN, payload)


def test_payload_names_the_context(filtering):
    filtering.write(8192, b"x" * 4096)
    reply = status_with_payload(filtering, struct.pack(">QI", 16384, 1), 4096)
    assert reply.error == 0 and reply.extents == [(4096, HOLE), (4096, DATA), (8192, HOLE)]


def test_payload_holds_the_length_of_64_bits(filtering):
    assert status_with_payload(filtering, struct.pack(">QI", SIZE, 1)).extents == [(SIZE, HOLE)]
    for length in (SIZE + 1, 1 << 32, (1 << 64) - 1, 0):
        assert status_with_payload(filtering, struct.pack(">QI", length, 1)).error == wire.EINVAL


@pytest.mark.parametrize("payload", [
    b"\0", bytes(7), struct.pack(">Q", 4096), struct.pack(">QH", 4096, 1), struct.pack(">QIB", 4096, 1, 0),
    struct.pack(">QI", 4096, 0), struct.pack(">QI", 4096, 2), struct.pack(">QII", 4096, 1, 2),
    struct.pack(">QII", 4096, 1, 1), struct.pack(">Q", 4096) + b"\0\0\0\1" * 1022,
    struct.pack(">Q", 4096) + b"\0\0\0\1" * 1023, struct.pack(">Q", 4096) + b"\0\0\0\1" * 100000], ids=[
        "one byte", "half a length", "no context", "half a context", "a byte too many", "context 0",
        "unknown context", "known and unknown", "twice", "largest that is read", "larger", "much larger"])
def test_wrong_payload_is_refused_and_the_session_goes_on(filtering, payload):
    reply = status_with_payload(filtering, payload)
    assert reply.error == wire.EINVAL and reply.text
    assert filtering.request(wire.CMD_BLOCK_STATUS, 0, 4096).extents == [(4096, HOLE)]


def test_payload_in_pieces(filtering):
    payload = struct.pack(">QI", 4096, 1)
    cookie = filtering.send_request(wire.CMD_BLOCK_STATUS, 0, 12, wire.PAYLOAD_LEN)
    for byte in payload:
        filtering.send(bytes([byte]))
    answered, reply = filtering.read_reply()
    assert answered == cookie and reply.extents == [(4096, HOLE)]


def test_payload_needs_a_context(shared):
    with shared.session("extended") as client:
        assert status_with_payload(client, struct.pack(">QI", 4096, 1)).error == wire.EINVAL
        assert len(client.read(0, 512)) == 512
