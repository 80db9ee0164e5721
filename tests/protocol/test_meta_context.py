"""LIST_META_CONTEXT and SET_META_CONTEXT: which contexts are found, and which session has one."""
import struct

import pytest

from support import wire

ALLOCATION = "base:allocation"
DISK_0, DISK_1 = "vm-200-disk-0", "vm-200-disk-1"


@pytest.fixture
def client(shared):
    with shared.client().greet() as client:
        client.use_structured()
        yield client


def contexts(client, option, queries, name=DISK_0):
    """The contexts of a reply that ends with ACK: [(id, name)]."""
    kind, replies = client.option(option, client.meta_data(name, queries))
    assert kind == wire.REP_ACK
    assert all(reply[0] == wire.REP_META_CONTEXT for reply in replies[:-1])
    return [(struct.unpack(">I", data[:4])[0], data[4:].decode()) for _, data in replies[:-1]]


def has_context(client, name=DISK_0):
    """Goes on to transmission and looks whether BLOCK_STATUS is served there."""
    reply = client.go(name).request(wire.CMD_BLOCK_STATUS, 0, 4096)
    assert reply.error in (0, wire.EINVAL)
    return reply.error == 0


@pytest.mark.parametrize("queries", [[], [ALLOCATION], ["base:"], ["x-unknown:y", ALLOCATION],
                                     [ALLOCATION, ALLOCATION]])
def test_list_finds_the_context(client, queries):
    assert contexts(client, wire.OPT_LIST_META_CONTEXT, queries) == [(0, ALLOCATION)]


@pytest.mark.parametrize("queries", [["x-unknown:"], ["qemu:dirty-bitmap:x"], ["base:allocatio"],
                                     ["base:allocations"], ["BASE:ALLOCATION"], [""], ["x" * 4096]])
def test_list_finds_nothing_by_other_queries(client, queries):
    assert contexts(client, wire.OPT_LIST_META_CONTEXT, queries) == []


def test_list_selects_nothing(client):
    contexts(client, wire.OPT_LIST_META_CONTEXT, [ALLOCATION])
    assert not has_context(client)


@pytest.mark.parametrize("queries", [[ALLOCATION], ["x-unknown:y", ALLOCATION, "qemu:"],
                                     [ALLOCATION] * 100])
def test_set_selects_the_context_once(client, queries):
    assert contexts(client, wire.OPT_SET_META_CONTEXT, queries) == [(1, ALLOCATION)]
    assert has_context(client)


@pytest.mark.parametrize("queries", [[], ["base:"], ["x-unknown:y"], [""]])
def test_set_with_other_queries_selects_nothing(client, queries):
    assert contexts(client, wire.OPT_SET_META_CONTEXT, queries) == []
    assert not has_context(client)


@pytest.mark.parametrize("option", [wire.OPT_LIST_META_CONTEXT, wire.OPT_SET_META_CONTEXT])
def test_contexts_need_structured_replies(shared, option):
    with shared.client().greet() as client:
        kind, _ = client.option(option, client.meta_data(DISK_0, [ALLOCATION]))
        assert kind == wire.ERR_INVALID
        assert client.go().request(wire.CMD_BLOCK_STATUS, 0, 4096).error == wire.EINVAL


def test_extended_headers_are_enough(shared):
    with shared.client().greet() as client:
        client.use_extended()
        assert contexts(client, wire.OPT_SET_META_CONTEXT, [ALLOCATION]) == [(1, ALLOCATION)]
        assert has_context(client)


@pytest.mark.parametrize("option", [wire.OPT_LIST_META_CONTEXT, wire.OPT_SET_META_CONTEXT])
def test_unknown_export_has_no_contexts(client, option):
    kind, replies = client.option(option, client.meta_data("nothing", [ALLOCATION]))
    assert kind == wire.ERR_UNKNOWN and len(replies) == 1
    assert not has_context(client)


@pytest.mark.parametrize("chosen, used", [(DISK_1, DISK_0), (DISK_0, DISK_1), ("", DISK_0), (DISK_0, "")])
def test_a_context_is_for_the_name_it_was_chosen_for(client, chosen, used):
    contexts(client, wire.OPT_SET_META_CONTEXT, [ALLOCATION], chosen)
    assert not has_context(client, used)


def test_a_context_is_not_lost_by_a_failed_go(client):
    contexts(client, wire.OPT_SET_META_CONTEXT, [ALLOCATION])
    assert client.info_or_go(wire.OPT_GO, "nothing")[0] == wire.ERR_UNKNOWN
    assert has_context(client)


def test_export_name_uses_the_context_too(client):
    contexts(client, wire.OPT_SET_META_CONTEXT, [ALLOCATION], DISK_1)
    client.send_option(wire.OPT_EXPORT_NAME, DISK_1.encode())
    client.recv(10)
    assert client.request(wire.CMD_BLOCK_STATUS, 0, 4096).error == 0


MALFORMED = {
    "nothing": b"",
    "no count": struct.pack(">I", 0),
    "name longer than the data": struct.pack(">II", 5, 0),
    "query missing": struct.pack(">II", 0, 1),
    "query longer than the data": struct.pack(">III", 0, 1, 16) + ALLOCATION.encode(),
    "4 Gi queries": struct.pack(">II", 0, 0xFFFFFFFF),
    "4 Gi queries, one there": struct.pack(">III", 0, 0xFFFFFFFF, 15) + ALLOCATION.encode(),
    "bytes behind the last query": struct.pack(">III", 0, 1, 15) + ALLOCATION.encode() + b"\0",
    "query of 4097 bytes": struct.pack(">III", 0, 1, 4097) + bytes([65]) * 4097,
    "zero byte in a query": struct.pack(">III", 0, 1, 16) + ALLOCATION.encode() + b"\0",
}


@pytest.mark.parametrize("option", [wire.OPT_LIST_META_CONTEXT, wire.OPT_SET_META_CONTEXT])
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_query_is_invalid_and_the_session_goes_on(client, option, data):
    kind, replies = client.option(option, data)
    assert kind == wire.ERR_INVALID and len(replies) == 1
    assert not has_context(client)


@pytest.mark.parametrize("make_data", [
    lambda client: client.meta_data(DISK_0, ["x-unknown:y"]),
    lambda client: client.meta_data("nothing", [ALLOCATION]),
    lambda client: b"\0",
], ids=["no match", "unknown export", "malformed"])
def test_each_set_replaces_the_one_before_even_if_it_fails(client, make_data):
    contexts(client, wire.OPT_SET_META_CONTEXT, [ALLOCATION])
    client.option(wire.OPT_SET_META_CONTEXT, make_data(client))
    assert not has_context(client)
