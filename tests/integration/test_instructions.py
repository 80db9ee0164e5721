"""What a request costs in instructions of ours, which other load on the machine does not change.

The gateway runs under valgrind and serves batches of 16 requests of 4 KiB from a file on tmpfs. Two runs of
different length give the cost of one request without the cost of the start. It may not rise by 10 %.
"""
import platform
import re

import pytest

from support import wire
from support.node import PROGRAMS, needs

# instructions per request, as built by check.sh with Debian's gcc
BASELINES = {"12": {"read": 961, "write": 881}, "13": {"read": 981, "write": 904}}
BATCH, SHORT, LONG = 16, 50, 250


def release():
    return platform.freedesktop_os_release().get("VERSION_ID") if platform.machine() == "x86_64" else None


def send_batches(gateway, kind, batches):
    client = gateway.connect("vm-200-disk-0")
    payload = b"\1" * 4096 if kind == wire.CMD_WRITE else b""
    for _ in range(batches):
        requests = []
        for number in range(BATCH):
            client.pending[number] = (kind, number * 8192, 4096)
            requests.append(wire.struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, kind, number,
                                             number * 8192, 4096) + payload)
        client.send(b"".join(requests))
        for _ in range(BATCH):
            assert client.read_reply()[1].error == 0
    client.disconnect()


def count_instructions(node, kind, batches):
    gateway = node.spawn(200, wrap=("valgrind", "--tool=cachegrind", "--cache-sim=no",
                                    "--cachegrind-out-file=/dev/null"),
                         program=PROGRAMS / "tb4-gateway")
    gateway.wait_for("serving", timeout=60)
    send_batches(gateway, kind, batches)
    assert gateway.stop() == 0
    return int(re.search(r"I +refs: +([\d,]+)", gateway.log)[1].replace(",", ""))


@needs("valgrind")
@pytest.mark.plain
@pytest.mark.skipif(release() not in BASELINES, reason="no baseline for this system")
@pytest.mark.parametrize("name, kind", [("read", wire.CMD_READ), ("write", wire.CMD_WRITE)])
def test_a_request_costs_no_more_instructions_than_it_did(make_node, memory_dir, name, kind):
    node = make_node(data_dir=memory_dir)
    node.create(200, "64M")
    with open(node.image(), "r+b") as image:
        image.write(b"\1" * (1 << 20))
    used = count_instructions(node, kind, LONG) - count_instructions(node, kind, SHORT)
    each = used / (BATCH * (LONG - SHORT))
    baseline = BASELINES[release()][name]
    print(f"{each:.0f} instructions per {name}, {baseline} before")
    assert each <= baseline * 1.1, f"{each:.0f} instructions per {name}, {baseline} before"
