"""Every command with the data it should have, in simple, structured and extended mode."""
import os
import random
import struct

import pytest

from support import wire
from support.node import wait_until
from support.wire import Closed

SIZE = 64 << 20
modes = pytest.mark.parametrize("mode", ["simple", "structured", "extended"])
reply_modes = pytest.mark.parametrize("mode", ["structured", "extended"])


@pytest.fixture
def client(shared, mode):
    with shared.session(mode) as client:
        yield client


def pattern(length, seed=1):
    return random.Random(seed).randbytes(length)


def allocated(gateway):
    return os.stat(gateway.node.image()).st_blocks * 512


# READ and WRITE

@modes
@pytest.mark.parametrize("offset, length", [
    (0, 1), (1, 1), (511, 2), (512, 512), (4095, 4098), (100001, 65535), (1 << 20, 1 << 20),
    ((1 << 20) + 7, (1 << 20) + 1), (3, (32 << 20) - 3), (8 << 20, 32 << 20),
    (SIZE - 1, 1), (SIZE - 4096, 4096), (SIZE - (32 << 20), 32 << 20)])
def test_what_is_written_is_read(client, offset, length):
    data = pattern(length, offset)
    client.write(offset, data)
    assert client.read(offset, length) == data


@modes
def test_neighbours_of_a_write_stay(client):
    client.write(1 << 20, b"-" * 3000)
    client.write((1 << 20) + 1000, b"+" * 1000)
    assert client.read(1 << 20, 3000) == b"-" * 1000 + b"+" * 1000 + b"-" * 1000


@modes
def test_every_command_may_have_fua(client):
    for kind, length, payload in ((wire.CMD_WRITE, 512, b"f" * 512), (wire.CMD_READ, 512, b""),
                                  (wire.CMD_TRIM, 4096, b""), (wire.CMD_WRITE_ZEROES, 4096, b""),
                                  (wire.CMD_CACHE, 512, b""), (wire.CMD_FLUSH, 0, b"")):
        flags = wire.FUA | (wire.PAYLOAD_LEN if payload and client.extended else 0)
        assert client.request(kind, 0, length, flags, payload).error == 0


@modes
def test_sessions_see_each_others_writes(shared, client):
    with shared.session("simple") as other:
        for value in range(20):
            client.write(5 << 20, bytes([value]) * 4096)
            assert other.read(5 << 20, 4096) == bytes([value]) * 4096


@modes
def test_cookies_are_opaque(client):
    cookies = [0, 1, 1 << 63, (1 << 64) - 1, 0x6744669825609513]
    for cookie in cookies:
        client.send_request(wire.CMD_READ, 0, 512, cookie=cookie)
    assert sorted(client.read_replies(len(cookies))) == sorted(cookies)


@modes
def test_hundreds_of_requests_in_one_write(client):
    """Each is answered once, whatever the order."""
    count, base = 600, 10 << 20
    data = b""
    for number in range(count):
        kind = (wire.CMD_WRITE, wire.CMD_READ, wire.CMD_FLUSH)[number % 3]
        offset, length = (0, 0) if kind == wire.CMD_FLUSH else (base + number * 512, 512)
        flags = wire.PAYLOAD_LEN if client.extended and kind == wire.CMD_WRITE else 0
        if client.extended:
            header = struct.pack(">IHHQQQ", wire.EXTENDED_REQUEST_MAGIC, flags, kind, number, offset, length)
        else:
            header = struct.pack(">IHHQQI", wire.REQUEST_MAGIC, flags, kind, number, offset, length)
        data += header + (struct.pack(">Q", number) * 64 if kind == wire.CMD_WRITE else b"")
        client.pending[number] = (kind, offset, length)
    client.send(data)
    assert {reply.error for reply in client.read_replies(count).values()} == {0}
    for number in range(0, count, 3):
        assert client.read(base + number * 512, 512) == struct.pack(">Q", number) * 64


@modes
def test_request_in_single_bytes(client):
    client.write(0, b"before" * 100)
    client.cookie += 1
    if client.extended:
        header = struct.pack(">IHHQQQ", wire.EXTENDED_REQUEST_MAGIC, wire.PAYLOAD_LEN, wire.CMD_WRITE,
                             client.cookie, 7, 100)
    else:
        header = struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, wire.CMD_WRITE, client.cookie, 7, 100)
    client.pending[client.cookie] = (wire.CMD_WRITE, 7, 100)
    for byte in header + b"x" * 100:
        client.send(bytes([byte]))
    assert client.read_reply()[1].error == 0
    assert client.read(0, 120) == (b"before" * 2)[:7] + b"x" * 100 + (b"before" * 30)[107:120]


@modes
def test_large_writes_arrive_whole_among_small_ones(client):
    """Payloads behind each other that begin and end anywhere in the receive buffer."""
    model, rng = bytearray(8 << 20), random.Random(7)
    client.write(0, bytes(8 << 20))
    for _ in range(12):
        sent = 0
        for _ in range(10):
            length = rng.choice((1, 600, 4096, 65536, 65537, 262144, 1 << 20))
            offset = rng.randrange(len(model) - length)
            data = rng.randbytes(length)
            client.send_request(wire.CMD_WRITE, offset, length,
                                wire.PAYLOAD_LEN if client.extended else 0, data)
            sent += 1
            client.send_request(wire.CMD_READ, 0, 1)
            model[offset:offset + length] = data
            client.send_request(wire.CMD_FLUSH)
            assert {reply.error for reply in client.read_replies(3).values()} == {0}
    assert client.read(0, len(model)) == model


# READ: chunks and holes

@reply_modes
def test_structured_read_is_data_with_its_offset(client):
    client.write(9000, b"structured")
    reply = client.request(wire.CMD_READ, 9000, 10)
    assert reply.chunks == [(wire.TYPE_DATA, struct.pack(">Q", 9000) + b"structured")]


@reply_modes
@pytest.mark.parametrize("flags, kinds", [(0, [wire.TYPE_HOLE]), (wire.DF, [wire.TYPE_DATA])],
                         ids=["free", "in one piece"])
def test_long_read_of_nothing_is_a_hole_unless_it_may_not_be_in_pieces(client, flags, kinds):
    assert client.request(wire.CMD_TRIM, 40 << 20, 2 << 20).error == 0
    reply = client.request(wire.CMD_READ, 40 << 20, 2 << 20, flags)
    assert [kind for kind, _ in reply.chunks] == kinds
    assert reply.data == bytes(2 << 20)


@reply_modes
@pytest.mark.parametrize("flags, kinds", [(0, {wire.TYPE_HOLE, wire.TYPE_DATA}), (wire.DF, {wire.TYPE_DATA})],
                         ids=["free", "in one piece"])
@pytest.mark.parametrize("length", [64 << 10, 1 << 20, (2 << 20) + 512])
def test_read_of_a_hole_and_data_gives_both(client, flags, kinds, length):
    assert client.request(wire.CMD_TRIM, 40 << 20, 4 << 20).error == 0
    end = (40 << 20) + length // 2 // 4096 * 4096
    client.write(end, b"data" * 1024)
    reply = client.request(wire.CMD_READ, 40 << 20, length, flags)
    assert {kind for kind, _ in reply.chunks} == kinds
    assert reply.data == client.read(40 << 20, end - (40 << 20)) + b"data" * 1024 + bytes(
        (40 << 20) + length - end - 4096)


@reply_modes
def test_short_read_of_nothing_is_data(client):
    assert client.request(wire.CMD_TRIM, 40 << 20, 1 << 20).error == 0
    reply = client.request(wire.CMD_READ, 40 << 20, 32 << 10)
    assert [kind for kind, _ in reply.chunks] == [wire.TYPE_DATA]


# TRIM, WRITE_ZEROES, CACHE, FLUSH

@modes
def test_zeroes_without_further_flags_make_a_hole(shared, client):
    client.write(16 << 20, pattern(4 << 20))
    before = allocated(shared)
    assert client.request(wire.CMD_WRITE_ZEROES, 16 << 20, 4 << 20).error == 0
    assert client.read(16 << 20, 4 << 20) == bytes(4 << 20)
    assert allocated(shared) <= before - (4 << 20)


@modes
def test_zeroes_with_no_hole_keep_the_space(shared, client):
    assert client.request(wire.CMD_WRITE_ZEROES, 16 << 20, 4 << 20).error == 0
    before = allocated(shared)
    assert client.request(wire.CMD_WRITE_ZEROES, 16 << 20, 4 << 20, wire.NO_HOLE).error == 0
    assert allocated(shared) >= before + (4 << 20)
    assert client.read(16 << 20, 4 << 20) == bytes(4 << 20)


@modes
def test_fast_zero_is_zero_or_refused_and_then_nothing_has_changed(client):
    data = pattern(1 << 20)
    for flags in (wire.FAST_ZERO, wire.FAST_ZERO | wire.NO_HOLE):
        client.write(16 << 20, data)
        reply = client.request(wire.CMD_WRITE_ZEROES, 16 << 20, 1 << 20, flags)
        assert reply.error in (0, wire.ENOTSUP)
        assert client.read(16 << 20, 1 << 20) == (data if reply.error else bytes(1 << 20))


@modes
def test_trim_leaves_its_neighbours(client):
    client.write(16 << 20, b"t" * (3 << 20))
    assert client.request(wire.CMD_TRIM, 17 << 20, 1 << 20).error == 0
    assert client.read(16 << 20, 1 << 20) == b"t" * (1 << 20)
    assert client.read(17 << 20, 1 << 20) == bytes(1 << 20)
    assert client.read(18 << 20, 1 << 20) == b"t" * (1 << 20)


@modes
def test_commands_without_payload_may_be_longer_than_one(client):
    for kind in (wire.CMD_TRIM, wire.CMD_WRITE_ZEROES, wire.CMD_CACHE):
        assert client.request(kind, 0, SIZE).error == 0
    assert client.read(0, 1 << 20) == bytes(1 << 20)


# Ending

@modes
def test_disc_behind_requests_answers_them_first(client):
    for number in range(50):
        client.send_request(wire.CMD_WRITE, number * 512, 512, wire.PAYLOAD_LEN if client.extended else 0,
                            bytes([number]) * 512)
    client.send_request(wire.CMD_DISC)
    assert {reply.error for reply in client.read_replies(50).values()} == {0}
    assert client.is_closed()


def test_disc_waits_for_what_the_backend_still_does(node, faults):
    node.create(200, "1M")
    gateway = faults.start(node)
    faults.set("read late 200 200", "write delay 300 300")
    with gateway.connect() as client:
        for number in range(10):
            client.send_request(wire.CMD_WRITE if number % 2 else wire.CMD_READ, 512 * number, 512,
                                payload=b"d" * 512 if number % 2 else b"")
        client.send_request(wire.CMD_DISC)
        assert {reply.error for reply in client.read_replies(10).values()} == {0}
        assert client.is_closed()


@modes
def test_requests_behind_disc_are_not_done(shared, client):
    client.write(0, b"o" * 512)
    flags = wire.PAYLOAD_LEN if client.extended else 0
    size = "Q" if client.extended else "I"
    magic = wire.EXTENDED_REQUEST_MAGIC if client.extended else wire.REQUEST_MAGIC
    client.send(struct.pack(">IHHQQ" + size, magic, 0, wire.CMD_DISC, 1, 0, 0) +
                struct.pack(">IHHQQ" + size, magic, flags, wire.CMD_WRITE, 2, 0, 512) + b"n" * 512)
    assert client.is_closed()
    with shared.session() as other:
        assert other.read(0, 512) == b"o" * 512


@modes
def test_client_that_stops_sending_without_disc_is_let_go(shared, mode):
    with shared.session(mode) as client:
        client.write(0, b"h" * 512)
        client.half_close()
        assert client.is_closed()


@modes
def test_abrupt_disconnect_costs_nobody_else(shared, client):
    for _ in range(20):
        other = shared.session("simple")
        for number in range(30):
            other.send_request(wire.CMD_READ, number << 20, 1 << 20)
        other.close()
    client.write(0, b"still here" * 10)
    assert client.read(0, 100) == b"still here" * 10
    wait_until(lambda: shared.status()["nbd"]["connections"] == 1, "the others are gone")


@modes
def test_client_that_leaves_in_a_payload_changes_nothing(shared, mode):
    with shared.session() as other:
        other.write(0, b"w" * 4096)
        with shared.session(mode) as client:
            flags = wire.PAYLOAD_LEN if client.extended else 0
            client.send_request(wire.CMD_WRITE, 0, 4096, flags, b"p" * 4095)
        wait_until(lambda: shared.status()["nbd"]["connections"] == 1, "the client is gone")
        assert other.read(0, 4096) == b"w" * 4096


def test_magic_of_the_other_mode_closes(shared):
    for mode, magic in (("simple", wire.EXTENDED_REQUEST_MAGIC), ("structured", wire.EXTENDED_REQUEST_MAGIC),
                        ("extended", wire.REQUEST_MAGIC)):
        with shared.session(mode) as client:
            client.send_request(wire.CMD_READ, 0, 512, magic=magic)
            with pytest.raises(Closed):
                client.read_reply()


# 64-bit lengths

@pytest.fixture
def wide(make_node, memory_dir):
    """A client with extended headers of a sparse export of 6 GiB."""
    node = make_node(data_dir=memory_dir)
    node.create(200, "6G")
    gateway = node.start(200)
    with gateway.session("extended", allocation=True) as client:
        client.gateway = gateway
        yield client


@pytest.mark.parametrize("kind", [wire.CMD_TRIM, wire.CMD_WRITE_ZEROES])
def test_one_command_reaches_beyond_4_gib(wide, kind):
    places = (0, (1 << 32) - 4096, 1 << 32, (5 << 30) - 4096, (6 << 30) - 4096)
    for place in places:
        wide.write(place, b"!" * 4096)
    assert wide.request(kind, 0, 5 << 30).error == 0
    for place in places[:-1]:
        assert wide.read(place, 4096) == bytes(4096)
    assert wide.read(places[-1], 4096) == b"!" * 4096
    assert allocated(wide.gateway) == 4096


def test_cache_of_more_than_4_gib(wide):
    assert wide.request(wire.CMD_CACHE, 0, 6 << 30).error == 0


def test_status_of_more_than_4_gib_is_one_extent(wide):
    assert wide.request(wire.CMD_BLOCK_STATUS, 0, 6 << 30).extents == [(6 << 30, 3)]
    wide.write(5 << 30, b"!" * 4096)
    assert wide.request(wire.CMD_BLOCK_STATUS, 0, 6 << 30).extents == [
        (5 << 30, 3), (4096, 0), ((1 << 30) - 4096, 3)]


def test_long_request_is_not_cut_to_32_bits(wide):
    """A length whose low half is valid by itself."""
    for kind in (wire.CMD_READ, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES, wire.CMD_CACHE, wire.CMD_BLOCK_STATUS):
        assert wide.request(kind, 0, (1 << 40) + 4096).error in (wire.EINVAL, wire.ENOSPC)
