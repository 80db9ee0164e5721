"""Bytes in flight: bounded for each client and for all, whatever they send or do not read, and no client
stops another (design 7.2, anchors R14)."""
import struct
import threading
import time

import pytest

from support import wire
from support.node import wait_until

MIB = 1 << 20
# what the process may have beyond the budget: receive buffers, requests, the program itself
SLACK = 16 * MIB


@pytest.fixture
def start(make_node, memory_dir):
    def start(settings, size="64M"):
        node = make_node(data_dir=memory_dir, settings="[nbd]\n" + settings)
        node.create(200, size)
        return node.start(200)
    return start


def used(gateway):
    return gateway.status()["nbd"]["memory_used"]


def fill(client, kind=wire.CMD_READ, length=MIB, count=100, payload=b""):
    """Sends requests and reads no reply."""
    for number in range(count):
        client.send_request(kind, number % 32 * MIB, length, payload=payload)


def assert_served(gateway):
    """A client that behaves is served, new or not."""
    with gateway.connect() as client:
        client.write(60 * MIB, b"served" * 1000)
        assert client.read(60 * MIB, 6000) == b"served" * 1000
        assert len(client.read(60 * MIB, 256 << 10)) == 256 << 10
        client.flush()


class Busy(threading.Thread):
    """A client that behaves, during a test; it must not be kept waiting for long."""

    def __init__(self, gateway):
        super().__init__()
        self.client = gateway.connect()
        self.longest, self.count, self.failure, self.ends = 0, 0, None, threading.Event()

    def run(self):
        try:
            while not self.ends.is_set():
                begin = time.monotonic()
                self.client.write(0, struct.pack(">Q", self.count) * 512)
                assert self.client.read(0, 4096) == struct.pack(">Q", self.count) * 512
                self.longest = max(self.longest, time.monotonic() - begin)
                self.count += 1
        except Exception as error:  # noqa: BLE001 the test's thread shows it
            self.failure = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.join()
        self.client.close()
        assert self.failure is None, repr(self.failure)
        assert self.count > 0


def test_client_that_never_reads_is_held_back(start):
    gateway = start("connection_memory = 32M")
    with gateway.connect() as hog:
        fill(hog)
        wait_until(lambda: used(gateway) >= 30 * MIB, "the replies wait")
        assert used(gateway) <= 32 * MIB
        assert_served(gateway)
        # nothing is lost: it gets all when it reads
        assert {reply.error for reply in hog.read_replies(100).values()} == {0}
    wait_until(lambda: used(gateway) == 0, "the memory is given back")


def test_fifty_clients_that_never_read_stop_nobody(start):
    """With requests of 1 MiB, ten for each."""
    gateway = start("max_connections = 100")
    with Busy(gateway) as busy:
        hogs = [gateway.connect() for _ in range(50)]
        for hog in hogs:
            fill(hog, count=10)
        wait_until(lambda: used(gateway) > 200 * MIB, "most of the memory is taken")
        for _ in range(3):
            assert_served(gateway)
        assert used(gateway) <= 256 * MIB
        so_far = busy.count
        wait_until(lambda: busy.count > so_far + 20, "the neighbour goes on")
    for hog in hogs:
        hog.close()


@pytest.mark.parametrize("memory", [64, 256])
def test_few_clients_with_the_largest_reads_stop_nobody(start, memory):
    gateway = start(f"memory = {memory}M\nmax_connections = 100")
    hogs = [gateway.connect() for _ in range(20)]
    for hog in hogs:
        fill(hog, length=32 * MIB, count=3)
    wait_until(lambda: used(gateway) >= 32 * MIB, "memory is taken")
    assert_served(gateway)
    for hog in hogs:
        hog.close()


@pytest.mark.parametrize("memory", [64, 256])
def test_clients_that_promise_payloads_and_do_not_send_them_stop_nobody(start, memory):
    """The header of a WRITE alone takes memory for all of it."""
    gateway = start(f"memory = {memory}M\nmax_connections = 100")
    hogs = [gateway.connect() for _ in range(20)]
    for hog in hogs:
        hog.send_request(wire.CMD_WRITE, 0, 32 * MIB, payload=b"x")
    wait_until(lambda: used(gateway) >= 32 * MIB, "memory is taken")
    assert_served(gateway)
    for hog in hogs:
        hog.close()


def test_client_that_stops_in_a_payload_is_dropped_when_memory_is_short(start):
    """Else a handful of them would hold all of it for ever."""
    gateway = start("memory = 64M\nconnection_memory = 32M\nstall_timeout = 1")
    hogs = [gateway.connect() for _ in range(4)]
    for hog in hogs:
        hog.send_request(wire.CMD_WRITE, 0, 32 * MIB, payload=b"x")
    with gateway.connect() as client:
        client.write(0, b"x" * 32 * MIB)
    for hog in hogs:
        hog.close()


def test_client_that_takes_no_replies_is_dropped_when_memory_is_short(start):
    gateway = start("memory = 64M\nconnection_memory = 32M\nstall_timeout = 1")
    hogs = [gateway.connect() for _ in range(2)]
    for hog in hogs:
        fill(hog, length=16 * MIB, count=4)
    with gateway.connect() as client:
        assert len(client.read(0, 32 * MIB)) == 32 * MIB
    gateway.wait_for_log("takes no replies for 1 s while memory is short: dropped")
    for hog in hogs:
        hog.close()


def test_client_that_takes_no_replies_stays_while_there_is_memory(start):
    gateway = start("stall_timeout = 1")
    with gateway.connect() as slow:
        fill(slow, count=8)
        time.sleep(2.5)
        assert {reply.error for reply in slow.read_replies(8).values()} == {0}


def test_slow_reader_is_not_dropped_while_it_reads(start):
    """Memory is short for longer than the limit, because of its own requests; but it takes what it gets."""
    gateway = start("memory = 64M\nconnection_memory = 32M\nstall_timeout = 1")
    with gateway.connect() as slow:
        slow.write(0, b"x" * MIB)
        for _ in range(40):
            slow.send_request(wire.CMD_READ, 0, MIB)
        wait_until(lambda: used(gateway) > 20 * MIB, "the replies wait")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            slow.read_reply()
            slow.send_request(wire.CMD_READ, 0, MIB)
            time.sleep(0.2)
        assert {reply.error for reply in slow.read_replies(40).values()} == {0}


def test_waiters_go_on_when_memory_returns(start):
    """More than the budget holds, from clients that all read."""
    gateway = start("memory = 64M\nconnection_memory = 32M", size="128M")
    clients = [gateway.connect() for _ in range(6)]
    for client in clients:
        fill(client, length=8 * MIB, count=6)
    assert used(gateway) <= 64 * MIB
    failures = []

    def read_all(client):
        try:
            assert {reply.error for reply in client.read_replies(6).values()} == {0}
        except Exception as error:  # noqa: BLE001 shown below
            failures.append(error)

    readers = [threading.Thread(target=read_all, args=(client,)) for client in clients]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not failures
    for client in clients:
        client.close()
    wait_until(lambda: used(gateway) == 0, "the memory is given back")


def test_memory_returns_when_a_client_that_never_read_leaves(start):
    gateway = start("memory = 64M\nconnection_memory = 64M")
    hogs = [gateway.connect() for _ in range(3)]
    for hog in hogs:
        fill(hog, count=40)
    with gateway.connect() as waiting:
        cookie = waiting.send_request(wire.CMD_READ, 0, 32 * MIB)
        for hog in hogs:
            hog.close()
        assert waiting.read_reply()[0] == cookie
    wait_until(lambda: used(gateway) == 0, "the memory is given back")


def test_large_writes_wait_for_memory_and_all_are_done(start):
    """The payload of a request that waits stays in its client."""
    gateway = start("memory = 64M\nconnection_memory = 32M", size="256M")
    clients = [gateway.connect() for _ in range(4)]
    writers = [threading.Thread(target=lambda c=client, n=number: [
        c.write((n * 2 + half) * 32 * MIB, bytes([n * 2 + half + 1]) * 32 * MIB) for half in (0, 1)])
        for number, client in enumerate(clients)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for number in range(8):
        assert clients[0].read(number * 32 * MIB, 4096) == bytes([number + 1]) * 4096
        assert clients[0].read((number + 1) * 32 * MIB - 4096, 4096) == bytes([number + 1]) * 4096
    for client in clients:
        client.close()


def test_deep_queue_does_not_starve_a_shallow_one(start):
    gateway = start("")
    with gateway.connect() as deep, Busy(gateway) as busy:
        stop = threading.Event()
        reader = threading.Thread(target=lambda: drink(deep, stop))
        reader.start()
        so_far = busy.count
        for _ in range(40):
            fill(deep, length=4096, count=100)
            fill(deep, length=MIB, count=2)
        wait_until(lambda: busy.count > so_far + 5, "the neighbour goes on")
        stop.set()
        deep.close()
        reader.join()


def drink(client, stop):
    """Reads whatever comes."""
    try:
        while not stop.is_set() and client.sock.recv(MIB):
            pass
    except OSError:
        pass


# Measured by the kernel

def assert_within(gateway, budget):
    """Twice, with time for what is still on its way."""
    for _ in range(2):
        time.sleep(0.3)
        memory = gateway.memory()
        assert memory <= budget + SLACK, f"{memory >> 20} MiB for {budget >> 20} of budget"


@pytest.mark.plain
def test_memory_of_replies_nobody_reads_stays_under_the_cap(start):
    gateway = start("memory = 64M\nconnection_memory = 32M\nmax_connections = 100")
    with gateway.connect() as client:
        client.write(0, b"x" * 32 * MIB)
    hogs = [gateway.session(mode) for mode in ("simple", "structured", "extended") for _ in range(10)]
    for length in (MIB, 65536, 4096, 512):
        for hog in hogs:
            fill(hog, length=length, count=20)
    wait_until(lambda: used(gateway) > 40 * MIB, "memory is taken")
    assert_within(gateway, 64 * MIB)
    for hog in hogs:
        hog.close()


@pytest.mark.plain
def test_memory_of_buffers_that_were_larger_before_is_counted(start):
    """Replies of a little more than 1 MiB in buffers that held 4 MiB a moment ago."""
    gateway = start("memory = 64M\nconnection_memory = 32M")
    hogs = [gateway.connect() for _ in range(10)]
    with gateway.connect() as client:
        for at in (0, 32 * MIB):
            client.write(at, b"x" * 32 * MIB)
        for number in range(60):
            client.read(0, 4 * MIB)
            hogs[number % 10].send_request(wire.CMD_READ, 0, MIB + 4096)
        assert_within(gateway, 64 * MIB)
    for hog in hogs:
        hog.close()


@pytest.mark.plain
def test_memory_of_errors_nobody_reads_stays_under_the_cap(start):
    """28 bytes that are refused with a sentence."""
    gateway = start("memory = 64M\nconnection_memory = 64M")
    request = struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, 99, 1, 0, 0) * 1000
    hogs = [gateway.session("structured") for _ in range(8)]
    for hog in hogs:
        hog.sock.settimeout(0.5)
        try:
            for _ in range(40):
                hog.send(request)
        except TimeoutError:
            pass  # held back
    assert_within(gateway, 64 * MIB)
    for hog in hogs:
        hog.close()


@pytest.mark.plain
def test_idle_gateway_gives_its_memory_back(start):
    gateway = start("")
    before = gateway.memory()
    with gateway.connect() as client:
        for number in range(8):
            client.write(number * 8 * MIB, b"x" * 8 * MIB)
            client.read(number * 8 * MIB, 8 * MIB)
        wait_until(lambda: gateway.memory() < before + MIB, "the buffers are gone")
        assert client.read(0, 512) == b"x" * 512


@pytest.mark.plain
def test_memory_of_spare_buffers_counts_too(start):
    """Buffers of one size are kept for reuse; those of another come on top."""
    gateway = start("memory = 64M\nconnection_memory = 64M")
    with gateway.connect() as client:
        for at in (0, 32 * MIB):
            client.write(at, b"x" * 32 * MIB)
        fill(client, length=4 * MIB, count=15)
        wait_until(lambda: used(gateway) >= 24 * MIB, "large buffers are in use")
        client.read_replies(15)
    hogs = [gateway.connect() for _ in range(20)]
    for hog in hogs:
        fill(hog, length=256 << 10, count=40)
    assert_within(gateway, 64 * MIB)
    for hog in hogs:
        hog.close()
