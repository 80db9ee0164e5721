"""Commands that change a volume undo nothing that others did to it, and stop no guest meanwhile."""
import fcntl
import os
import subprocess
import time

import pytest

from support.node import PROGRAMS, needs


def command_that_pauses(node, at, *arguments):
    """tb4, which reads the volume, then rests for 3 s before its first system call `at`."""
    log = node.directory / "strace.log"
    command = ["strace", "-f", "-o", str(log), "-e", f"trace=openat,{at}",
               "-e", f"inject={at}:delay_enter=3000000:when=1",
               str(PROGRAMS / "tb4"), "--config", str(node.config), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})  # it cannot be traced
    deadline = time.monotonic() + 30
    while ".conf" not in (log.read_text() if log.exists() else "").replace(str(node.config), ""):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    return process


def size_of(node, volume="vm-200-disk-0"):
    return node.tb4_json("volume", "info", volume)["size"]


@needs("strace")
def test_a_late_smaller_resize_does_not_shrink_what_another_has_grown(node):
    node.create(200, "16M")
    late = command_that_pauses(node, "connect", "volume", "resize", 200, "32M")
    node.tb4("volume", "resize", 200, "64M")
    late.communicate(timeout=60)
    assert size_of(node) == 64 << 20
    assert node.image().stat().st_size == 64 << 20
    assert node.start().volume_status()["size"] == 64 << 20


@needs("strace")
def test_taking_a_volume_by_force_does_not_undo_a_resize(make_node):
    owner = make_node("node-a")
    other = make_node("node-b", share_with=owner)
    owner.create(200, "16M")
    late = command_that_pauses(other, "flock", "claim", "force", "vm-200-disk-0", "--yes")
    owner.tb4("volume", "resize", 200, "64M")
    _, errors = late.communicate(timeout=60)
    assert late.returncode == 0, errors
    assert size_of(owner) == 64 << 20


def test_a_resize_that_waits_for_the_lock_on_volumes_does_not_stop_the_guest(node):
    node.create(200, "16M")
    gateway = node.start()
    with gateway.connect() as client, open(node.volume_dir / ".lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [str(PROGRAMS / "tb4"), "--config", str(node.config), "volume", "resize", "200", "32M"]
        resize = subprocess.Popen(command)
        deadline = time.monotonic() + 30
        while node.image().stat().st_size < 32 << 20:  # the image has grown: the volume file is next
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for _ in range(50):
            client.write(0, b"x" * 4096)
            time.sleep(0.01)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert resize.wait(60) == 0
    assert size_of(node) == 32 << 20


@pytest.mark.parametrize("is_live", [False, True], ids=["offline", "live"])
def test_growing_inside_a_larger_image_does_not_cut_it(node, is_live):
    node.create(200, "16M")
    with open(node.image(), "r+b") as image:
        image.seek(48 << 20)
        image.write(b"precious")
    if is_live:
        node.start()
    node.tb4("volume", "resize", 200, "32M")
    assert size_of(node) == 32 << 20
    assert node.image().read_bytes()[48 << 20:] == b"precious"
