#!/usr/bin/python3
"""Writes the hand-made seeds of the corpus: valid sessions, files and requests to start from.

usage: seeds.py DIRECTORY     (makes DIRECTORY/handshake, .../transmission, .../config, .../control,
                               .../codec)
"""
import ssl
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import wire  # noqa: E402

NAME = b"vm-200-disk-0"


def option(kind, data=b""):
    return struct.pack(">QII", wire.OPTION_MAGIC, kind, len(data)) + data


def string(text):
    return struct.pack(">I", len(text)) + text


def request(kind, offset=0, length=0, flags=0, payload=b"", extended=False):
    if extended:
        return struct.pack(">IHHQQQ", wire.EXTENDED_REQUEST_MAGIC, flags, kind, 1, offset, length) + payload
    return struct.pack(">IHHQQI", wire.REQUEST_MAGIC, flags, kind, 1, offset, length) + payload


def handshakes():
    flags = struct.pack(">I", 3)
    go = string(NAME) + struct.pack(">HHHH", 3, 1, 2, 3)
    meta = string(NAME) + struct.pack(">I", 1) + string(b"base:allocation")
    yield flags + option(wire.OPT_EXPORT_NAME, NAME)
    yield struct.pack(">I", 1) + option(wire.OPT_EXPORT_NAME, b"") + request(wire.CMD_DISC)
    yield flags + option(wire.OPT_LIST) + option(wire.OPT_ABORT)
    yield flags + option(wire.OPT_INFO, go) + option(wire.OPT_GO, go) + request(wire.CMD_READ, 0, 512)
    yield (flags + option(wire.OPT_STRUCTURED_REPLY) + option(wire.OPT_LIST_META_CONTEXT, meta)
           + option(wire.OPT_SET_META_CONTEXT, meta) + option(wire.OPT_GO, go)
           + request(wire.CMD_BLOCK_STATUS, 0, 4096))
    yield flags + option(wire.OPT_EXTENDED_HEADERS) + option(wire.OPT_GO, go) + request(
        wire.CMD_READ, 0, 512, extended=True)
    yield flags + option(wire.OPT_STARTTLS) + option(77, b"unknown") + option(wire.OPT_LIST)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        yield flags + option(wire.OPT_LIST) + option(wire.OPT_STARTTLS) + outgoing.read()


def transmissions():
    for extended in (False, True):
        length = wire.PAYLOAD_LEN if extended else 0
        requests = [
            request(wire.CMD_READ, 4096, 65536, extended=extended),
            request(wire.CMD_READ, 1, 3, wire.DF, extended=extended),
            request(wire.CMD_WRITE, 512, 512, wire.FUA | length, b"x" * 512, extended),
            request(wire.CMD_WRITE, 513, 1000, length, b"y" * 1000, extended),
            request(wire.CMD_FLUSH, extended=extended),
            request(wire.CMD_TRIM, 100, 5000, extended=extended),
            request(wire.CMD_WRITE_ZEROES, 0, 1 << 20, wire.NO_HOLE | wire.FAST_ZERO, extended=extended),
            request(wire.CMD_WRITE_ZEROES, 7, 9000, extended=extended),
            request(wire.CMD_CACHE, 0, 4096, extended=extended),
            request(wire.CMD_BLOCK_STATUS, 10, 70000, wire.REQ_ONE, extended=extended),
            request(wire.CMD_DISC, extended=extended),
        ]
        if extended:
            payload = struct.pack(">QI", 65536, 1)
            requests.insert(0, request(wire.CMD_BLOCK_STATUS, 0, len(payload), wire.PAYLOAD_LEN, payload, True))
        for kind in range(32):
            if (kind & 3 >= 2) == extended:
                yield bytes([kind]) + b"".join(requests)
        for one in requests:
            yield bytes([6 if extended else 5]) + one


def configs():
    yield (b"\0[paths]\nrun_dir = /run/tb4\n[node]\nname = a\n[nbd]\nlisten = 127.0.0.1\nlist = no\n"
           b"allow_users = root, 1000\nhandshake_timeout = 5\nmemory = 512M\n[file]\ndirect = off\n"
           b"[sled s1]\naddress = ::1\ncommand = sh -c\ncapacity = 1T\n[sled s2]\naddress = b\n"
           b"[log]\nlevel = debug\n")
    yield (b"\1[volume]\nbackend = file\nsize = 50G\nhost = a\ndescription = x y\nread_only = yes\n[ports]\n"
           b"nbd = 20000\ndevice = 100\n[file]\nimage = /x\n")
    yield (b'\2{"version":1,"claim_id":"7d345299-b1c0-4941-8c38-d8496b7b0fd6","seq":2,"node":"vm",'
           b'"boot_id":"e0df850d-b28d-47a4-bf3e-a848d0188aa0","generation_first":1795270010,'
           b'"generation_last":1795271009,"released":true}\nxxh64 fcc8b155a0c5a32a\n')
    for text in (b"50G", b"vm-200-disk-0", b"base-200-disk-1", b"vm-200-state-a", b"200", b"7EiB"):
        yield b"\3" + text


def controls():
    for command in ("status", "metrics", "reload", "trace", "nonsense"):
        yield f'{{"version": 1, "command": "{command}"}}\n'.encode()
    yield b'{"version": 1, "command": "resize", "volume": "vm-200-disk-1", "size": 2097152}\n'
    yield b'{"version": 1, "command": "status"}\n{"version": 1, "command": "metrics"}\n'
    yield b'{"version": 1, "command": "reload", "only_limits": true, "dry_run": true}\n'
    yield b'{"version": 1, "command": "trace", "from": 7}\n'
    yield b'[]\n{"version": 2}\nnull\n"\\ud800"\n'


def crucible_frame(kind, body=b""):
    return struct.pack("<II", 8 + len(body), kind) + body


def codecs():
    uuid = struct.pack("<Q", 16) + bytes(range(16))
    job = uuid + uuid + struct.pack("<Q", 1001)
    dependencies = struct.pack("<QQQ", 2, 999, 1000)
    text = struct.pack("<Q", 3) + b"why"
    ipv4 = struct.pack("<I4sH", 0, bytes((127, 0, 0, 1)), 7810)
    ipv6 = struct.pack("<I16sH", 1, bytes(15) + b"\1", 7810)
    session = uuid + uuid + struct.pack("<Q", 7)
    extent = struct.pack("<QI", 2, 1)
    encryption = bytes(28)
    block_contexts = struct.pack("<QQ?Q?", 2, 5, False, 6, True) + encryption
    read_contexts = struct.pack("<QIIQI", 3, 0, 2, 5, 1) + encryption
    data = struct.pack("<Q", 8) + b"datadata"
    messages = [
        (0, struct.pack("<I", 13) + session + struct.pack("<??QII", False, True, 2, 12, 11)),
        (1, struct.pack("<I", 13) + ipv4),
        (1, struct.pack("<I", 13) + ipv6),
        (2, struct.pack("<I", 12)),
        (3, b"\1"),
        (4, b"\0"),
        (5, session),
        (6, session),
        (7, session),
        (8, uuid),
        (9, b""),
        (10, b""),
        (11, extent),
        (12, extent),
        (13, extent + struct.pack("<BQQ", 0, 2, 8)),
        (14, extent + b"\0" + ipv6 + struct.pack("<QBB", 2, 1, 2)),
        (15, struct.pack("<Q", 2)),
        (16, extent + struct.pack("<I", 28) + text),
        (17, job + dependencies + struct.pack("<I", 1)),
        (18, job + dependencies + struct.pack("<IQQ", 1, 2, 8)),
        (19, job + dependencies + struct.pack("<IB", 1, 2) + ipv4),
        (20, job + dependencies + struct.pack("<I", 1)),
        (21, job + dependencies),
        (22, job + struct.pack("<IQQ?", 0, 7, 1, True)),
        (25, b""),
        (26, struct.pack("<QQII", 512, 100, 9, 15) + uuid + struct.pack("<?QQ", False, 1, 1)),
        (27, b""),
        (28, struct.pack("<QQQQQQQ??", 2, 1, 2, 2, 3, 4, 2, True, False)),
        (29, b"\0"),
        (29, struct.pack("<?Q", True, 1002)),
        (30, job + dependencies + struct.pack("<Q", 5) + block_contexts + data),
        (32, job + dependencies + struct.pack("<QQ??I", 1, 7, False, True, 3)),
        (32, job + dependencies + struct.pack("<QQ?", 1, 7, True) + text + b"\0"),
        (34, job + dependencies),
        (36, job + dependencies + struct.pack("<QQ", 5, 2)),
        (37, job + struct.pack("<I", 0) + read_contexts + data),
        (37, job + struct.pack("<II", 1, 1) + text + struct.pack("<Q", 0)),
        (38, job + dependencies + struct.pack("<Q", 5) + block_contexts + data),
        *((kind, job + struct.pack("<I", 0)) for kind in (23, 24, 31, 33, 35, 39)),
    ]
    errors = [struct.pack("<I", kind) for kind in range(42)]
    errors += [struct.pack("<I", kind) + text for kind in range(42)]
    errors += [struct.pack("<IQI", 36, 9, 2)]
    negotiation = (b"", b"", bytes(16), bytes(8), b"\0\1", b"\1\0", uuid + uuid, uuid + uuid)
    for kind, values in enumerate(negotiation):
        errors.append(struct.pack("<II", 41, kind) + values)
    for kind, body in messages:
        yield b"\1\7" + crucible_frame(kind, body)
    for error in errors:
        yield b"\1\40" + crucible_frame(40, job + error)


def main():
    for name, seeds in (("handshake", handshakes), ("transmission", transmissions), ("config", configs),
                        ("control", controls), ("codec", codecs)):
        directory = Path(sys.argv[1]) / name
        directory.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (directory / f"seed-{number:02}").write_bytes(seed)


main()
