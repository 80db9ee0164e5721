"""What clients that do not finish their handshake cost, and whom."""
import os
import socket
import struct
import time

import pytest

from support import wire
from support.node import needs, wait_until
from support.wire import Closed


def start(make_node, settings, **options):
    node = make_node(settings="[nbd]\n" + settings)
    node.create(200, "1M")
    return node.start(200, **options)


def handshakes(gateway):
    return gateway.status()["nbd"]["handshakes"]


@pytest.mark.parametrize("said", [b"", struct.pack(">I", 3),
                                  struct.pack(">IQII", 3, wire.OPTION_MAGIC, 7, 100)],
                         ids=["nothing", "flags", "half an option"])
def test_silent_client_is_dropped_in_time(make_node, said):
    gateway = start(make_node, "handshake_timeout = 1")
    with gateway.client() as client:
        client.recv(18)
        client.send(said)
        assert client.is_closed()
    gateway.wait_for_log("no export chosen within 1 s: dropped")
    assert handshakes(gateway) == 0


def test_busy_client_gets_no_more_time(make_node):
    """Options that lead nowhere do not put the end off."""
    gateway = start(make_node, "handshake_timeout = 1")
    with gateway.client().greet() as client:
        with pytest.raises((Closed, BrokenPipeError)):
            for _ in range(2000):
                client.option(wire.OPT_INFO, client.info_data("", ()))
                time.sleep(0.01)


def test_timeout_is_for_the_handshake_only(make_node):
    gateway = start(make_node, "handshake_timeout = 1")
    with gateway.connect() as client, gateway.client() as silent:
        silent.recv(18)
        assert silent.is_closed()
        time.sleep(0.2)
        assert client.read(0, 512) == bytes(512)


def test_when_too_many_are_in_the_handshake_the_oldest_goes(make_node):
    gateway = start(make_node, "max_handshakes = 4")
    silent = [gateway.client() for _ in range(4)]
    for client in silent:
        client.recv(18)
    with gateway.connect() as newcomer:
        assert newcomer.read(0, 512) == bytes(512)
        assert silent[0].is_closed()
        for client in silent[1:]:
            client.send(struct.pack(">I", 3))
            assert client.option(wire.OPT_LIST)[0] == wire.REP_ACK
    for client in silent:
        client.close()


def test_served_clients_do_not_count_as_handshakes(make_node):
    gateway = start(make_node, "max_handshakes = 1")
    clients = [gateway.connect() for _ in range(5)]
    for client in clients:
        assert client.read(0, 512) == bytes(512)
        client.close()


def test_client_beyond_max_connections_is_told_and_may_try_again(make_node):
    gateway = start(make_node, "max_connections = 2")
    first, second = gateway.connect(), gateway.connect()
    with gateway.client().greet() as third:
        kind, replies = third.info_or_go(wire.OPT_GO)
        assert kind == wire.ERR_POLICY and b"too many clients" in replies[-1][1]
        assert third.info_or_go(wire.OPT_INFO)[0] == wire.REP_ACK
        first.disconnect()
        wait_until(lambda: gateway.status()["nbd"]["connections"] == 1, "the first client is gone")
        third.go()
        assert third.read(0, 512) == bytes(512)
    assert second.read(0, 512) == bytes(512)
    second.close()


def test_export_name_beyond_max_connections_closes(make_node):
    gateway = start(make_node, "max_connections = 1")
    with gateway.connect() as first, gateway.client().greet() as second:
        second.send_option(wire.OPT_EXPORT_NAME, b"")
        assert second.is_closed()
        assert first.read(0, 512) == bytes(512)


def test_a_flood_of_half_open_handshakes_stops_nobody(make_node):
    """1,000 clients that connect and say nothing, or half a thing (anchors R14)."""
    gateway = start(make_node, "max_handshakes = 64")
    with gateway.connect() as before:
        flood = []
        for number in range(1000):
            client = gateway.client()
            flood.append(client)
            if number % 3 == 1:
                client.send(struct.pack(">IQII", 3, wire.OPTION_MAGIC, 7, 60000) + bytes(number % 700))
            if number % 100 == 50:
                before.write(0, bytes([number % 251]) * 4096)
                with gateway.connect() as newcomer:
                    assert newcomer.read(0, 4096) == bytes([number % 251]) * 4096
        assert handshakes(gateway) <= 64
        assert before.read(0, 4096) == bytes([950 % 251]) * 4096
        for client in flood:
            client.close()
    wait_until(lambda: handshakes(gateway) == 0, "no handshake is left")
    assert gateway.log.count("\n") < 200  # nobody floods the journal


@pytest.mark.plain
def test_half_open_handshakes_cost_little_memory(make_node):
    """64 clients with the largest incomplete option that there may be."""
    gateway = start(make_node, "max_handshakes = 64")
    with gateway.connect() as client:
        client.read(0, 512)
        before = gateway.memory()
        flood = [gateway.client() for _ in range(64)]
        for one in flood:
            one.send(struct.pack(">IQII", 3, wire.OPTION_MAGIC, 7, 65520) + bytes(65519))
        wait_until(lambda: handshakes(gateway) == 64, "all are there")
        client.read(0, 512)
        assert gateway.memory() - before < 64 * (128 << 10)
        for one in flood:
            one.close()


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@needs("prlimit")
def test_no_descriptors_left_makes_room_from_the_handshakes(make_node):
    gateway = start(make_node, "max_connections = 1000", wrap=("prlimit", "--nofile=40:40"))
    with gateway.connect() as client:
        silent = [gateway.client() for _ in range(60)]
        client.write(0, b"x" * 512)
        with gateway.connect() as newcomer:
            assert newcomer.read(0, 512) == b"x" * 512
        for one in silent:
            one.close()


@needs("prlimit")
def test_no_descriptors_left_burns_no_processor_time(make_node):
    """A client that cannot be accepted waits; the gateway does not spin on it."""
    gateway = start(make_node, "max_connections = 1000", wrap=("prlimit", "--nofile=40:40"))
    served, refused = [], False
    while not refused:
        client = gateway.client()
        try:
            served.append(client.greet().go())
        except (Closed, BrokenPipeError):
            refused = True
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(gateway.directory / "control.sock"))
        wait_until(lambda: len(os.listdir(f"/proc/{gateway.pid}/fd")) == 40, "no descriptor is left")
        with gateway.client() as waiting:
            assert served[0].read(0, 512) == bytes(512)
            before = cpu_seconds(gateway.pid)
            time.sleep(1)
            used = cpu_seconds(gateway.pid) - before
            assert served[0].read(0, 512) == bytes(512)
            assert used < 0.2, f"{used} s of processor time in one second"
    for client in served:
        client.close()
