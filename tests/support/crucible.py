"""A raw upstairs: one connection to a Crucible downstairs, every byte under the test's control.

Implements crucible message version 13 (both directions, so that it can decode what it sent) from a
table of fields, apart from the codec of libupstairs, so that each can find the other's faults.
"""
import socket
import struct
import time
import uuid
from types import SimpleNamespace

from .checksum import xxh64

VERSION = 13
U64_MAX = (1 << 64) - 1
IDS = [("upstairs_id", "uuid"), ("session_id", "uuid"), ("job_id", "u64")]
JOB = IDS + [("deps", "u64s")]
ACK = IDS + [("result", "result")]
SESSION = [("upstairs_id", "uuid"), ("session_id", "uuid"), ("generation", "u64")]
MEND = [("repair_id", "u64"), ("extent", "u32")]
WRITE = JOB + [("start", "u64"), ("contexts", "block_contexts"), ("data", "bytes")]

MESSAGES = [  # in the order of their numbers
    ("HereIAm", [("version", "u32"), *SESSION, ("read_only", "bool"), ("encrypted", "bool"), ("alternates", "u32s")]),
    ("YesItsMe", [("version", "u32"), ("repair_address", "address")]),
    ("VersionMismatch", [("version", "u32")]),
    ("ReadOnlyMismatch", [("expected", "bool")]),
    ("EncryptedMismatch", [("expected", "bool")]),
    ("PromoteToActive", SESSION),
    ("YouAreNowActive", SESSION),
    ("YouAreNoLongerActive", SESSION),
    ("UuidMismatch", [("expected", "uuid")]),
    ("Ruok", []),
    ("Imok", []),
    ("ExtentClose", MEND),
    ("ExtentReopen", MEND),
    ("ExtentFlush", MEND + [("client", "u8"), ("flush_number", "u64"), ("generation", "u64")]),
    ("ExtentRepair", MEND + [("source", "u8"), ("source_address", "address"), ("destinations", "u8s")]),
    ("RepairAckId", [("repair_id", "u64")]),
    ("ExtentError", MEND + [("error", "error")]),
    ("ExtentLiveClose", JOB + [("extent", "u32")]),
    ("ExtentLiveFlushClose", JOB + [("extent", "u32"), ("flush_number", "u64"), ("generation", "u64")]),
    ("ExtentLiveRepair", JOB + [("extent", "u32"), ("source", "u8"), ("source_address", "address")]),
    ("ExtentLiveReopen", JOB + [("extent", "u32")]),
    ("ExtentLiveNoOp", JOB),
    ("ExtentLiveCloseAck", IDS + [("result", "close_result")]),
    ("ExtentLiveRepairAckId", ACK),
    ("ExtentLiveAckId", ACK),
    ("RegionInfoPlease", []),
    ("RegionInfo", [("block_size", "u64"), ("extent_size", "u64"), ("shift", "u32"), ("extent_count", "u32"),
                    ("uuid", "uuid"), ("encrypted", "bool"), ("read_version", "u64"), ("write_version", "u64")]),
    ("ExtentVersionsPlease", []),
    ("ExtentVersions", [("generations", "u64s"), ("flush_numbers", "u64s"), ("dirty", "bools")]),
    ("LastFlush", [("job", "option_u64")]),
    ("Write", WRITE),
    ("WriteAck", ACK),
    ("Flush", JOB + [("flush_number", "u64"), ("generation", "u64"), ("snapshot", "option_text"),
                     ("limit", "option_u32")]),
    ("FlushAck", ACK),
    ("Barrier", JOB),
    ("BarrierAck", ACK),
    ("ReadRequest", JOB + [("start", "u64"), ("count", "u64")]),
    ("ReadResponse", IDS + [("result", "read_result"), ("data", "bytes")]),
    ("WriteUnwritten", WRITE),
    ("WriteUnwrittenAck", ACK),
    ("ErrorReport", IDS + [("error", "error")]),
]
NUMBERS = {name: number for number, (name, _) in enumerate(MESSAGES)}

ERRORS = (  # with what follows: s a text
    "GenericError:s IoError:s Unsupported:s Disconnect DataLockError RwLockError:s RecvDisconnected SendError:s "
    "OffsetUnaligned DataLenUnaligned BlockSizeMismatch InvalidNumberOfBlocks:s OffsetInvalid "
    "UpstairsActivateInProgress UpstairsDeactivating UpstairsInactive UuidMismatch EncryptionError:s DecryptionError "
    "HashMismatch LBARangeOverlap SubvolumeSizeMismatch SubvolumeTypeMismatch CannotServeBlocks:s "
    "CannotReceiveBlocks:s SnapshotFailed:s ModifyingReadOnlyRegion InvalidExtent RepairRequestError:s "
    "RepairFilesInvalid:s RepairStreamError:s GenerationNumberInvalid NoLongerActive RegionAssembleError "
    "PropertyNotAvailable:s ReplaceRequestInvalid:s MissingContextSlot:qi BadMetadata:s BadContextSlot:s "
    "MissingBlockContext RegionIncompatible:s NegotiationError:n").split()

INTEGERS = {"u8": "<B", "u32": "<I", "u64": "<Q"}
LISTS = {"u8s": "u8", "u32s": "u32", "u64s": "u64", "bools": "bool", "block_contexts": "block_context",
         "read_contexts": "read_context"}


class Closed(Exception):
    """The downstairs has closed the connection."""


def pack(kind, value):
    """Bytes of one field."""
    if kind in INTEGERS:
        return struct.pack(INTEGERS[kind], value)
    if kind == "bool":
        return bytes([value])
    if kind == "uuid":
        return struct.pack("<Q", 16) + value.bytes
    if kind == "bytes":
        return struct.pack("<Q", len(value)) + value
    if kind == "address":
        host, port = value
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return struct.pack("<I", family == socket.AF_INET6) + socket.inet_pton(family, host) + struct.pack("<H", port)
    if kind in LISTS:
        return struct.pack("<Q", len(value)) + b"".join(pack(LISTS[kind], item) for item in value)
    if kind == "block_context":
        hash_, encryption = value
        return struct.pack("<QB", hash_, encryption is not None) + (encryption or b"")
    if kind.startswith("option_"):
        return b"\0" if value is None else b"\1" + pack(kind[7:], value)
    if kind == "text":
        return pack("bytes", value.encode())
    if kind == "read_context":  # None, 28 bytes, or a hash
        number = 0 if value is None else 1 if isinstance(value, bytes) else 2
        return struct.pack("<I", number) + (b"" if value is None else pack("u64", value) if number == 2 else value)
    if kind in ("result", "read_result", "close_result"):
        return pack_result(kind, value)
    if kind == "error":
        return pack_result("result", Exception(value))[4:]
    raise NotImplementedError(kind)


def pack_result(kind, value):
    """Of an answer; an error is an Exception that holds (name,) or (name, text)."""
    if isinstance(value, Exception):
        name, *texts = value.args[0]
        number = [error.partition(":")[0] for error in ERRORS].index(name)
        return struct.pack("<II", 1, number) + b"".join(pack("text", text) for text in texts)
    body = pack("read_contexts", value) if kind == "read_result" else b""
    if kind == "close_result":
        generation, flush_number, dirty = value
        body = struct.pack("<QQB", generation, flush_number, dirty)
    return struct.pack("<I", 0) + body


class Reader:
    """Takes fields off a message."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        assert self.at + size <= len(self.data), "message is cut short"
        self.at += size
        return self.data[self.at - size:self.at]

    def unpack(self, kind):
        if kind in INTEGERS:
            return struct.unpack(INTEGERS[kind], self.take(struct.calcsize(INTEGERS[kind])))[0]
        if kind == "bool":
            value = self.take(1)[0]
            assert value in (0, 1)
            return bool(value)
        if kind == "uuid":
            assert self.unpack("u64") == 16
            return uuid.UUID(bytes=self.take(16))
        if kind == "bytes":
            return self.take(self.unpack("u64"))
        if kind == "text":
            return self.unpack("bytes").decode()
        if kind == "address":
            family = socket.AF_INET6 if self.unpack("u32") else socket.AF_INET
            host = socket.inet_ntop(family, self.take(16 if family == socket.AF_INET6 else 4))
            return host, struct.unpack("<H", self.take(2))[0]
        if kind in LISTS:
            return [self.unpack(LISTS[kind]) for _ in range(self.unpack("u64"))]
        if kind == "read_context":
            number = self.unpack("u32")
            assert number <= 2
            return None if number == 0 else self.take(28) if number == 1 else self.unpack("u64")
        if kind == "block_context":
            hash_, is_encrypted = struct.unpack("<QB", self.take(9))
            return hash_, self.take(28) if is_encrypted else None
        if kind.startswith("option_"):
            return self.unpack(kind[7:]) if self.unpack("bool") else None
        if kind == "error":
            return self.error()
        return self.result(kind)

    def error(self):
        name, _, payload = ERRORS[self.unpack("u32")].partition(":")
        if payload == "s":
            return name, self.unpack("text")
        if payload == "qi":
            return name, self.unpack("u64"), self.unpack("u32")
        if payload == "n":
            raise NotImplementedError("negotiation errors are not sent by a downstairs")
        return (name,)

    def result(self, kind):
        """The value, () if it has none, or an Exception that holds the error."""
        number = self.unpack("u32")
        assert number <= 1
        if number == 1:
            return Exception(self.error())
        if kind == "read_result":
            return self.unpack("read_contexts")
        if kind == "close_result":
            return self.unpack("u64"), self.unpack("u64"), self.unpack("bool")
        return ()


def encode(name, **fields):
    body = struct.pack("<I", NUMBERS[name])
    for field, kind in MESSAGES[NUMBERS[name]][1]:
        body += pack(kind, fields.pop(field))
    assert not fields, fields
    return struct.pack("<I", len(body) + 4) + body


def decode(body):
    """From a frame without its length. The fields as attributes, and `name`."""
    reader = Reader(body)
    name, fields = MESSAGES[reader.unpack("u32")]
    message = SimpleNamespace(name=name, **{field: reader.unpack(kind) for field, kind in fields})
    assert reader.at == len(body), f"{len(body) - reader.at} bytes behind {name}"
    return message


class Upstairs:
    """One connection. Fields that a call does not name have the values that belong there."""

    def __init__(self, address, upstairs_id=None, session_id=None, generation=1, read_only=False, encrypted=False,
                 timeout=10):
        self.socket = socket.create_connection(address, timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.defaults = {
            "version": VERSION, "upstairs_id": upstairs_id or uuid.uuid4(), "session_id": session_id or uuid.uuid4(),
            "generation": generation, "read_only": read_only, "encrypted": encrypted, "alternates": [], "deps": [],
            "snapshot": None, "limit": None, "job": None, "client": 0, "source": 0, "destinations": [],
            "block_size": 4096}
        self.next_job = 1000

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __getattr__(self, name):
        try:
            return self.__dict__["defaults"][name]
        except KeyError:
            raise AttributeError(name) from None

    def close(self):
        self.socket.close()

    # frames

    def frame(self, name, **fields):
        for field, _ in MESSAGES[NUMBERS[name]][1]:
            if field not in fields and field in self.defaults:
                fields[field] = self.defaults[field]
        return encode(name, **fields)

    def send_bytes(self, data):
        self.socket.sendall(data)

    def send(self, name, **fields):
        self.send_bytes(self.frame(name, **fields))

    def _receive(self, size):
        while len(self.received) < size:
            try:
                more = self.socket.recv(1 << 20)
            except ConnectionResetError:
                more = b""
            if not more:
                raise Closed(self.received)
            self.received += more
        data, self.received = self.received[:size], self.received[size:]
        return data

    def receive(self, timeout=10):
        self.socket.settimeout(timeout)
        length, = struct.unpack("<I", self._receive(4))
        return decode(self._receive(length - 4))

    def expect(self, name, timeout=10):
        message = self.receive(timeout)
        assert message.name == name, message
        return message

    def expect_closed(self, timeout=10):
        try:
            message = self.receive(timeout)
        except Closed as closed:
            assert closed.args == (b"",), closed.args
            return
        raise AssertionError(message)

    def expect_silence(self, seconds=0.3):
        try:
            message = self.receive(seconds)
        except TimeoutError:
            return
        raise AssertionError(message)

    # negotiation

    def here_i_am(self):
        self.send("HereIAm")
        return self.expect("YesItsMe")

    def promote(self):
        """False if the connection was closed without a word."""
        self.here_i_am()
        self.send("PromoteToActive")
        try:
            message = self.expect("YouAreNowActive")
        except Closed:
            return False
        assert all(getattr(message, field) == getattr(self, field) for field, _ in SESSION), message
        return True

    def region(self):
        self.send("RegionInfoPlease")
        region = self.expect("RegionInfo")
        self.defaults["block_size"] = region.block_size
        return region

    def versions(self):
        """[(generation, flush number, dirty)], by extent."""
        self.send("ExtentVersionsPlease")
        message = self.expect("ExtentVersions")
        return list(zip(message.generations, message.flush_numbers, message.dirty))

    def run(self, last_flush=None):
        """All of it. With last_flush no versions are asked for."""
        assert self.promote()
        self.region()
        if last_flush is not None:
            self.send("LastFlush", job=last_flush)
        else:
            self.first_versions = self.versions()
        return self

    # jobs

    def job(self, name, **fields):
        """Sends a job under the next id, which is returned."""
        if "job_id" not in fields:
            fields["job_id"] = self.next_job
            self.next_job += 1
        self.send(name, **fields)
        return fields["job_id"]

    def contexts(self, data):
        size = self.block_size
        return [(xxh64(data[at:at + size]), None) for at in range(0, len(data), size)]

    def send_write(self, start, data, name="Write", contexts=None, **fields):
        return self.job(name, start=start, data=data,
                        contexts=self.contexts(data) if contexts is None else contexts, **fields)

    def answer(self, name, job_id, timeout=10):
        message = self.expect(name, timeout)
        assert message.job_id == job_id and message.upstairs_id == self.upstairs_id, message
        assert message.session_id == self.session_id, message
        if isinstance(message.result, Exception):
            raise message.result
        return message

    def write(self, start, data, name="Write", **fields):
        self.answer(name + "Ack", self.send_write(start, data, name, **fields))

    def read(self, start, count=1, **fields):
        """([context], bytes)."""
        message = self.answer("ReadResponse", self.job("ReadRequest", start=start, count=count, **fields))
        return message.result, message.data

    def flush(self, flush_number, **fields):
        self.answer("FlushAck", self.job("Flush", flush_number=flush_number, **fields))

    def ping(self, timeout=10):
        self.send("Ruok")
        self.expect("Imok", timeout)

    def live(self, name, extent=None, **fields):
        """A job of live repair, and its answer."""
        if extent is not None:
            fields["extent"] = extent
        job_id = self.job(name, **fields)
        answer = {"ExtentLiveClose": "ExtentLiveCloseAck", "ExtentLiveFlushClose": "ExtentLiveCloseAck",
                  "ExtentLiveRepair": "ExtentLiveRepairAckId"}.get(name, "ExtentLiveAckId")
        return self.answer(answer, job_id, 60).result

    def mend(self, name, extent, repair_id=0, **fields):
        """A message for reconciliation. Returns None, or the error."""
        self.send(name, extent=extent, repair_id=repair_id, **fields)
        message = self.receive(60)
        assert message.repair_id == repair_id, message
        if message.name == "RepairAckId":
            return None
        assert message.name == "ExtentError" and message.extent == extent, message
        return message.error


def wait_for_port(address, alive, timeout=20):
    """Until something listens there."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address, 1).close()
            return
        except OSError:
            assert alive(), "the process has ended"
            time.sleep(0.01)
    raise AssertionError(f"nothing listens on {address}")
