"""The file backend's ways of moving bytes: on tmpfs, by O_DIRECT, through the page cache; by io_uring and by threads."""
import ctypes
import os
import re
import signal
import time

import pytest

from support import inject, wire
from support.node import TOOLS, needs, run, wait_until

HISTORY = TOOLS / "nbd-history"
MIB = 1 << 20
BUFFERED = "[file]\ndirect = off"


def strace(*words):
    return ("strace", "-f", "-qq", "-o", "/dev/null", *words)


NO_RING = ("-e", "trace=io_uring_setup,fdatasync", "-e", "inject=io_uring_setup:error=ENOSYS")


def failing_flush():
    """The first fdatasync fails, which only the image meets; it is a system call only where there is no ring."""
    return strace(*NO_RING, "-e", "inject=fdatasync:error=EIO:when=1")


def start(node, wrap):
    """With one worker thread, since strace counts the calls of each thread."""
    return node.start(200, wrap=wrap, env={**inject.ENVIRONMENT, "UV_THREADPOOL_SIZE": "1"})


def stop(gateway):
    """The exit status of a gateway that strace runs."""
    os.kill(gateway.status()["pid"], signal.SIGTERM)
    return gateway.process.wait(40)


@pytest.fixture
def buffered(make_node):
    node = make_node(settings=BUFFERED)
    node.create(200, "1M")
    return node


@needs("strace")
@pytest.mark.skipif(not HISTORY.exists(), reason="nbd-history is not built: needs libnbd-dev")
@pytest.mark.parametrize("engine", ["io_uring", "threads"])
@pytest.mark.parametrize("mode", ["memory", "direct", "buffered"])
def test_histories_are_possible_in_every_mode_and_by_every_engine(make_node, memory_dir, mode, engine):
    """Some requests are long: on tmpfs those are done apart, and by other calls elsewhere. Many touch the same bytes."""
    node = make_node(settings=BUFFERED if mode == "buffered" else "", data_dir=memory_dir if mode == "memory" else None)
    node.create(200, "16M")
    gateway = start(node, () if engine == "io_uring" else strace(*NO_RING))
    details = gateway.volume_status()["file"]
    if mode == "direct" and details["mode"] == "buffered":
        pytest.skip("needs a file system with O_DIRECT for temporary files")
    assert (details["mode"], details["engine"]) == (mode, engine)
    for longest, seed in (("2M", 7), ("64K", 8), ("512K", 9)):
        line = run(HISTORY, "--region", "4M", "--max", longest, "--operations", "3000", "--seed", seed, gateway.socket, "")
        assert " 0 violations" in line and " 0 errors" in line
    assert stop(gateway) == 0


def assert_flushes_fail_until_the_restart(gateway, client):
    for _ in range(2):
        reply = client.request(wire.CMD_FLUSH)
        assert reply.error == wire.EIO
    assert client.request(wire.CMD_WRITE, 0, 512, wire.FUA, b"f" * 512).error == wire.EIO
    assert client.request(wire.CMD_WRITE, 0, 512, 0, b"w" * 512).error == 0
    status = gateway.volume_status()
    assert status["flush_failed"] is True and status["file"]["flush_lost"] is True
    assert len(re.findall("flushes fail until the gateway is restarted", gateway.log)) == 1
    assert stop(gateway) == 74  # the claim is kept: what is on the disk is not what was acknowledged
    assert gateway.node.record()["released"] is False
    again = gateway.node.start()
    assert again.volume_status()["file"]["flush_lost"] is False
    with again.connect() as other:
        other.flush()
    assert again.stop() == 0


@needs("strace")
@pytest.mark.parametrize("first", ["flush", "fua"])
def test_flush_of_a_buffered_image_that_failed_once_fails_until_the_restart(buffered, first):
    """The kernel says only once that it could not write, to whoever syncs first; what it had it has dropped."""
    gateway = start(buffered, failing_flush())
    with gateway.connect() as client:
        client.write(0, b"1" * 4096)
        if first == "flush":
            assert client.request(wire.CMD_FLUSH).error == wire.EIO
        else:
            assert client.request(wire.CMD_WRITE, 8192, 512, wire.FUA, b"2" * 512).error == wire.EIO
        assert_flushes_fail_until_the_restart(gateway, client)


@needs("strace")
def test_failed_sync_of_a_resize_of_a_buffered_image_is_a_failed_flush(buffered):
    gateway = start(buffered, strace("-P", str(buffered.image()), "-e", "trace=fsync", "-e",
                                     "inject=fsync:error=EIO:when=1"))
    with gateway.connect() as client:
        client.write(0, b"1" * 4096)
        result = buffered.tb4("volume", "resize", "200", "2M", check=False)
        assert result.returncode == 74 and "cannot grow" in result.stderr
        assert_flushes_fail_until_the_restart(gateway, client)


@needs("strace")
def test_flush_of_a_direct_image_that_failed_may_succeed_later(make_node):
    node = make_node()
    node.create(200, "1M")
    gateway = start(node, failing_flush())
    if gateway.volume_status()["file"]["mode"] != "direct":
        pytest.skip("needs a file system with O_DIRECT for temporary files")
    with gateway.connect() as client:
        client.write(0, b"1" * 4096)
        assert client.request(wire.CMD_FLUSH).error == wire.EIO
        wait_until(lambda: gateway.volume_status()["flush_failed"], "it is shown")
        client.flush()
        assert gateway.volume_status()["flush_failed"] is False
    assert stop(gateway) == 0


@needs("strace")
def test_requests_that_the_kernel_has_no_memory_for_are_submitted_again(buffered):
    """Nothing else need happen in the meantime."""
    if ctypes.CDLL("libuv.so.1").uv_version() >= 0x012d00:
        pytest.skip("needs a libuv before 1.45, which has no ring of its own: the calls of that would fail, too")
    gateway = start(buffered, strace("-e", "trace=io_uring_enter", "-e", "inject=io_uring_enter:error=EAGAIN:when=1..20"))
    assert gateway.volume_status()["file"]["engine"] == "io_uring"
    with gateway.connect() as client:
        began = time.monotonic()
        client.write(0, b"1" * 4096)
        client.flush()
        assert time.monotonic() - began < 1.5  # the gateway's own timers run every 2 s
        assert client.read(0, 4096) == b"1" * 4096
    assert stop(gateway) == 0
