"""What goes wrong on sleds while a guest uses a Crucible volume by NBD: the guest goes on and reads nothing wrong, status
names what is wrong, and what was put right is whole again."""
import os
import shutil
import signal
import uuid
from pathlib import Path

import pytest

from support.node import wait_until
from support.volume import EXTENTS, both
from test_crucible_volumes import assert_equal, create, end, load, serve_under_load, slots, wait_for_slot


@pytest.fixture
def filler(volume):
    """The region of slot 1 lies on a file system of its own, which gets full when the guest has written a few MiB.
    Unfilled, it has room for all."""
    sled = volume.sleds[1].move_to_small_disk("96m")
    space = os.statvfs(sled.directory)
    path = sled.directory / "filler"
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - (6 << 20))
    sled.start()
    return path


@both
def test_full_file_system_of_one_region(volume, filler, node, tmp_path):
    """Its process is wedged in its writes, for anybody, until there is room."""
    gateway, history, stop_file = serve_under_load(volume, node, tmp_path)
    wait_until(lambda: not slots(gateway)[1]["in_sync"], "the slot is left", 60)
    assert gateway.volume_status()["state"] == "serving"
    assert gateway.volume_status()["crucible"]["counted"] == 2
    assert slots(gateway)[1]["last_error"] and slots(gateway)[1]["advice"]
    filler.unlink()
    volume.sleds[1].kill()  # as its health check does
    volume.sleds[1].start()
    wait_for_slot(gateway, 1, "active")
    assert end(history, stop_file) > 0
    wait_until(lambda: all(slot["in_sync"] for slot in slots(gateway)), "all are whole again")
    assert gateway.stop() == 0
    assert_equal(volume)


def put_another_region(sled):
    """In place of its own, which is returned: of the same shape, with data, of another volume."""
    kept, own = Path(f"{sled.directory}.kept"), sled.uuid
    sled.kill()
    sled.directory.rename(kept)
    sled.uuid = uuid.uuid4()
    sled.create()
    sled.uuid = own
    return kept


@both
def test_region_of_another_volume_is_not_touched_and_the_guest_goes_on(volume, node, tmp_path):
    gateway, history, stop_file = serve_under_load(volume, node, tmp_path)
    sled = volume.sleds[2]
    kept = put_another_region(sled)
    sled.start()
    before = [sled.extent_path(extent).read_bytes() for extent in range(EXTENTS)]
    wait_for_slot(gateway, 2, "failed")
    assert "another region than the one that belongs to this slot" in slots(gateway)[2]["last_error"]
    shown = node.tb4("status", "200", check=False)
    assert shown.returncode == 1 and "start the downstairs of the right region at this address" in shown.stdout, shown
    assert gateway.volume_status()["state"] == "serving"
    sled.kill()
    assert [sled.extent_path(extent).read_bytes() for extent in range(EXTENTS)] == before
    shutil.rmtree(sled.directory)
    kept.rename(sled.directory)
    sled.start()
    node.tb4("volume", "retry", "200", "2")
    wait_for_slot(gateway, 2, "active")
    assert end(history, stop_file) > 0
    assert gateway.stop() == 0
    assert_equal(volume)


@both
def test_region_restored_from_an_old_copy_is_copied_anew(volume, node, tmp_path):
    """It has the right name and good blocks, but not the newest."""
    create(node, volume)
    gateway = node.start()
    with gateway.connect() as client:
        client.write(0, b"old" * 4096)
    assert gateway.stop() == 0
    sled = volume.sleds[0]
    old = Path(f"{sled.directory}.old")
    shutil.copytree(sled.directory, old)
    gateway = node.start()
    history = load(gateway, tmp_path / "stop")
    sled.kill()
    shutil.rmtree(sled.directory)
    old.rename(sled.directory)
    sled.start()
    gateway.wait_for_log("slot 0, .*: is copied from", timeout=60)
    wait_for_slot(gateway, 0, "active")
    assert end(history, tmp_path / "stop") > 0
    assert gateway.stop() == 0
    assert_equal(volume)


@both
def test_one_copy_goes_on_and_starts_where_that_is_allowed(volume, node, tmp_path):
    """min_copies = 1."""
    create(node, volume)
    node.add_to_file(min_copies=1)
    gateway = node.start()
    assert "min_copies = 1: while a single copy is there, loss of it loses what was written meanwhile" in gateway.log
    assert gateway.volume_status()["crucible"]["min_copies"] == 1
    history = load(gateway, tmp_path / "stop")
    volume.sleds[0].kill()
    volume.sleds[2].process.send_signal(signal.SIGSTOP)
    wait_until(lambda: gateway.volume_status()["crucible"]["counted"] == 1, "one copy")
    assert [slot["in_sync"] for slot in slots(gateway)] == [False, True, False]
    with gateway.connect() as client:
        client.write(volume.size - 4096, b"1" * 4096)
    gateway.kill()
    gateway = node.start()  # with the one
    assert gateway.volume_status()["crucible"]["counted"] == 1
    assert end(history, tmp_path / "stop") > 0
    assert gateway.stop() == 0
    gateway = node.start()  # without history
    volume.sleds[2].process.send_signal(signal.SIGCONT)
    volume.sleds[0].start()
    for slot in range(3):
        wait_for_slot(gateway, slot, "active")
    with gateway.connect() as client:
        assert client.read(volume.size - 4096, 4096) == b"1" * 4096
    assert gateway.stop() == 0
    assert_equal(volume)
