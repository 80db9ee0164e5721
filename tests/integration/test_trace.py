"""tb4 trace: requests that took long are named, with where their time went."""
import re
import signal
import subprocess
import time

from support import wire
from support.node import PROGRAMS, wait_until

DISK_0 = "vm-200-disk-0"


def traced(node, count):
    """The slow requests, when there are so many."""
    def look():
        requests = node.tb4_json("trace", 200)["requests"]
        return requests if len(requests) >= count else None
    found = wait_until(look, f"{count} slow requests")
    assert [one["number"] for one in found] == list(range(1, len(found) + 1))
    return found


def test_fast_requests_are_not_traced(node, gateway):
    node.write_config()
    with gateway.connect() as client:
        for _ in range(50):
            client.write(0, b"x" * 4096)
    shown = node.tb4_json("trace", 200)
    assert shown["requests"] == [] and shown["slow_request_ms"] == 100
    assert node.tb4("trace", 200) == "VM 200: no request has taken 100 ms or more\n"


def test_each_place_where_time_goes_is_named(node, make_volume):
    volume = make_volume("own", extents=4)
    node.tb4("volume", "create", 200, volume.size, "--backend", "crucible", *volume.target_options)
    gateway = node.start()
    with gateway.connect(DISK_0) as client:
        client.write(0, b"x" * 4096)
        volume.sleds[1].process.send_signal(signal.SIGSTOP)  # the backend: one copy is late
        client.send_request(wire.CMD_WRITE, 8192, 4096, payload=b"y" * 4096)
        time.sleep(0.5)
        volume.sleds[1].process.send_signal(signal.SIGCONT)
        assert client.read_reply()[1].error == 0
        one = traced(node, 1)[0]
        assert (one["volume"], one["command"], one["offset"], one["length"], one["error"], one["slot"]) == (
            DISK_0, "write", 8192, 4096, "", 1)
        assert one["backend_ms"] >= 300 and one["total_us"] >= 300000 and one["limited_ms"] + one["held_ms"] < 300

        client.send(wire.struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, wire.CMD_WRITE, 7, 0, 1 << 20))  # its payload
        client.pending[7] = (wire.CMD_WRITE, 0, 1 << 20)
        client.send(bytes(1 << 19))
        time.sleep(0.4)
        client.send(bytes(1 << 19))
        assert client.read_reply()[1].error == 0
        assert traced(node, 2)[1]["received_ms"] >= 300

        node.tb4("volume", "limit", DISK_0, "--iops", 2)  # a limit
        for _ in range(4):
            client.send_request(wire.CMD_READ, 0, 4096)
        for _ in range(4):
            assert client.read_reply()[1].error == 0
        limited = traced(node, 3)[2]
        assert limited["command"] == "read" and limited["limited_ms"] >= 100 and "slot" in limited
    text = node.tb4("trace", 200).splitlines()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{3}}  {DISK_0} +write +4K at 8192 +[\d.]+ ms: .*ms in the backend "
                        r"\(slot 1 answered last\)", text[0])
    assert "ms receiving the payload" in text[1] and "ms held back by a rate limit" in text[2]


def test_watch_goes_on_with_what_comes(node, gateway):
    node.tb4("volume", "limit", DISK_0, "--iops", 4)
    with gateway.connect() as client:
        for _ in range(7):
            client.read(0, 4096)
        watching = subprocess.Popen([PROGRAMS / "tb4", "--config", node.config, "trace", "200", "--watch"],
                                    stdout=subprocess.PIPE, text=True)
        first = [watching.stdout.readline() for _ in range(len(traced(node, 2)))]
        client.read(8192, 4096)
        client.read(8192, 4096)
        more = [watching.stdout.readline() for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        assert watching.stdout.read() == "" and watching.wait(10) == 0
    assert all("4K at 0 " in line for line in first) and all("4K at 8192 " in line for line in more)


def test_trace_needs_a_gateway(node):
    assert node.tb4("trace", 200, check=False).returncode == 69
    assert node.tb4("trace", "x", check=False).returncode == 64
