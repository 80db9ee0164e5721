"""The handshake phase, option by option, with right and wrong data."""
import struct

import pytest

from support import wire
from support.node import wait_until
from support.wire import Closed

DISK_0, DISK_1 = "vm-200-disk-0", "vm-200-disk-1"
FLAGS = (wire.FLAG_HAS_FLAGS | wire.FLAG_SEND_FLUSH | wire.FLAG_SEND_FUA | wire.FLAG_SEND_TRIM |
         wire.FLAG_SEND_WRITE_ZEROES | wire.FLAG_CAN_MULTI_CONN | wire.FLAG_SEND_CACHE |
         wire.FLAG_SEND_FAST_ZERO)


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack(">I", len(data)) + data


def assert_goes_on(client):
    """Whatever was refused before, the session can still choose an export."""
    client.go(DISK_0)
    assert client.size == 64 << 20
    assert len(client.read(0, 512)) == 512


# GO and INFO

def test_go_gives_the_exact_size_and_flags(gateway):
    with gateway.client().greet() as client:
        client.go("vm-200-disk-0")
        assert client.size == 64 << 20
        assert client.flags == FLAGS


@pytest.mark.parametrize("mode, more", [
    ("simple", 0), ("structured", wire.FLAG_SEND_DF),
    ("extended", wire.FLAG_SEND_DF | wire.FLAG_BLOCK_STATUS_PAYLOAD)])
def test_flags_follow_what_was_negotiated(shared, mode, more):
    with shared.session(mode, allocation=mode != "simple") as client:
        assert client.flags == FLAGS | more


def test_status_payload_is_not_offered_without_a_context(shared):
    with shared.session("extended") as client:
        assert not client.flags & wire.FLAG_BLOCK_STATUS_PAYLOAD


def test_names_choose_between_exports(shared):
    with shared.connect(DISK_1) as client:
        assert client.size == 8 << 20


def test_the_empty_name_is_disk_0(shared):
    with shared.connect("") as client:
        assert client.size == 64 << 20


@pytest.mark.parametrize("option", [wire.OPT_INFO, wire.OPT_GO])
@pytest.mark.parametrize("name", ["vm-200-disk-2", "VM-200-DISK-0", "vm-200-disk-0 ", "/", "..",
                                  "vm-200-disk", "é" * 2048, "\n", "%n%s%s"])
def test_unknown_export_is_told_and_the_session_goes_on(shared, option, name):
    with shared.client().greet() as client:
        kind, replies = client.info_or_go(option, name)
        assert kind == wire.ERR_UNKNOWN and len(replies) == 1
        assert b"no export" in replies[0][1]
        assert_goes_on(client)


STRANGE_NAMES = {
    "no UTF-8": b"\xff\xfe", "half a character": b"\xc3", "character at the cut": b"x" * 199 + "é".encode(),
    "escape": b"\x1b[31mred", "8-bit escape": b"\x9b31mred", "the same in UTF-8": "\u009b31mred".encode(),
    "new line": b"\r\ntb4-gateway[200]: all is well",
}


@pytest.mark.parametrize("name", STRANGE_NAMES.values(), ids=STRANGE_NAMES.keys())
def test_strange_name_is_told_in_utf_8_and_logged_in_plain_characters(node, name):
    """Strings of the protocol are UTF-8; nobody writes control characters to who reads the log."""
    node.create(200, "1M")
    gateway = node.start(200)
    with gateway.client().greet() as client:
        kind, replies = client.option(wire.OPT_GO, string(name) + struct.pack(">H", 0))
        assert kind == wire.ERR_UNKNOWN
        replies[-1][1].decode()
    gateway.wait_for_log("no export ")
    lines = gateway.log.splitlines()
    assert all(line.startswith("tb4-gateway[200]: ") and line.isprintable() for line in lines)
    assert not any(line.startswith("tb4-gateway[200]: all is well") for line in lines)


INFO_DATA = {
    "nothing": b"",
    "half a length": b"\0\0",
    "no count": string(DISK_0),
    "half a count": string(DISK_0) + b"\0",
    "name longer than the data": struct.pack(">I", 14) + DISK_0.encode(),
    "name of 4 GiB": struct.pack(">I", 0xFFFFFFFF) + DISK_0.encode() + b"\0\0",
    "length that wraps": struct.pack(">I", 0xFFFFFFFC) + b"\0\0",
    "more infos than there are": string(DISK_0) + struct.pack(">HH", 2, 3),
    "65535 infos, none there": string(DISK_0) + struct.pack(">H", 65535),
    "half an info": string(DISK_0) + struct.pack(">HB", 1, 3),
    "fewer infos than there are": string(DISK_0) + struct.pack(">HHH", 1, 3, 0),
    "a byte too many": string(DISK_0) + struct.pack(">HB", 0, 0),
    "a zero byte in the name": string(DISK_0 + "\0") + struct.pack(">H", 0),
    "only a zero byte": string("\0") + struct.pack(">H", 0),
    "name of 4097 bytes": string("x" * 4097) + struct.pack(">H", 0),
}


@pytest.mark.parametrize("option", [wire.OPT_INFO, wire.OPT_GO])
@pytest.mark.parametrize("data", INFO_DATA.values(), ids=INFO_DATA.keys())
def test_malformed_info_is_invalid_and_the_session_goes_on(shared, option, data):
    with shared.client().greet() as client:
        kind, replies = client.option(option, data)
        assert kind == wire.ERR_INVALID and len(replies) == 1
        assert_goes_on(client)


def test_info_tells_what_go_tells(shared):
    with shared.client().greet() as client:
        wanted = (wire.INFO_NAME, wire.INFO_DESCRIPTION, wire.INFO_BLOCK_SIZE)
        kind, of_info = client.info_or_go(wire.OPT_INFO, "", wanted)
        assert kind == wire.REP_ACK
        kind, of_go = client.info_or_go(wire.OPT_GO, "", wanted)
        assert kind == wire.REP_ACK
        assert sorted(of_info) == sorted(of_go)
        assert client.infos[wire.INFO_NAME] == DISK_0.encode()
        assert client.infos[wire.INFO_DESCRIPTION] == b"the first disk"
        assert client.size == 64 << 20
        assert client.block_sizes() == (1, 64 << 10, 32 << 20)


def test_info_gives_no_description_where_there_is_none(shared):
    with shared.client().greet() as client:
        kind, _ = client.info_or_go(wire.OPT_INFO, DISK_1, (wire.INFO_DESCRIPTION,))
        assert kind == wire.REP_ACK and wire.INFO_DESCRIPTION not in client.infos


def test_info_ignores_what_it_does_not_know(shared):
    with shared.client().greet() as client:
        kind, replies = client.info_or_go(wire.OPT_INFO, "", (4, 0x7FFF, 0xFFFF, wire.INFO_NAME))
        assert kind == wire.REP_ACK
        assert {struct.unpack(">H", payload[:2])[0] for kind, payload in replies[:-1]} == {
            wire.INFO_EXPORT, wire.INFO_NAME, wire.INFO_BLOCK_SIZE}


def test_info_has_no_side_effect(shared):
    before = shared.volume_status(DISK_0)
    with shared.client().greet() as client:
        for _ in range(50):
            assert client.info_or_go(wire.OPT_INFO, DISK_0)[0] == wire.REP_ACK
        assert shared.volume_status(DISK_0) == before
        assert_goes_on(client)


def test_info_of_a_read_only_export_says_so(node):
    node.create(200, "1M")
    file = node.volume_dir / f"{DISK_0}.conf"
    file.write_text(file.read_text().replace("[volume]\n", "[volume]\nread_only = yes\n"))
    with node.start(200).connect() as client:
        assert client.flags & wire.FLAG_READ_ONLY
        assert not client.flags & (wire.FLAG_SEND_TRIM | wire.FLAG_SEND_WRITE_ZEROES |
                                   wire.FLAG_SEND_FAST_ZERO)


# EXPORT_NAME

@pytest.mark.parametrize("flags, zeroes", [(1, 124), (3, 0)], ids=["with zeroes", "without"])
@pytest.mark.parametrize("name, size", [("", 64 << 20), (DISK_1, 8 << 20)])
def test_export_name_begins_transmission(shared, flags, zeroes, name, size):
    with shared.client().greet(flags) as client:
        client.send_option(wire.OPT_EXPORT_NAME, name.encode())
        assert client.recv(10 + zeroes) == struct.pack(">QH", size, FLAGS) + bytes(zeroes)
        client.write(512, b"x" * 512)
        assert client.read(512, 512) == b"x" * 512


@pytest.mark.parametrize("name", [b"nothing", b"vm-200-disk-0\0", b"\0", b"x" * 4096, b"x" * 4097,
                                  b"\xff" * 60000],
                         ids=["unknown", "zero byte behind", "zero byte", "4096", "4097", "60000"])
def test_export_name_that_is_unknown_or_malformed_closes(shared, name):
    with shared.client().greet() as client:
        client.send_option(wire.OPT_EXPORT_NAME, name)
        assert client.is_closed()


def test_export_name_keeps_structured_replies(shared):
    with shared.client().greet() as client:
        client.use_structured().send_option(wire.OPT_EXPORT_NAME, b"")
        assert struct.unpack(">QH", client.recv(10)) == (64 << 20, FLAGS | wire.FLAG_SEND_DF)
        assert client.request(wire.CMD_READ, 0, 512).chunks[0][0] == wire.TYPE_DATA


# LIST

def list_names(client):
    kind, replies = client.option(wire.OPT_LIST)
    assert kind == wire.REP_ACK
    for reply_kind, payload in replies[:-1]:
        assert reply_kind == wire.REP_SERVER
        assert struct.unpack(">I", payload[:4])[0] == len(payload) - 4
    return [payload[4:].decode() for _, payload in replies[:-1]]


def test_list_names_every_export(shared):
    with shared.client().greet() as client:
        assert sorted(list_names(client)) == [DISK_0, DISK_1]
        assert_goes_on(client)


def test_list_with_data_is_invalid(shared):
    with shared.client().greet() as client:
        assert client.option(wire.OPT_LIST, b"\0")[0] == wire.ERR_INVALID
        assert len(list_names(client)) == 2


def test_list_can_be_switched_off(make_node):
    node = make_node(settings="[nbd]\nlist = no")
    node.create(200, "1M")
    with node.start(200).client().greet() as client:
        kind, replies = client.option(wire.OPT_LIST)
        assert kind == wire.ERR_POLICY and len(replies) == 1
        client.go(DISK_0)
        assert client.size == 1 << 20


# ABORT

@pytest.mark.parametrize("data", [b"", b"ignored"])
def test_abort_is_acknowledged_and_ends(shared, data):
    with shared.client().greet() as client:
        client.send_option(wire.OPT_ABORT, data)
        assert client.read_option_reply() == (wire.OPT_ABORT, wire.REP_ACK, b"")
        assert client.is_closed()


def test_options_behind_abort_are_not_answered(shared):
    with shared.client().greet() as client:
        option = struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_ABORT, 0)
        client.send(option + struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_LIST, 0))
        assert client.read_option_reply() == (wire.OPT_ABORT, wire.REP_ACK, b"")
        assert client.is_closed()


# STRUCTURED_REPLY and EXTENDED_HEADERS

def test_structured_reply_may_be_repeated(shared):
    with shared.client().greet() as client:
        client.use_structured().use_structured().go()
        assert client.request(wire.CMD_READ, 0, 512).chunks


def test_structured_reply_with_data_is_invalid_and_changes_nothing(shared):
    with shared.client().greet() as client:
        assert client.option(wire.OPT_STRUCTURED_REPLY, b"\0")[0] == wire.ERR_INVALID
        client.go()
        assert not client.flags & wire.FLAG_SEND_DF
        assert client.request(wire.CMD_READ, 0, 512).chunks == []


def test_extended_headers_with_data_is_invalid_and_changes_nothing(shared):
    with shared.client().greet() as client:
        assert client.option(wire.OPT_EXTENDED_HEADERS, b"\0" * 8)[0] == wire.ERR_INVALID
        assert_goes_on(client)


@pytest.mark.parametrize("structured_first", [False, True])
def test_extended_headers_need_no_structured_replies_first(shared, structured_first):
    with shared.client().greet() as client:
        if structured_first:
            client.use_structured()
        client.use_extended().go()
        assert len(client.read(0, 512)) == 512


def test_structured_reply_after_extended_headers_is_refused(shared):
    with shared.client().greet() as client:
        client.use_extended()
        assert client.option(wire.OPT_STRUCTURED_REPLY)[0] == wire.ERR_EXT_HEADER_REQD
        assert_goes_on(client)


def test_extended_headers_twice_is_refused(shared):
    with shared.client().greet() as client:
        client.use_extended()
        assert client.option(wire.OPT_EXTENDED_HEADERS)[0] == wire.ERR_INVALID
        assert_goes_on(client)


# STARTTLS

@pytest.mark.parametrize("data", [b"", b"surplus"])
def test_starttls_is_refused_by_policy_and_the_session_goes_on(shared, data):
    with shared.client().greet() as client:
        client.use_structured()
        kind, replies = client.option(wire.OPT_STARTTLS, data)
        assert kind in (wire.ERR_POLICY, wire.ERR_INVALID) and len(replies) == 1
        assert data or kind == wire.ERR_POLICY
        client.use_allocation(DISK_0)
        assert_goes_on(client)


# Unknown, malformed and in pieces

def test_unknown_option_is_unsupported_and_the_session_goes_on(gateway):
    with gateway.client().greet() as client:
        for option in (0, 4, 12, 0xFFFF, 0x7FFFFFFF, 0x80000001, 0xFFFFFFFF):
            kind, _ = client.option(option, b"whatever")
            assert kind == wire.ERR_UNSUP
        client.go()
        assert client.read(0, 512) == bytes(512)


@pytest.mark.parametrize("magic", [0, 0x49484156454F5055])
def test_option_without_its_magic_costs_the_connection(gateway, magic):
    with gateway.client().greet() as client:
        client.send_option(wire.OPT_LIST, magic=magic)
        with pytest.raises(Closed):
            client.read_option_reply()
    gateway.wait_for_log("without its magic number: dropped")


@pytest.mark.parametrize("flags", [0, 2, 4, 7, 0x10001, 0x80000001, 0xFFFFFFFF])
def test_unknown_or_missing_client_flags_close(shared, flags):
    with shared.client().greet(flags) as client:
        assert client.is_closed()


def test_largest_option_is_read_as_a_whole(shared):
    with shared.client().greet() as client:
        assert client.option(99, bytes((64 << 10) - 16))[0] == wire.ERR_UNSUP
        assert_goes_on(client)


@pytest.mark.parametrize("length", [(64 << 10) - 15, 1 << 31, 0xFFFFFFFF])
def test_larger_option_closes_before_its_data_come(shared, length):
    with shared.client().greet() as client:
        client.send_option(99, length=length)
        assert client.is_closed()


def whole_session(payload):
    """Flags, options and requests as one string of bytes, with extended headers."""
    client = wire.Client.__new__(wire.Client)
    name = b"\0\0\0\0"
    options = [(wire.OPT_LIST, b""), (wire.OPT_EXTENDED_HEADERS, b""),
               (wire.OPT_SET_META_CONTEXT, client.meta_data("", ["base:allocation"])),
               (wire.OPT_GO, name + b"\0\0")]
    data = struct.pack(">I", 3)
    for option, content in options:
        data += struct.pack(">QII", wire.OPTION_MAGIC, option, len(content)) + content
    requests = [(wire.CMD_WRITE, wire.PAYLOAD_LEN, 1, 4096, len(payload)), (wire.CMD_FLUSH, 0, 2, 0, 0)]
    for kind, flags, cookie, offset, length in requests:
        data += struct.pack(">IHHQQQ", wire.EXTENDED_REQUEST_MAGIC, flags, kind, cookie, offset, length)
        data += payload if kind == wire.CMD_WRITE else b""
    return data


def check_whole_session(client, payload):
    client.greet(None)
    for option, replies in ((wire.OPT_LIST, 3), (wire.OPT_EXTENDED_HEADERS, 1),
                            (wire.OPT_SET_META_CONTEXT, 2), (wire.OPT_GO, 3)):
        answers = [client.read_option_reply() for _ in range(replies)]
        assert {answer[0] for answer in answers} == {option}
        assert answers[-1][1] == wire.REP_ACK
    client.structured = client.extended = True
    client.pending = {1: (wire.CMD_WRITE, 4096, len(payload)), 2: (wire.CMD_FLUSH, 0, 0)}
    assert {reply.error for reply in client.read_replies(2).values()} == {0}
    client.cookie = 2
    assert client.read(4096, len(payload)) == payload


def test_whole_session_in_one_write(shared):
    with shared.client() as client:
        client.send(whole_session(b"one write"))
        check_whole_session(client, b"one write")


def test_whole_session_byte_by_byte(shared):
    with shared.client() as client:
        for byte in whole_session(b"bytes"):
            client.send(bytes([byte]))
        check_whole_session(client, b"bytes")


def test_go_ends_the_options(shared):
    """An option behind GO is a request without its magic."""
    with shared.client().greet() as client:
        go = client.info_data("", ())
        client.send(struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_GO, len(go)) + go +
                    struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_LIST, 0) + bytes(32))
        answered = set()
        with pytest.raises(Closed):
            while True:
                answered.add(client.read_option_reply()[0])
        assert answered <= {wire.OPT_GO}


def test_failed_go_leaves_the_options_behind_it(shared):
    with shared.client().greet() as client:
        go = client.info_data("nothing", ())
        client.send(struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_GO, len(go)) + go +
                    struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_STRUCTURED_REPLY, 0))
        assert client.read_option_reply()[1] == wire.ERR_UNKNOWN
        assert client.read_option_reply()[:2] == (wire.OPT_STRUCTURED_REPLY, wire.REP_ACK)
        assert_goes_on_structured(client)


def assert_goes_on_structured(client):
    client.structured = True
    assert_goes_on(client)


def test_thousands_of_options_are_all_answered(shared):
    with shared.client().greet() as client:
        option = struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_LIST, 0)
        for _ in range(20):
            client.send(option * 200)
            for _ in range(200):
                assert [client.read_option_reply()[1] for _ in range(3)] == [
                    wire.REP_SERVER, wire.REP_SERVER, wire.REP_ACK]
        assert_goes_on(client)


def test_options_of_a_client_that_reads_no_replies_wait_in_its_socket(shared):
    """The server stops reading; when the client reads, every option is answered in order."""
    with shared.client(timeout=1).greet() as client:
        count, block = 0, struct.pack(">QII", wire.OPTION_MAGIC, 77, 0) * 64
        with pytest.raises(TimeoutError):
            while count < 1000000:
                sent = client.sock.send(block)
                count += sent
        client.sock.settimeout(30)
        answered = count // 16
        for _ in range(answered):
            assert client.read_option_reply()[:2] == (77, wire.ERR_UNSUP)
        client.send(block[count % 16:][:-count % 16])
        if count % 16:
            assert client.read_option_reply()[:2] == (77, wire.ERR_UNSUP)
        assert_goes_on(client)


@pytest.mark.parametrize("data", [b"", b"\0\0", struct.pack(">IQI", 3, wire.OPTION_MAGIC, 7),
                                  struct.pack(">IQII", 3, wire.OPTION_MAGIC, 7, 4000) + bytes(3999)],
                         ids=["nothing", "half the flags", "half a header", "all but one byte"])
def test_client_that_leaves_in_the_middle_is_forgotten(shared, data):
    with shared.client() as client:
        client.recv(18)
        client.send(data)
    wait_until(lambda: shared.status()["nbd"]["handshakes"] == 0, "no handshake is left")
