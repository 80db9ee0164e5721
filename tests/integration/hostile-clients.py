#!/usr/bin/python3
"""What hostile clients cost a neighbour: its latency, the gateway's memory, the time `tb4 status` takes (anchors R14).

usage: hostile-clients.py [ROUNDS]        (TB4_BUILD chooses the build: one without sanitizers)

Quiet and hostile phases take turns, so that a slow minute of the machine hits both. In a hostile one 1,000 clients
have connected and say nothing or half a thing, and 50 clients of another export have asked for 10 MiB each and take
no replies. A client with one request of 4 KiB at a time is what is measured.

Prints one line of figures. Exit status 0 if the 99th percentile rises by less than 20 % and memory keeps its limit.
"""
import random
import resource
import shutil
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import wire  # noqa: E402
from support.node import Node, wait_until  # noqa: E402

MIB = 1 << 20
LIMIT = 256 * MIB  # the default of `memory`
OVERHEAD = 32 * MIB  # the process itself, and 256 KiB for each busy client


def measure(client, seconds=1.0):
    """Latencies in us."""
    taken, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        offset = random.randrange(16384) * 4096
        began = time.perf_counter_ns()
        client.read(offset, 4096)
        taken.append((time.perf_counter_ns() - began) / 1000)
    return taken


def connect(gateway):
    while True:
        try:
            return gateway.client()
        except BlockingIOError:  # the queue of the listening socket is full
            time.sleep(0.001)


def attack(gateway):
    """All hostile clients, and the moment in which the gateway has done with them what it can."""
    hostile = []
    for number in range(50):
        client = gateway.connect("vm-200-disk-1")
        hostile.append(client)
        for _ in range(10):
            client.send_request(wire.CMD_READ, 0, MIB)
    for number in range(1000):
        client = connect(gateway)
        hostile.append(client)
        if number % 3 == 1:
            client.send(struct.pack(">IQII", 3, wire.OPTION_MAGIC, 7, 60000) + bytes(number % 700))
    wait_until(lambda: gateway.status()["nbd"]["accepted"] >= gateway.accepted + len(hostile), "all are accepted")
    gateway.accepted += len(hostile)
    time.sleep(0.2)
    return hostile


def percentile(taken, share):
    return sorted(taken)[int(len(taken) * share)]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    directory, memory = Path(tempfile.mkdtemp(prefix="tb4-hostile-")), tempfile.mkdtemp(prefix="tb4-", dir="/dev/shm")
    node = Node(directory, data_dir=memory)
    quiet, hostile, most_memory, slowest = [], [], 0, 0
    try:
        for disk in ("0", "1"):
            node.tb4("volume", "create", "200", "64M", "--disk", disk)
            with open(node.image(f"vm-200-disk-{disk}"), "r+b") as image:
                image.write(random.randbytes(64 * MIB))
        gateway = node.start()
        gateway.accepted = 1
        with gateway.connect("vm-200-disk-0") as client:
            measure(client)
            for _ in range(rounds):
                quiet.append(measure(client))
                clients = attack(gateway)
                hostile.append(measure(client))
                began = time.monotonic()
                used = gateway.status()["nbd"]["memory_used"]
                slowest = max(slowest, time.monotonic() - began)
                most_memory = max(most_memory, gateway.memory())
                for one in clients:
                    one.close()
                wait_until(lambda: gateway.status()["nbd"]["connections"] == 1, "they are gone")
        assert gateway.stop() == 0
    finally:
        node.close()
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)
    before, behind = ([statistics.median(percentile(taken, share) for taken in phase) for share in (0.5, 0.99)]
                      for phase in (quiet, hostile))
    rise = behind[1] / before[1] - 1
    print(f"{rounds} rounds, p50 {before[0]:.0f} -> {behind[0]:.0f} us, p99 {before[1]:.0f} -> {behind[1]:.0f} us "
          f"({rise:+.0%}), {most_memory / MIB:.0f} MiB PSS at most, {used / MIB:.0f} MiB of them for requests, "
          f"tb4 status within {slowest * 1000:.0f} ms")
    return 0 if rise < 0.2 and most_memory < LIMIT + OVERHEAD else 1


if __name__ == "__main__":
    sys.exit(main())
