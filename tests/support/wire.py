"""A raw NBD client: every byte under the test's control, also the wrong ones.

Public clients (libnbd, QEMU) are used wherever they can do what a test needs; this is for what they
refuse to send, and for extended headers, which Debian 12's libnbd does not have.
"""
import socket
import struct

NBD_MAGIC = 0x4E42444D41474943
OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
EXTENDED_REQUEST_MAGIC = 0x21E41C71
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
EXTENDED_REPLY_MAGIC = 0x6E8A278C

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS = 1, 2, 3, 5
OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY = 6, 7, 8
OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_EXTENDED_HEADERS = 9, 10, 11

REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
REP_ERR = 1 << 31
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_PLATFORM = REP_ERR + 1, REP_ERR + 2, REP_ERR + 3, REP_ERR + 4
ERR_TLS_REQD, ERR_UNKNOWN, ERR_SHUTDOWN, ERR_BLOCK_SIZE_REQD = (REP_ERR + 5, REP_ERR + 6, REP_ERR + 7, REP_ERR + 8)
ERR_TOO_BIG, ERR_EXT_HEADER_REQD = REP_ERR + 9, REP_ERR + 10

INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = 0, 1, 2, 3

FLAG_HAS_FLAGS, FLAG_READ_ONLY, FLAG_SEND_FLUSH, FLAG_SEND_FUA = 1, 2, 4, 8
FLAG_ROTATIONAL, FLAG_SEND_TRIM, FLAG_SEND_WRITE_ZEROES, FLAG_SEND_DF = 16, 32, 64, 128
FLAG_CAN_MULTI_CONN, FLAG_SEND_CACHE, FLAG_SEND_FAST_ZERO = 256, 1024, 2048
FLAG_BLOCK_STATUS_PAYLOAD = 4096

CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE = 0, 1, 2, 3, 4, 5
CMD_WRITE_ZEROES, CMD_BLOCK_STATUS = 6, 7
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = 1, 2, 4, 8, 16, 32

REPLY_DONE = 1
TYPE_NONE, TYPE_DATA, TYPE_HOLE, TYPE_STATUS, TYPE_STATUS_EXT = 0, 1, 2, 5, 6
TYPE_ERROR, TYPE_ERROR_OFFSET = 0x8001, 0x8002

EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108


class Closed(Exception):
    """The server has closed the connection."""


class Reply:
    """The whole answer to one request: its chunks, or a simple reply."""

    def __init__(self):
        self.error = 0
        self.text = ""
        self.chunks = []  # (type, payload)
        self.data = None  # READ: the bytes, holes as zeros
        self.holes = []   # READ: (offset, length)
        self.extents = []  # BLOCK_STATUS: (length, flags)


class Client:
    """One connection. Use handshake() and go() for the usual way, or the pieces."""

    def __init__(self, path=None, sock=None, timeout=20, address=None):
        if sock is None:
            family = socket.AF_INET if address else socket.AF_UNIX
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(timeout)
            sock.connect(address or path)
        self.sock = sock
        self.sock.settimeout(timeout)
        self.structured = self.extended = False
        self.size = self.flags = None
        self.infos = {}
        self.cookie = 0
        self.pending = {}  # cookie -> (type, offset, length)

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # bytes

    def send(self, data):
        self.sock.sendall(data)

    def recv(self, length):
        parts = []
        while length:
            try:
                part = self.sock.recv(min(length, 1 << 20))
            except ConnectionResetError:
                raise Closed() from None
            if not part:
                raise Closed()
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def is_silent(self, seconds=0.2):
        """Nothing comes, and the connection stays open, for so long."""
        timeout = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            self.sock.recv(1, socket.MSG_PEEK)
            return False
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(timeout)

    def half_close(self):
        """No more from us; replies may still come."""
        self.sock.shutdown(socket.SHUT_WR)

    def is_closed(self):
        """Waits for the server to close; false if it sends something instead."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    # handshake

    def greet(self, flags=3):
        magic, option_magic, server_flags = struct.unpack(">QQH", self.recv(18))
        assert magic == NBD_MAGIC and option_magic == OPTION_MAGIC
        assert server_flags == 3
        if flags is not None:
            self.send(struct.pack(">I", flags))
        return self

    def send_option(self, option, data=b"", magic=OPTION_MAGIC, length=None):
        self.send(struct.pack(">QII", magic, option, len(data) if length is None else length) + data)

    def read_option_reply(self):
        """(option, type, data) of one reply."""
        magic, option, kind, length = struct.unpack(">QIII", self.recv(20))
        assert magic == OPTION_REPLY_MAGIC
        return option, kind, self.recv(length)

    def option(self, option, data=b""):
        """Sends an option and reads its replies up to the last: (type of the last, data of all)."""
        self.send_option(option, data)
        replies = []
        while True:
            answered, kind, payload = self.read_option_reply()
            assert answered == option
            replies.append((kind, payload))
            if kind == REP_ACK or kind & REP_ERR:
                return kind, replies

    def info_data(self, name, infos):
        name = name.encode()
        return struct.pack(">I", len(name)) + name + struct.pack(">H", len(infos)) + b"".join(
            struct.pack(">H", info) for info in infos)

    def info_or_go(self, option, name="", infos=(INFO_BLOCK_SIZE,)):
        kind, replies = self.option(option, self.info_data(name, infos))
        for reply_kind, payload in replies:
            if reply_kind == REP_INFO:
                self.infos[struct.unpack(">H", payload[:2])[0]] = payload[2:]
        if kind == REP_ACK:
            self.size, self.flags = struct.unpack(">QH", self.infos[INFO_EXPORT])
        return kind, replies

    def go(self, name="", infos=(INFO_BLOCK_SIZE,)):
        kind, replies = self.info_or_go(OPT_GO, name, infos)
        assert kind == REP_ACK, replies
        return self

    def block_sizes(self):
        return struct.unpack(">III", self.infos[INFO_BLOCK_SIZE])

    def meta_data(self, name, queries):
        name = name.encode()
        data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
        for query in queries:
            data += struct.pack(">I", len(query)) + query.encode()
        return data

    def use_structured(self):
        kind, _ = self.option(OPT_STRUCTURED_REPLY)
        assert kind == REP_ACK
        self.structured = True
        return self

    def use_extended(self):
        kind, _ = self.option(OPT_EXTENDED_HEADERS)
        assert kind == REP_ACK
        self.structured = self.extended = True
        return self

    def use_allocation(self, name=""):
        kind, replies = self.option(OPT_SET_META_CONTEXT, self.meta_data(name, ["base:allocation"]))
        assert kind == REP_ACK and replies[0] == (
            REP_META_CONTEXT, struct.pack(">I", 1) + b"base:allocation")
        return self

    # transmission

    def send_request(self, kind, offset=0, length=0, flags=0, payload=b"", cookie=None, magic=None):
        if cookie is None:
            self.cookie += 1
            cookie = self.cookie
        self.pending[cookie] = (kind, offset, length)
        if self.extended:
            header = struct.pack(">IHHQQQ", magic or EXTENDED_REQUEST_MAGIC, flags, kind, cookie, offset,
                                 length)
        else:
            header = struct.pack(">IHHQQI", magic or REQUEST_MAGIC, flags, kind, cookie, offset, length)
        self.send(header + payload)
        return cookie

    def _read_chunk(self):
        """(cookie, flags, type, payload), or (cookie, None, error, None) of a simple reply."""
        magic = struct.unpack(">I", self.recv(4))[0]
        if magic == SIMPLE_REPLY_MAGIC:
            assert not self.extended, "a simple reply after extended headers"
            error, cookie = struct.unpack(">IQ", self.recv(12))
            return cookie, None, error, None
        if magic == STRUCTURED_REPLY_MAGIC:
            assert self.structured and not self.extended
            flags, kind, cookie, length = struct.unpack(">HHQI", self.recv(16))
        else:
            assert magic == EXTENDED_REPLY_MAGIC and self.extended, hex(magic)
            flags, kind, cookie, offset, length = struct.unpack(">HHQQQ", self.recv(28))
            assert offset == self.pending[cookie][1], "not the offset of the request"
        return cookie, flags, kind, self.recv(length)

    def read_replies(self, count):
        """{cookie: Reply} of the next `count` requests that are answered."""
        replies = {}
        for _ in range(count):
            cookie, reply = self.read_reply()
            replies[cookie] = reply
        assert len(replies) == count
        return replies

    def read_reply(self):
        """(cookie, Reply) of whatever request is answered next."""
        reply = Reply()
        cookie, flags, kind, payload = self._read_chunk()
        request, offset, length = self.pending[cookie]
        if flags is None:
            reply.error = kind
            if request == CMD_READ and kind == 0:
                assert not self.structured, "READ data in a simple reply"
                reply.data = self.recv(length)
            del self.pending[cookie]
            return cookie, reply
        data = None
        while True:
            reply.chunks.append((kind, payload))
            if data is None and kind in (TYPE_DATA, TYPE_HOLE):
                assert request == CMD_READ
                data = bytearray(length)
            if kind == TYPE_DATA:
                at = struct.unpack(">Q", payload[:8])[0] - offset
                assert 0 <= at and at + len(payload) - 8 <= length
                data[at:at + len(payload) - 8] = payload[8:]
            elif kind == TYPE_HOLE:
                at, hole = struct.unpack(">QI", payload)
                reply.holes.append((at, hole))
            elif kind == TYPE_STATUS:
                assert struct.unpack(">I", payload[:4])[0] == 1
                reply.extents += struct.iter_unpack(">II", payload[4:])
            elif kind == TYPE_STATUS_EXT:
                context, count = struct.unpack(">II", payload[:8])
                assert context == 1
                reply.extents += struct.iter_unpack(">QQ", payload[8:])
                assert len(reply.extents) == count
            elif kind in (TYPE_ERROR, TYPE_ERROR_OFFSET):
                reply.error, text_length = struct.unpack(">IH", payload[:6])
                assert reply.error and kind == TYPE_ERROR and len(payload) == 6 + text_length
                reply.text = payload[6:].decode()
            else:
                assert kind == TYPE_NONE and payload == b""
            if flags & REPLY_DONE:
                break
            next_cookie, flags, kind, payload = self._read_chunk()
            assert next_cookie == cookie
        if request == CMD_READ and not reply.error:
            assert sum(hole for _, hole in reply.holes) + sum(
                len(payload) - 8 for kind, payload in reply.chunks if kind == TYPE_DATA) == length
            reply.data = bytes(data)
        del self.pending[cookie]
        return cookie, reply

    def request(self, kind, offset=0, length=0, flags=0, payload=b""):
        """One request and its reply, with nothing else in flight."""
        cookie = self.send_request(kind, offset, length, flags, payload)
        answered, reply = self.read_reply()
        assert answered == cookie
        return reply

    def read(self, offset, length, flags=0):
        reply = self.request(CMD_READ, offset, length, flags)
        assert reply.error == 0, (reply.error, reply.text)
        return reply.data

    def write(self, offset, data, flags=0):
        if self.extended:
            flags |= PAYLOAD_LEN
        reply = self.request(CMD_WRITE, offset, len(data), flags, data)
        assert reply.error == 0, (reply.error, reply.text)

    def flush(self):
        reply = self.request(CMD_FLUSH)
        assert reply.error == 0, (reply.error, reply.text)

    def disconnect(self):
        self.send_request(CMD_DISC)
        assert self.is_closed()
        self.close()
