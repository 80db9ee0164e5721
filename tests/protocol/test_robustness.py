"""Random and mutated sessions: whatever comes, the gateway stays up and serves others with right data.

The seed stands in the test's name; the same seed sends the same bytes.
"""
import random
import shutil
import struct
import tempfile
import threading

import pytest

from support import wire
from support.node import Node, wait_until

SIZE = 4 << 20


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """One gateway for all seeds: what one leaves behind is the next one's start."""
    node = Node(tmp_path_factory.mktemp("robust"), data_dir=tempfile.mkdtemp(prefix="tb4-", dir="/dev/shm"),
                settings="[nbd]\nmax_handshakes = 16\nhandshake_timeout = 2")
    node.create(200, "4M")
    node.create(200, "4M", "--disk", 1)
    gateway = node.start(200)
    yield gateway
    assert gateway.is_running(), gateway.log
    assert "Sanitizer" not in gateway.log and "runtime error" not in gateway.log, gateway.log
    wait_until(lambda: gateway.status()["nbd"]["handshakes"] == 0, "every client is forgotten")
    wait_until(lambda: gateway.status()["nbd"]["connections"] == 0, "every client is forgotten")
    assert gateway.status()["nbd"]["memory_used"] == 0
    assert gateway.stop() == 0
    node.close()
    shutil.rmtree(node.data_dir)


class Neighbour(threading.Thread):
    """A client that behaves, on the other disk; every read is compared."""

    def __init__(self, gateway):
        super().__init__()
        self.client = gateway.connect("vm-200-disk-1")
        self.ends, self.failure, self.rounds = threading.Event(), None, 0

    def run(self):
        rng, model = random.Random(0), bytearray(SIZE)
        self.client.write(0, bytes(SIZE))
        try:
            while not self.ends.is_set() or self.rounds == 0:
                offset, length = rng.randrange(SIZE - 70000), rng.randrange(1, 70000)
                data = rng.randbytes(length)
                self.client.write(offset, data)
                model[offset:offset + length] = data
                offset = rng.randrange(SIZE - 70000)
                assert self.client.read(offset, 70000) == model[offset:offset + 70000]
                self.rounds += 1
        except Exception as error:  # noqa: BLE001 the test's thread shows it
            self.failure = error


@pytest.fixture
def neighbour(target):
    neighbour = Neighbour(target)
    neighbour.start()
    yield neighbour
    neighbour.ends.set()
    neighbour.join()
    neighbour.client.close()
    assert neighbour.failure is None, repr(neighbour.failure)


def feed(target, data, rng):
    """Sends the bytes in pieces and leaves, in one of the ways in which clients leave."""
    with target.client(timeout=0.05) as client:
        try:
            at = 0
            while at < len(data):
                n = rng.choice((1, 7, 100, 5000, len(data)))
                at += client.sock.send(data[at:at + n])
                if rng.random() < 0.1:
                    client.sock.recv(rng.choice((1, 18, 4096)))
            if rng.random() < 0.3:
                client.half_close()
            if rng.random() < 0.3:
                while client.sock.recv(65536):
                    pass
        except OSError:
            pass  # closed, or nothing to read, as it likes


def string(data):
    return struct.pack(">I", len(data)) + data


def options(rng, end):
    """Option haggling: mostly valid. `end`: with GO at last."""
    data = struct.pack(">I", rng.choice((3, 3, 3, 3, 1, rng.getrandbits(32))))
    names = (b"", b"vm-200-disk-0", b"nothing", b"vm-200-disk-0\0", rng.randbytes(20))
    choices = [(wire.OPT_LIST, b""), (wire.OPT_STRUCTURED_REPLY, b""), (wire.OPT_EXTENDED_HEADERS, b""),
               (wire.OPT_STARTTLS, b""), (rng.getrandbits(32), rng.randbytes(rng.randrange(40)))]
    for _ in range(rng.randrange(8)):
        option, content = rng.choice(choices)
        if rng.random() < 0.5:
            name = rng.choice(names)
            if rng.random() < 0.5:
                infos = [rng.randrange(6) for _ in range(rng.randrange(5))]
                option = wire.OPT_INFO
                content = string(name) + struct.pack(">H", len(infos)) + b"".join(
                    struct.pack(">H", info) for info in infos)
            else:
                contexts = (b"base:allocation", b"base:", b"x:y")
                queries = [rng.choice(contexts) for _ in range(rng.randrange(4))]
                option = rng.choice((wire.OPT_LIST_META_CONTEXT, wire.OPT_SET_META_CONTEXT))
                content = string(name) + struct.pack(">I", len(queries)) + b"".join(map(string, queries))
        data += struct.pack(">QII", wire.OPTION_MAGIC, option, len(content)) + content
    if end:
        content = string(rng.choice((b"", b"vm-200-disk-0"))) + struct.pack(">HH", 1, 3)
        data += struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_GO, len(content)) + content
    return data


def requests(rng, extended):
    data = b""
    for _ in range(rng.randrange(1, 40)):
        kind = rng.choice((0, 0, 1, 1, 1, 3, 4, 5, 6, 7, 7, rng.randrange(10)))
        flags = rng.choice((0, 0, 0, rng.getrandbits(6), rng.getrandbits(16)))
        offset = rng.choice((rng.randrange(SIZE), rng.randrange(SIZE), SIZE - 1, rng.getrandbits(64)))
        length = rng.choice((rng.randrange(5000), 512, 4096, 65536, rng.randrange(1 << 20),
                             rng.getrandbits(32)))
        payload = b""
        if kind == wire.CMD_WRITE:
            length = min(length, 70000)
            payload = rng.randbytes(length)
        if extended:
            if kind == wire.CMD_WRITE or rng.random() < 0.1:
                flags |= wire.PAYLOAD_LEN
                length = min(length, 5000) if kind != wire.CMD_WRITE else length
                payload = payload or (struct.pack(">QI", 4096, 1) + bytes(length))[:length]
            data += struct.pack(">IHHQQQ", wire.EXTENDED_REQUEST_MAGIC, flags, kind, rng.getrandbits(64),
                                offset, length)
        else:
            data += struct.pack(">IHHQQI", wire.REQUEST_MAGIC, flags, kind, rng.getrandbits(64),
                                offset, length)
        data += payload
    return data


def session(rng):
    """A session as a client could mean it, except for random choices of what it asks for."""
    mode = rng.choice(("simple", "structured", "extended"))
    data = struct.pack(">I", 3)
    if mode != "simple":
        option = wire.OPT_EXTENDED_HEADERS if mode == "extended" else wire.OPT_STRUCTURED_REPLY
        data += struct.pack(">QII", wire.OPTION_MAGIC, option, 0)
        content = string(b"") + struct.pack(">I", 1) + string(b"base:allocation")
        data += struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_SET_META_CONTEXT, len(content)) + content
    content = string(b"") + (struct.pack(">HH", 1, 3) if rng.random() < 0.5 else struct.pack(">H", 0))
    data += struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_GO, len(content)) + content
    return data + requests(rng, mode == "extended")


def mutate(rng, data):
    data = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data))  # what is cut off below always leaves a byte
        change = rng.randrange(6)
        if change == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at:at + 4] = struct.pack(">I", rng.choice((0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000)))
        elif change == 2:
            del data[at + 1:at + rng.randrange(1, 40)]
        elif change == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif change == 4:
            data[at:at] = data[at:at + rng.randrange(1, 200)]
        else:
            del data[at + 1:]
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(target, neighbour, seed):
    rng = random.Random(seed)
    for _ in range(60):
        feed(target, rng.randbytes(rng.choice((1, 4, 20, 300, 70000))), rng)
    for _ in range(60):
        feed(target, struct.pack(">I", 3) + rng.randbytes(rng.choice((1, 15, 16, 300))), rng)


@pytest.mark.parametrize("seed", range(4))
def test_random_options(target, neighbour, seed):
    rng = random.Random(100 + seed)
    for _ in range(80):
        data = options(rng, rng.random() < 0.5)
        feed(target, mutate(rng, data) if rng.random() < 0.5 else data, rng)


@pytest.mark.parametrize("seed", range(8))
def test_random_requests(target, neighbour, seed):
    rng = random.Random(200 + seed)
    for _ in range(50):
        data = session(rng)
        feed(target, mutate(rng, data) if rng.random() < 0.6 else data, rng)


@pytest.mark.parametrize("mode", ["simple", "structured", "extended"])
def test_session_cut_at_any_byte(target, neighbour, mode):
    """A write whose last byte has not come is not done at all, one that has is done whole or not at all."""
    option = {"structured": wire.OPT_STRUCTURED_REPLY, "extended": wire.OPT_EXTENDED_HEADERS}.get(mode)
    data = struct.pack(">I", 3) + (struct.pack(">QII", wire.OPTION_MAGIC, option, 0) if option else b"")
    content = string(b"vm-200-disk-0") + struct.pack(">HH", 1, 3)
    data += struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_GO, len(content)) + content
    magic, flags = struct.pack(">I", wire.REQUEST_MAGIC), 0
    if mode == "extended":
        magic, flags = struct.pack(">I", wire.EXTENDED_REQUEST_MAGIC), wire.PAYLOAD_LEN
    head = ">HHQQQ" if mode == "extended" else ">HHQQI"
    before = data
    data += magic + struct.pack(head, flags, wire.CMD_WRITE, 1, 0, 512)
    for cut in range(len(data) + 512 + 1):
        stamp = bytes([cut % 251 + 1]) * 512
        with target.client() as client:
            client.send((data + stamp)[:cut])
            if cut % 2 and cut > 4:
                client.sock.recv(18)
        if cut < len(before):
            continue
        with target.session(mode, "vm-200-disk-0") as successor:
            seen = successor.read(0, 512)
            assert seen == seen[:1] * 512
            assert cut == len(data) + 512 or seen != stamp
            successor.write(0, bytes([252 + cut % 2]) * 512)
            assert successor.read(0, 512) == bytes([252 + cut % 2]) * 512


@pytest.mark.parametrize("seed", range(4))
def test_random_requests_are_answered_as_a_model_says(target, neighbour, seed):
    """Valid and invalid requests one by one: the right error, and right data after all of it."""
    rng = random.Random(300 + seed)
    mode = ("simple", "structured", "extended", "extended")[seed]
    model = bytearray(SIZE)
    with target.session(mode, "vm-200-disk-0", infos=(), allocation=mode != "simple") as client:
        client.write(0, bytes(SIZE))
        for _ in range(400):
            kind = rng.choice((0, 0, 1, 1, 1, 3, 4, 5, 6, 7, 9))
            offset = rng.choice((rng.randrange(SIZE), rng.randrange(SIZE), SIZE - 512, SIZE,
                                 rng.getrandbits(64)))
            length = rng.choice((0, 1, 512, 4096, rng.randrange(1, 70000)))
            flags = rng.choice((0, 0, 0, wire.FUA, 1 << rng.randrange(6, 16)))
            data = rng.randbytes(length) if kind == wire.CMD_WRITE else b""
            if kind == wire.CMD_FLUSH:
                offset = length = 0
            known = {0, 1, 3, 4, 5, 6} | ({7} if mode != "simple" else set())
            right = kind in known and not flags & ~wire.FUA and (kind == wire.CMD_FLUSH or (
                length > 0 and offset + length <= SIZE))
            if kind == wire.CMD_WRITE and client.extended:
                flags |= wire.PAYLOAD_LEN
                if length == 0:
                    continue
            reply = client.request(kind, offset, length, flags, data)
            assert (reply.error == 0) == right, (kind, flags, offset, length, reply.error)
            if not right:
                continue
            if kind == wire.CMD_READ:
                assert reply.data == model[offset:offset + length]
            elif kind == wire.CMD_WRITE:
                model[offset:offset + length] = data
            elif kind in (wire.CMD_WRITE_ZEROES, wire.CMD_TRIM):
                if kind == wire.CMD_TRIM:
                    kept = client.read(offset, length)
                    assert all(new in (0, old) for new, old in zip(kept, model[offset:offset + length]))
                model[offset:offset + length] = kept if kind == wire.CMD_TRIM else bytes(length)
        assert client.read(0, SIZE) == model
