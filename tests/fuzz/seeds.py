#!/usr/bin/python3
"""Writes the hand-made seeds of the corpus: valid sessions, files and requests to start from.

usage: seeds.py DIRECTORY     (makes DIRECTORY/handshake, .../transmission, .../config, .../control)
"""
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
           b"[log]\nlevel = debug\n")
    yield (b"\1[volume]\nbackend = file\nsize = 50G\nhost = a\ndescription = x y\nread_only = yes\n[ports]\n"
           b"nbd = 20000\ndevice = 100\n[file]\nimage = /x\n")
    yield (b'\2{"version":1,"claim_id":"7d345299-b1c0-4941-8c38-d8496b7b0fd6","seq":2,"node":"vm",'
           b'"boot_id":"e0df850d-b28d-47a4-bf3e-a848d0188aa0","generation_first":1795270010,'
           b'"generation_last":1795271009,"released":true}\nxxh64 fcc8b155a0c5a32a\n')
    for text in (b"50G", b"vm-200-disk-0", b"base-200-disk-1", b"vm-200-state-a", b"200", b"7EiB"):
        yield b"\3" + text


def controls():
    for command in ("status", "metrics", "nonsense"):
        yield f'{{"version": 1, "command": "{command}"}}\n'.encode()
    yield b'{"version": 1, "command": "resize", "volume": "vm-200-disk-1", "size": 2097152}\n'
    yield b'{"version": 1, "command": "status"}\n{"version": 1, "command": "metrics"}\n'
    yield b'[]\n{"version": 2}\nnull\n"\\ud800"\n'


def main():
    for name, seeds in (("handshake", handshakes), ("transmission", transmissions), ("config", configs),
                        ("control", controls)):
        directory = Path(sys.argv[1]) / name
        directory.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (directory / f"seed-{number:02}").write_bytes(seed)


main()
