"""Requests that are not whole blocks: refused to clients that agreed to block sizes, done by
read-modify-write for all others (design 7.4)."""
import random

import pytest

from support import wire
from support.node import TOOLS, run, wait_until

BLOCK = 4096
SIZE = 64 << 20
modes = pytest.mark.parametrize("mode", ["simple", "structured", "extended"])
HISTORY = TOOLS / "nbd-history"
needs_history = pytest.mark.skipif(not HISTORY.exists(), reason="nbd-history is not built: needs libnbd-dev")


@pytest.fixture
def blocky(make_node, memory_dir, faults):
    """A gateway whose backend takes blocks of 4096 bytes only."""
    node = make_node(data_dir=memory_dir)
    node.create(200, "64M")
    gateway = faults.start(node, block_min=BLOCK)
    yield gateway
    assert gateway.is_running(), gateway.log


@pytest.fixture
def direct(gateway):
    """A gateway that uses O_DIRECT."""
    mode = gateway.volume_status()["file"]["mode"]
    if mode != "direct":
        pytest.skip(f"needs a temporary directory on a file system with O_DIRECT, here the mode is {mode}")
    return gateway


# Clients that agreed

def test_smallest_block_is_told_to_clients_that_ask(blocky):
    with blocky.connect() as client:
        assert client.block_sizes() == (BLOCK, 64 << 10, 32 << 20)
    with blocky.connect(infos=()) as client:
        assert client.block_sizes() == (1, 64 << 10, 32 << 20)


def test_block_size_of_a_direct_file_is_that_of_its_device(direct):
    with direct.connect() as client:
        minimum = client.block_sizes()[0]
        assert minimum in (512, 1024, 2048, 4096)
        assert client.request(wire.CMD_READ, 0, minimum).error == 0
        assert client.request(wire.CMD_READ, minimum // 2, minimum).error == wire.EINVAL


@modes
def test_client_that_agreed_gets_einval_for_parts_of_blocks(blocky, mode):
    with blocky.session(mode) as client:
        for offset, length in ((1, BLOCK), (0, BLOCK - 1), (0, 1), (512, 512), (BLOCK, BLOCK + 512)):
            for kind in (wire.CMD_READ, wire.CMD_WRITE, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES, wire.CMD_CACHE):
                payload = b"n" * length if kind == wire.CMD_WRITE else b""
                flags = wire.PAYLOAD_LEN if payload and client.extended else 0
                reply = client.request(kind, offset, length, flags, payload)
                assert reply.error == wire.EINVAL
                assert "block size" in reply.text or mode == "simple"
        client.write(BLOCK, b"w" * BLOCK)
        assert client.read(0, 3 * BLOCK) == bytes(BLOCK) + b"w" * BLOCK + bytes(BLOCK)


# Clients that did not

@modes
def test_any_request_is_done_for_a_client_that_did_not_agree(blocky, mode):
    """Random requests of all kinds against a model."""
    rng, model = random.Random(11), bytearray(1 << 20)
    with blocky.session(mode, infos=()) as client:
        for number in range(400):
            offset = rng.randrange(len(model))
            if rng.random() < 0.3:
                offset = offset // BLOCK * BLOCK
            length = min(rng.choice((1, 7, 511, 512, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 70000)),
                         len(model) - offset)
            kind = rng.choice((wire.CMD_WRITE, wire.CMD_WRITE, wire.CMD_READ, wire.CMD_WRITE_ZEROES,
                               wire.CMD_CACHE))
            if kind == wire.CMD_WRITE:
                data = rng.randbytes(length)
                client.write(offset, data, rng.choice((0, 0, wire.FUA)))
                model[offset:offset + length] = data
            elif kind == wire.CMD_READ:
                assert client.read(offset, length) == model[offset:offset + length], number
            elif kind == wire.CMD_WRITE_ZEROES:
                flags = rng.choice((0, wire.NO_HOLE, wire.FUA))
                assert client.request(kind, offset, length, flags).error == 0
                model[offset:offset + length] = bytes(length)
            else:
                assert client.request(kind, offset, length).error == 0
        assert client.read(0, len(model)) == model


@pytest.mark.parametrize("offset, length", [
    (1, 1), (0, 4095), (4095, 2), (100, 8192), (4096, 4097), (8191, 4098), (5, (32 << 20) - 5), (1, 32 << 20),
    (SIZE - 1, 1), (SIZE - 5000, 5000)])
def test_part_of_a_block_leaves_the_rest(blocky, offset, length):
    with blocky.connect(infos=()) as client:
        first, end = offset // BLOCK * BLOCK, -(-(offset + length) // BLOCK) * BLOCK
        for at in range(first, end, 16 << 20):
            client.write(at, b"s" * min(16 << 20, end - at))
        client.write(offset, b"w" * length)
        head = client.read(first, offset - first + 1)
        assert head == b"s" * (offset - first) + b"w"
        tail = client.read(offset + length - 1, end - offset - length + 1)
        assert tail == b"w" + b"s" * (end - offset - length)


def test_unaligned_trim_keeps_parts_of_blocks(blocky):
    with blocky.connect(infos=()) as client:
        client.write(0, b"t" * 5 * BLOCK)
        assert client.request(wire.CMD_TRIM, 100, 3 * BLOCK).error == 0
        assert client.read(0, 5 * BLOCK) == b"t" * BLOCK + bytes(2 * BLOCK) + b"t" * 2 * BLOCK
        client.write(0, b"t" * BLOCK)
        assert client.request(wire.CMD_TRIM, 1, BLOCK - 2).error == 0
        assert client.read(0, BLOCK) == b"t" * BLOCK


@pytest.mark.parametrize("flags", [0, wire.NO_HOLE, wire.FUA, wire.FAST_ZERO])
@pytest.mark.parametrize("offset, length", [(1, 1), (100, BLOCK), (100, 3 * BLOCK), (0, BLOCK + 1),
                                            (BLOCK - 1, BLOCK + 1), (BLOCK - 1, 2 * BLOCK + 2)])
def test_unaligned_zeroes_reach_every_byte_and_no_more(blocky, offset, length, flags):
    with blocky.connect(infos=()) as client:
        client.write(0, b"z" * 5 * BLOCK)
        assert client.request(wire.CMD_WRITE_ZEROES, offset, length, flags).error == 0
        behind = 5 * BLOCK - offset - length
        assert client.read(0, 5 * BLOCK) == b"z" * offset + bytes(length) + b"z" * behind


@pytest.mark.parametrize("mode", ["structured", "extended"])
def test_unaligned_status_begins_where_it_was_asked(blocky, mode):
    with blocky.session(mode, infos=(), allocation=True) as client:
        client.write(BLOCK, b"s" * BLOCK)
        for offset, length, wanted in (
                (100, 100, [(100, 3)]), (BLOCK - 1, 2, [(1, 3), (1, 0)]),
                (BLOCK + 5, BLOCK, [(BLOCK - 5, 0), (5, 3)]),
                (0, 2 * BLOCK + 1, [(BLOCK, 3), (BLOCK, 0), (1, 3)]), (SIZE - 1, 1, [(1, 3)])):
            assert client.request(wire.CMD_BLOCK_STATUS, offset, length).extents == wanted
            assert client.request(wire.CMD_BLOCK_STATUS, offset, length, wire.REQ_ONE).extents == wanted[:1]


def test_unaligned_write_whose_blocks_cannot_be_read_fails(blocky, faults):
    with blocky.connect(infos=()) as client:
        client.write(0, b"k" * 3 * BLOCK)
        faults.set("read error EIO 1")
        assert client.request(wire.CMD_WRITE, 100, 100, 0, bytes(100)).error == wire.EIO
        client.write(BLOCK, b"o" * BLOCK)  # a whole block needs no read
        faults.set()
        assert client.read(0, 3 * BLOCK) == b"k" * BLOCK + b"o" * BLOCK + b"k" * BLOCK


# Atomic per block

def test_writers_of_parts_of_one_block_do_not_lose_each_others_bytes(blocky, faults):
    """Many at the same time, each with its own bytes; every read-modify-write takes a while."""
    faults.set("read late 0 3", "write late 0 3")
    clients = [blocky.connect(infos=()) for _ in range(4)]
    model = bytearray(4 * BLOCK)
    rng = random.Random(5)
    places = list(range(0, len(model), 128))
    rng.shuffle(places)
    for number, place in enumerate(places):
        data = rng.randbytes(128)
        clients[number % 4].send_request(wire.CMD_WRITE, place, 128, 0, data)
        model[place:place + 128] = data
    for client in clients:
        assert {reply.error for reply in client.read_replies(len(places) // 4).values()} == {0}
    assert clients[0].read(0, len(model)) == model
    for client in clients:
        client.close()


def test_writers_over_block_borders_and_whole_blocks(blocky, faults):
    """Overlapping chains: each waits for the one before it, and all end."""
    faults.set("read late 0 2", "write late 0 5")
    with blocky.connect(infos=()) as first, blocky.connect(infos=()) as second:
        for number in range(100):
            sender = (first, second)[number % 2]
            offset = (number % 7) * 1000
            length = (BLOCK, 100, 2 * BLOCK + 50, 5000)[number % 4]
            if number % 10 == 9:
                sender.send_request(wire.CMD_WRITE_ZEROES, offset, length)
            else:
                sender.send_request(wire.CMD_WRITE, offset, length, 0, bytes([number]) * length)
        for client in (first, second):
            assert {reply.error for reply in client.read_replies(50).values()} == {0}
        assert blocky.volume_status()["in_flight"] == 0


def test_write_that_waits_is_not_overtaken_by_a_later_one_on_its_blocks(blocky, faults):
    """Else those that come later could keep it waiting for ever."""
    with blocky.connect(infos=()) as client:
        faults.set("read delay 500 500")
        first = client.send_request(wire.CMD_WRITE, 100, 100, 0, b"1" * 100)
        wait_until(lambda: blocky.volume_status()["in_flight"] == 1, "the first reads its block")
        faults.set()
        second = client.send_request(wire.CMD_WRITE, 50, BLOCK, 0, b"2" * BLOCK)
        third = client.send_request(wire.CMD_WRITE, BLOCK + 10, 100, 0, b"3" * 100)
        assert [client.read_reply()[0] for _ in range(3)] == [first, second, third]
        assert client.read(0, 2 * BLOCK)[:BLOCK + 110] == (
            bytes(50) + b"2" * (BLOCK - 40) + b"3" * 100)


def test_unaligned_writers_on_a_direct_file(direct):
    with direct.connect(infos=()) as one, direct.connect(infos=()) as other:
        model, rng = bytearray(16384), random.Random(9)
        for _ in range(4):
            for place in range(0, len(model), 64):
                data = rng.randbytes(64)
                (one, other)[place // 64 % 2].send_request(wire.CMD_WRITE, place, 64, 0, data)
                model[place:place + 64] = data
            for client in (one, other):
                assert {reply.error for reply in client.read_replies(128).values()} == {0}
            assert one.read(0, len(model)) == model


def history(gateway, *arguments):
    return run(HISTORY, *arguments, gateway.socket, "", timeout=100)


@needs_history
def test_history_of_sectors_in_larger_blocks(blocky, faults):
    faults.set("read late 0 2", "write delay 0 2")
    line = history(blocky, "--no-block-size", "--align", "512", "--region", "256K", "--max", "16K",
                   "--connections", "4", "--depth", "8", "--operations", "6000", "--seed", "1")
    assert " 0 errors" in line and " 0 violations" in line


@needs_history
def test_history_of_sectors_in_larger_blocks_while_connections_break(blocky, faults):
    faults.set("read late 0 2", "write delay 0 3")
    line = history(blocky, "--no-block-size", "--align", "512", "--region", "256K", "--max", "16K",
                   "--connections", "4", "--depth", "8", "--operations", "4000", "--cut", "100",
                   "--seed", "2")
    assert " 0 violations" in line


# Memory, fence

def test_largest_unaligned_request_fits_the_smallest_budget(make_node, memory_dir, faults):
    """None may wait for memory that it can never have."""
    node = make_node(data_dir=memory_dir, settings="[nbd]\nmemory = 64M\nconnection_memory = 32M")
    node.create(200, "64M")
    with faults.start(node, block_min=BLOCK).connect(infos=()) as client:
        for length in ((8 << 20) + 1, (16 << 20) - BLOCK, (16 << 20) - 1, 16 << 20, (16 << 20) + 1,
                       (32 << 20) - 1, 32 << 20):
            assert client.request(wire.CMD_READ, 1, length).error == 0


def test_fence_stops_a_write_that_has_only_read_its_block(blocky, faults):
    """Nothing more is sent to the backend of a fenced export (export.h, invariant 5)."""
    with blocky.connect(infos=()) as client:
        client.write(0, b"before" * 1000)
        faults.set("read hang")
        client.send_request(wire.CMD_WRITE, 100, 100, 0, b"after!" * 16 + b"afte")
        wait_until(lambda: blocky.volume_status()["in_flight"] == 1, "the write waits for its block")
        blocky.node.tb4("claim", "force", "vm-200-disk-0", "--yes")
        blocky.wait_for("fenced")
        faults.set()
        assert client.read_reply()[1].error == wire.EIO
    assert blocky.node.image().read_bytes()[:6000] == b"before" * 1000
