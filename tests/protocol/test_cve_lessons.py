"""Faults that other NBD programs had, tried on ours (anchors A.3). The name of each test ends with the CVE
that it remembers; those of pure clients are here as what our server must send or survive."""
import itertools
import os
import random
import signal
import struct

import pytest

from support import wire
from support.node import needs, run, wait_until
from support.wire import Closed

OPTIONS = {
    wire.OPT_LIST: b"", wire.OPT_STARTTLS: b"", wire.OPT_STRUCTURED_REPLY: b"",
    wire.OPT_EXTENDED_HEADERS: b"",
    wire.OPT_INFO: struct.pack(">IHH", 0, 1, 3),
    wire.OPT_LIST_META_CONTEXT: struct.pack(">II", 0, 0),
    wire.OPT_SET_META_CONTEXT: struct.pack(">III", 0, 1, 15) + b"base:allocation",
}


def test_options_before_go_reach_no_backend_2019_14850(make_node, memory_dir, faults):
    """A client that only haggles costs nothing: no request of any kind gets to the backend."""
    node = make_node(data_dir=memory_dir)
    node.create(200, "1M")
    gateway = faults.start(node)
    operations = ("read", "write", "flush", "trim", "zero", "cache", "status")
    faults.set(*(f"{operation} hang" for operation in operations))
    with gateway.client().greet() as client:
        for _ in range(100):
            for option, data in OPTIONS.items():
                client.option(option, data)
        status = gateway.volume_status()
        assert (status["in_flight"], status["connections"]) == (0, 0)
        assert gateway.status()["nbd"]["memory_used"] == 0
    faults.set()


@pytest.mark.parametrize("first", OPTIONS, ids=lambda option: f"option {option} first")
def test_options_in_every_order_2019_14851(shared, first):
    """No order of three options leads to a crash, and each may be followed by GO."""
    for others in itertools.permutations([option for option in OPTIONS if option != first], 2):
        with shared.client().greet() as client:
            for option in (first, *others, first):
                kind, _ = client.option(option, OPTIONS[option])
                if kind == wire.REP_ACK and option == wire.OPT_EXTENDED_HEADERS:
                    client.extended = client.structured = True
                if kind == wire.REP_ACK and option == wire.OPT_STRUCTURED_REPLY:
                    client.structured = True
            client.go()
            assert len(client.read(0, 512)) == 512


def test_plaintext_behind_starttls_is_no_part_of_another_state_2021_3716(shared):
    """TLS was refused, so what follows in the same write is answered in the open, in order, once."""
    with shared.client().greet() as client:
        for option in (wire.OPT_STARTTLS, wire.OPT_STRUCTURED_REPLY, wire.OPT_STARTTLS, wire.OPT_LIST):
            client.send_option(option)
        assert client.read_option_reply()[:2] == (wire.OPT_STARTTLS, wire.ERR_POLICY)
        assert client.read_option_reply()[:2] == (wire.OPT_STRUCTURED_REPLY, wire.REP_ACK)
        assert client.read_option_reply()[:2] == (wire.OPT_STARTTLS, wire.ERR_POLICY)
        assert [client.read_option_reply()[1] for _ in range(3)] == [
            wire.REP_SERVER, wire.REP_SERVER, wire.REP_ACK]
        client.structured = True
        assert client.go().request(wire.CMD_READ, 0, 512).chunks


@pytest.mark.parametrize("mode", ["structured", "extended"])
def test_extents_end_with_the_export_2025_47711(shared, mode):
    """None is empty, none reaches beyond, whatever range at the end is asked for."""
    size = 8 << 20
    with shared.session(mode, "vm-200-disk-1", allocation=True) as client:
        for last in (b"", b"x"):
            assert client.request(wire.CMD_TRIM, size - (1 << 20), 1 << 20).error == 0
            if last:
                client.write(size - 1, last)
            for length in (1, 2, 511, 512, 513, 4095, 4096, 4097, 65536, 1 << 20, size):
                for flags in (0, wire.REQ_ONE):
                    reply = client.request(wire.CMD_BLOCK_STATUS, size - length, length, flags)
                    assert reply.error == 0 and all(extent[0] > 0 for extent in reply.extents)
                    assert sum(extent[0] for extent in reply.extents) <= length
                    assert flags or sum(extent[0] for extent in reply.extents) == length or length == size
        for offset, length in ((size - 1, 2), (size, 1), (0, size + 1)):
            assert client.request(wire.CMD_BLOCK_STATUS, offset, length).error == wire.EINVAL


@pytest.mark.parametrize("mode", ["simple", "extended"])
@pytest.mark.parametrize("offset, length", [
    (1, 0xFFFFFFFF), (4095, 0xFFFFFFFE), (1, 0xFFFFF001), (4095, 0xFFFFF002), ((1 << 32) - 1, 0xFFFFFFFF),
    ((1 << 32) + 1, (1 << 32) - 4096)])
def test_rounding_to_blocks_does_not_wrap_at_32_bits_2025_47712(
        make_node, memory_dir, faults, mode, offset, length):
    """Lengths that become 0 when they are rounded up to 4096 in 32 bits."""
    node = make_node(data_dir=memory_dir)
    node.create(200, "9G")
    gateway = faults.start(node, block_min=4096)
    with gateway.session(mode, infos=()) as client:
        ends = [offset // 4096 * 4096, (offset + length) // 4096 * 4096]
        for kind in (wire.CMD_WRITE_ZEROES, wire.CMD_TRIM, wire.CMD_CACHE):
            for end in ends:
                client.write(end, b"e" * 4096)
            middle = offset + length // 2
            client.write(middle, b"m" * 1000)
            assert client.request(kind, offset, length).error == 0
            first, last = (client.read(end, 4096) for end in ends)
            assert first[:offset % 4096] == b"e" * (offset % 4096)
            assert last[(offset + length) % 4096:] == b"e" * (4096 - (offset + length) % 4096)
            assert client.read(middle, 1000) == (b"m" * 1000 if kind == wire.CMD_CACHE else bytes(1000))
            if kind == wire.CMD_WRITE_ZEROES:
                assert not any(first[offset % 4096:]) and not any(last[:(offset + length) % 4096])


def test_a_client_that_asks_for_tls_is_never_served_as_if_it_had_it_2019_14842(shared):
    """STARTTLS is never acknowledged, so that a client which demands TLS sees that it has none."""
    nbd = pytest.importorskip("nbd")
    handle = nbd.NBD()
    if not handle.supports_tls():
        pytest.skip("needs a libnbd with TLS")
    handle.set_tls(nbd.TLS_REQUIRE)
    with pytest.raises(nbd.Error):
        handle.connect_unix(shared.socket)
    with shared.client().greet() as client:
        for data in (b"", b"x"):
            assert client.option(wire.OPT_STARTTLS, data)[0] & wire.REP_ERR


@pytest.mark.parametrize("mode", ["structured", "extended"])
def test_errors_come_in_a_form_that_a_client_expects_2021_20286(shared, mode):
    """Each failed command is answered by exactly one error chunk and no data of it."""
    with shared.session(mode, allocation=True) as client:
        for kind in (wire.CMD_READ, wire.CMD_TRIM, wire.CMD_CACHE, wire.CMD_WRITE_ZEROES,
                     wire.CMD_BLOCK_STATUS, 99):
            reply = client.request(kind, 1 << 60, 4096)
            assert [chunk[0] for chunk in reply.chunks] == [wire.TYPE_ERROR]
            assert reply.error and 0 < len(reply.text) <= 4096


@needs("nbdcopy")
def test_copy_with_one_failed_write_fails_2022_0485(make_node, memory_dir, faults, tmp_path):
    node = make_node(data_dir=memory_dir)
    node.create(200, "8M")
    gateway = faults.start(node)
    (tmp_path / "image").write_bytes(os.urandom(8 << 20))
    faults.set("write error EIO 20")
    assert run("nbdcopy", tmp_path / "image", gateway.uri(), check=False).returncode != 0


@pytest.mark.parametrize("mode", ["simple", "structured", "extended"])
def test_the_largest_export_2023_5215(make_node, memory_dir, mode):
    """Sizes stay below 2^63; next to it no sum wraps."""
    node = make_node(data_dir=memory_dir)
    size = (8 << 60) - (1 << 20)
    result = node.tb4("volume", "create", 200, size, check=False)
    if "File too large" in result.stderr:
        pytest.skip("needs a tmpfs that takes files of 8 EiB")
    assert result.returncode == 0, result.stderr
    assert node.tb4("volume", "create", 201, 1 << 63, check=False).returncode != 0
    gateway = node.start(200)
    with gateway.session(mode, allocation=mode != "simple") as client:
        assert client.size == size
        client.write(size - 65536, b"end!" * 16384)
        assert client.read(size - 65536, 65536) == b"end!" * 16384
        for kind in (wire.CMD_READ, wire.CMD_TRIM, wire.CMD_CACHE, wire.CMD_WRITE_ZEROES):
            for offset, length in ((size, 512), (size - 512, 1024), ((1 << 63) - 512, 512),
                                   ((1 << 63) - 512, 1024), ((1 << 64) - 512, 512), ((1 << 64) - 512, 1024)):
                assert client.request(kind, offset, length).error in (wire.EINVAL, wire.ENOSPC)
        if mode != "simple":
            assert client.request(wire.CMD_BLOCK_STATUS, size - 131072, 131072).extents == [
                (65536, 3), (65536, 0)]
        if mode == "extended":
            assert client.request(wire.CMD_BLOCK_STATUS, 0, size).extents == [(size - 65536, 3), (65536, 0)]
            assert client.request(wire.CMD_WRITE_ZEROES, 0, size).error == 0
            assert client.request(wire.CMD_BLOCK_STATUS, 0, size).extents == [(size, 3)]
            assert client.request(wire.CMD_READ, 0, size).error == wire.EINVAL


def test_half_open_clients_do_not_hold_up_a_stop_that_drains_2024_7409(make_node, memory_dir, faults):
    """Also those that come and go while requests are still in flight."""
    node = make_node(data_dir=memory_dir)
    node.create(200, "1M")
    gateway = faults.start(node)
    silent = [gateway.client() for _ in range(20)]
    with gateway.connect() as client:
        faults.set("write hang")
        client.send_request(wire.CMD_WRITE, 0, 512, 0, b"d" * 512)
        wait_until(lambda: gateway.volume_status()["in_flight"] == 1, "the write is in flight")
        gateway.process.send_signal(signal.SIGTERM)
        for one in silent:
            one.recv(18)
            assert one.is_closed()
            one.close()
        faults.set()
        assert client.read_reply()[1].error == 0
        with pytest.raises(Closed):
            client.recv(1)
    assert gateway.process.wait(30) == 0


@pytest.mark.parametrize("seed", range(3))
def test_counts_that_lie_reach_no_assertion(shared, seed):
    """The pattern behind most of them: every count and length next to its bounds, in every option."""
    rng = random.Random(seed)
    edges = (0, 1, 2, 3, 4, 5, 4095, 4096, 4097, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFC, 0xFFFFFFFF)
    with shared.client().greet() as client:
        for _ in range(400):
            option = rng.choice((6, 9, 10, 3, 8, 11, 5, 12))
            words = [rng.choice(edges) for _ in range(rng.randrange(6))]
            data = b"".join(struct.pack(">I", word) for word in words) + bytes(rng.randrange(4))
            kind, _ = client.option(option, data)
            assert kind == wire.REP_ACK or kind & wire.REP_ERR
            if option == wire.OPT_EXTENDED_HEADERS and kind == wire.REP_ACK:
                client.extended = client.structured = True
            if option == wire.OPT_STRUCTURED_REPLY and kind == wire.REP_ACK:
                client.structured = True
        client.go()
        assert len(client.read(0, 512)) == 512
