"""Fixtures of the protocol tests: a gateway with faults, and one that many tests may share."""
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from support.node import BUILD, PROGRAMS, TOOLS, Node

FAULTY = TOOLS / "faulty-gateway"


def has_sanitizers():
    return b"__asan_init" in (PROGRAMS / "tb4-gateway").read_bytes()


@pytest.fixture(autouse=True)
def plain_build(request):
    """Tests that measure memory cannot run with AddressSanitizer."""
    if request.node.get_closest_marker("plain") and has_sanitizers():
        pytest.skip(f"needs a build without sanitizers, {BUILD} has them")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A gateway for tests that leave it as they found it: vm-200-disk-0 of 64 MiB, -disk-1 of 8 MiB.

    Its images are on tmpfs. No test may rely on what their bytes are before it has written them.
    """
    node = Node(tmp_path_factory.mktemp("shared"), data_dir=tempfile.mkdtemp(prefix="tb4-", dir="/dev/shm"))
    node.create(200, "64M", "--description", "the first disk")
    node.create(200, "8M", "--disk", 1)
    gateway = node.start(200)
    yield gateway
    assert gateway.is_running(), gateway.log
    assert gateway.stop() == 0, gateway.log
    node.close()
    shutil.rmtree(node.data_dir)


class Faults:
    """The rules of tests/tools/faulty-backend.c, changed at once."""

    def __init__(self, directory):
        self.path = Path(directory) / "faults"
        self.set()

    def set(self, *rules):
        new = self.path.with_suffix(".new")
        new.write_text("".join(rule + "\n" for rule in rules))
        os.rename(new, self.path)

    def start(self, node, vmid=200, block_min=None, env=None, **options):
        """A gateway with these faults, serving."""
        env = {"TB4_FAULTS": str(self.path), **(env or {})}
        if block_min:
            env["TB4_BLOCK_MIN"] = str(block_min)
        return node.start(vmid, program=FAULTY, env=env, **options)


@pytest.fixture
def faults(tmp_path):
    return Faults(tmp_path)


@pytest.fixture
def memory_node(make_node, memory_dir):
    """A node with its images on tmpfs."""
    def make(settings="", **options):
        return make_node(settings=settings, data_dir=memory_dir, **options)
    return make


@pytest.fixture
def tcp_vmid():
    """A VM whose NBD port nobody has now. Tests run side by side, so each worker tries its own first."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    for step in range(100):
        vmid = 200 + (17 + 29 * worker + step) % 100
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", 10809 + vmid - 200))
            except OSError:
                continue
        return vmid
    pytest.skip("every NBD port of the scheme is taken on 127.0.0.1")
