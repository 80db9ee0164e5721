#!/usr/bin/python3
"""Clients that come and go, a very large number of them: the gateway keeps neither memory nor descriptors of them (R13).

usage: many-connections.py COUNT [SEED]        (TB4_BUILD chooses the build: memory only counts in one without sanitizers)

Most choose the export, read, and go; some hang up without a word, in the middle of an option or of a payload, or send what
is no NBD. The first tenth is to warm up. Prints one line of figures. Exit status 0 if memory rose by less than 1 MiB for
10^6 connections (and not more than 512 KiB in a shorter run) and no descriptor stayed open.
"""
import os
import random
import shutil
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import wire  # noqa: E402
from support.node import Node, wait_until  # noqa: E402

NAME = b"vm-200-disk-0"
FLAGS = struct.pack(">I", 3)
GO = struct.pack(">QIII", wire.OPTION_MAGIC, wire.OPT_GO, 4 + len(NAME) + 2, len(NAME)) + NAME + struct.pack(">H", 0)


def request(kind, length=0):
    return struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, kind, 1, 0, length)


DISC = request(wire.CMD_DISC)
USUAL = FLAGS + GO + request(wire.CMD_READ, 4096) + request(wire.CMD_WRITE, 512) + bytes(512) + DISC
RUDE = [b"", FLAGS[:2], FLAGS + GO[:9], FLAGS + GO + request(wire.CMD_WRITE, 1 << 20) + bytes(1000), b"GET / HTTP/1.1\r\n\r\n",
        FLAGS + struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_ABORT, 0), FLAGS + GO + b"x" * 28]


def meet(path, words):
    """True if the server has answered a usual client to its end."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        try:
            sock.sendall(words)
            if words is not USUAL:
                return False
            received = 0
            while data := sock.recv(65536):
                received += len(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
    return received > 4096


def descriptors(gateway):
    return len(os.listdir(f"/proc/{gateway.pid}/fd"))


def rest(gateway):
    """(bytes of memory, open descriptors) when nobody is there and memory has been given back."""
    def is_quiet():
        shown = gateway.status()["nbd"]
        return shown["connections"] + shown["handshakes"] == 0 and shown["memory_used"] == 0
    wait_until(is_quiet, "no client left")
    time.sleep(3)
    return gateway.memory("Rss"), descriptors(gateway)


def run(gateway, dice, count):
    answered = 0
    for _ in range(count):
        words = USUAL if dice.random() < 0.8 else dice.choice(RUDE)
        answered += meet(gateway.socket, words)
    return answered


def main():
    count = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    dice = random.Random(seed)
    directory = Path(tempfile.mkdtemp(prefix="tb4-connections-"))
    node, began = Node(directory), time.monotonic()
    try:
        node.create(200, "8M")
        gateway = node.start(200)
        run(gateway, dice, count // 10)
        before = rest(gateway)
        answered = run(gateway, dice, count)
        after = rest(gateway)
        accepted = gateway.status()["nbd"]["accepted"]
        assert gateway.stop() == 0, gateway.log
    finally:
        node.close()
        shutil.rmtree(directory, ignore_errors=True)
    grown = after[0] - before[0]
    print(f"{count} connections, {answered} answered, memory {before[0] >> 10} to {after[0] >> 10} KiB, descriptors {before[1]} to "
          f"{after[1]}, seed {seed}, {time.monotonic() - began:.0f} s")
    limit = max(count, 500000) / 1e6 * (1 << 20)
    # a full backlog refuses nobody, so each has been accepted
    return 0 if (grown < limit and after[1] <= before[1] and answered > count // 2 and
                 accepted == count + count // 10) else 1


if __name__ == "__main__":
    sys.exit(main())
