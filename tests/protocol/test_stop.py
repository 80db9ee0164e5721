"""The orderly stop: what is in flight is answered, all is flushed, the client is cut off without an error
that it would hand to its guest."""
import os
import signal
import threading

import pytest

from support import wire
from support.node import wait_until
from support.wire import Closed

modes = pytest.mark.parametrize("mode", ["simple", "structured", "extended"])


@pytest.fixture
def served(make_node, memory_dir, faults):
    node = make_node(data_dir=memory_dir)
    node.create(200, "8M")
    return faults.start(node)


def in_flight(gateway, count):
    wait_until(lambda: gateway.volume_status()["in_flight"] == count, f"{count} requests are in flight")


def replies_until_closed(client):
    replies = {}
    try:
        while True:
            cookie, reply = client.read_reply()
            replies[cookie] = reply
    except Closed:
        return replies


@modes
def test_requests_in_flight_are_answered(served, faults, mode):
    with served.session(mode) as client:
        faults.set("write delay 300 300", "read late 300 300", "flush delay 300 300")
        flags = wire.PAYLOAD_LEN if client.extended else 0
        sent = [client.send_request(wire.CMD_WRITE, number * 512, 512, flags, bytes([number]) * 512)
                for number in range(20)]
        sent += [client.send_request(wire.CMD_READ, 0, 65536), client.send_request(wire.CMD_FLUSH)]
        in_flight(served, 22)
        assert served.stop() == 0
        replies = replies_until_closed(client)
    assert sorted(replies) == sorted(sent)
    assert {reply.error for reply in replies.values()} == {0}
    image = served.node.image().read_bytes()
    assert image[:20 * 512] == b"".join(bytes([number]) * 512 for number in range(20))
    assert served.node.record()["released"]


def test_stop_under_load_never_answers_with_shutdown(served, faults):
    """Every request is answered with success, or not at all."""
    faults.set("write delay 0 5", "read late 0 5")
    outcomes, started = [], threading.Barrier(5)

    def load(number):
        with served.session(("simple", "structured", "extended", "simple")[number]) as client:
            flags = wire.PAYLOAD_LEN if client.extended else 0
            for _ in range(16):
                client.send_request(wire.CMD_WRITE, number << 20, 4096, flags, bytes([number]) * 4096)
            started.wait()
            try:
                while True:
                    outcomes.append(client.read_reply()[1].error)
                    client.send_request(wire.CMD_WRITE, number << 20, 4096, flags, bytes([number]) * 4096)
            except (Closed, BrokenPipeError):
                pass

    clients = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for client in clients:
        client.start()
    started.wait()
    wait_until(lambda: len(outcomes) > 200, "the load runs")
    assert served.stop() == 0
    for client in clients:
        client.join()
    assert set(outcomes) == {0}


def test_requests_that_come_after_the_stop_has_begun_are_not_answered(served, faults):
    with served.connect() as client:
        faults.set("write hang")
        first = client.send_request(wire.CMD_WRITE, 0, 512, 0, b"1" * 512)
        in_flight(served, 1)
        served.process.send_signal(signal.SIGTERM)
        served.wait_for_log("stopping")
        client.send_request(wire.CMD_WRITE, 512, 512, 0, b"2" * 512)
        assert client.is_silent()
        faults.set()
        assert list(replies_until_closed(client)) == [first]
    assert served.process.wait(30) == 0
    assert served.node.image().read_bytes()[:1024] == b"1" * 512 + bytes(512)


def test_nobody_new_is_let_in_while_stopping(served, faults):
    with served.connect() as client, served.client().greet() as late:
        faults.set("write hang")
        client.send_request(wire.CMD_WRITE, 0, 512, 0, b"1" * 512)
        in_flight(served, 1)
        served.process.send_signal(signal.SIGTERM)
        assert late.is_closed()
        with pytest.raises(OSError):
            served.connect()
        faults.set()
        assert client.read_reply()[1].error == 0
    assert served.process.wait(30) == 0


def test_half_open_handshakes_do_not_delay_a_stop(served):
    silent = [served.client() for _ in range(30)]
    for client in silent:
        client.recv(18)
    assert served.stop() == 0
    for client in silent:
        assert client.is_closed()
        client.close()


def test_idle_clients_are_cut_off(served):
    clients = [served.session(mode) for mode in ("simple", "structured", "extended")]
    assert served.stop() == 0
    for client in clients:
        assert client.is_closed()
        client.close()
    assert not os.path.exists(served.socket)


def test_client_in_the_middle_of_a_payload_does_not_delay_a_stop(served):
    with served.connect() as client:
        client.send_request(wire.CMD_WRITE, 0, 1 << 20, 0, b"x" * 1000)
        wait_until(lambda: served.status()["nbd"]["memory_used"] > 0, "the request has begun")
        assert served.stop() == 0
        assert client.is_closed()
    assert served.node.image().read_bytes()[:1000] == bytes(1000)


def test_volumes_are_flushed_before_the_claim_is_released(served, faults):
    with served.connect() as client:
        client.write(0, b"x" * 512)
    faults.set("flush hang")
    served.process.send_signal(signal.SIGTERM)
    served.wait_for_log("stopping")
    wait_until(lambda: served.volume_status()["in_flight"] == 1, "the flush runs")
    assert not served.node.record()["released"]
    faults.set()
    assert served.process.wait(30) == 0
    assert served.node.record()["released"]


def test_stop_with_a_hung_backend_ends_in_time_and_keeps_the_claim(make_node, memory_dir, faults):
    node = make_node(data_dir=memory_dir, settings="[nbd]\nstop_timeout = 1")
    node.create(200, "8M")
    gateway = faults.start(node)
    with gateway.connect() as client:
        faults.set("write hang")
        client.send_request(wire.CMD_WRITE, 0, 512, 0, b"1" * 512)
        in_flight(gateway, 1)
        assert gateway.stop() == 74
        assert client.is_closed()
    assert "still in flight after 1 s" in gateway.log
    assert "Sanitizer" not in gateway.log
    record = node.record()
    assert not record["released"]
    faults.set()
    resumed = faults.start(node)
    assert "claim resumed" in resumed.log
    assert node.record()["claim_id"] == record["claim_id"]


def test_stop_with_a_hung_flush_ends_in_time(make_node, memory_dir, faults):
    node = make_node(data_dir=memory_dir, settings="[nbd]\nstop_timeout = 1")
    node.create(200, "8M")
    gateway = faults.start(node)
    faults.set("flush hang")
    assert gateway.stop() == 74
    assert "Sanitizer" not in gateway.log
    assert not node.record()["released"]


@modes
def test_client_that_takes_no_replies_does_not_cost_the_flush_and_the_claim(make_node, memory_dir, mode):
    """Its requests are done; only their replies are stuck. After stop_timeout it is dropped like any client,
    and the volumes are left in order."""
    node = make_node(data_dir=memory_dir, settings="[nbd]\nstop_timeout = 1")
    node.create(200, "8M")
    gateway = node.start(200)
    with gateway.session(mode) as hog:
        hog.write(0, b"x" * (1 << 20))
        for _ in range(20):
            hog.send_request(wire.CMD_READ, 0, 1 << 20)
        wait_until(lambda: gateway.volume_status()["in_flight"] == 0 and
                   gateway.status()["nbd"]["memory_used"] > 0, "only replies are left")
        gateway.stop()
    assert node.record()["released"]


def test_second_signal_changes_nothing(served, faults):
    with served.connect() as client:
        faults.set("write delay 200 200")
        client.send_request(wire.CMD_WRITE, 0, 512, 0, b"1" * 512)
        in_flight(served, 1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            served.process.send_signal(number)
        assert client.read_reply()[1].error == 0
        assert served.process.wait(30) == 0


def test_failed_flush_at_the_stop_is_said(served, faults):
    with served.connect() as client:
        client.write(0, b"x" * 512)
    faults.set("flush error EIO 1")
    served.stop()
    assert "flush failed" in served.log
