"""What guests see of a Crucible volume: QEMU and fio as clients while copies come and go. They wait; an I/O error comes
only when the volume is fenced."""
import json
import os
import signal
import subprocess
import time

import pytest

from support.node import needs, run, wait_until
from support.volume import EXTENTS, both
from test_crucible_volumes import assert_equal, create, slots, wait_for_slot


@pytest.fixture
def gateway(node, volume):
    create(node, volume)
    return node.start()


class Qemu:
    """qemu-io on an export: its commands are given one by one."""

    def __init__(self, uri):
        self.process = subprocess.Popen(["qemu-io", "-f", "raw", uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.output = ""

    def say(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def heard(self):
        self.output += (self.process.stdout.read() or b"").decode()
        return self.output

    def wait_for(self, text, timeout=60):
        wait_until(lambda: text in self.heard(), f"{text!r} from qemu-io", timeout)
        self.output = ""

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def qemu(gateway):
    made = Qemu(gateway.uri())
    yield made
    made.close()


def fio_job(gateway, seconds, *options):
    """fio in the background; every block that it reads back must be what it wrote."""
    return subprocess.Popen(
        ["fio", "--name=guest", "--ioengine=nbd", f"--uri={gateway.uri()}", "--rw=randrw", "--bs=4k", "--iodepth=16",
         "--size=16M", f"--runtime={seconds}", "--time_based", "--verify=crc32c", "--verify_backlog=64", "--verify_state_save=0",
         "--output-format=json", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_of(job):
    """Figures of fio's job, which has seen no error."""
    out, err = job.communicate(timeout=100)
    assert job.returncode == 0, out[-2000:] + err
    figures = json.loads(out[out.index("{"):])["jobs"][0]
    assert figures["error"] == 0 and figures["write"]["total_ios"] > 0
    return figures


@needs("qemu-io")
@both
def test_qemu_waits_while_two_copies_are_away_and_goes_on(qemu, gateway, volume):
    qemu.say("write -P 1 0 64k")
    qemu.wait_for("wrote 65536/65536")
    for sled in volume.sleds[:2]:
        sled.kill()
    wait_for_slot(gateway, 1, "absent", "connecting")
    qemu.say("write -P 2 0 64k")
    time.sleep(1.5)
    assert qemu.heard() == "" or "rror" not in qemu.output
    assert gateway.volume_status()["crucible"]["copies"] == "paused"
    for sled in volume.sleds[:2]:
        sled.start()
    qemu.wait_for("wrote 65536/65536")
    qemu.say("read -P 2 0 64k")
    qemu.wait_for("read 65536/65536")
    assert gateway.volume_status()["state"] == "serving"


@needs("qemu-io")
@both
def test_qemu_gets_an_error_once_the_volume_is_fenced(qemu, gateway, volume):
    """By a client with a higher generation, which takes the regions over."""
    qemu.say("write -P 1 0 64k")
    qemu.wait_for("wrote 65536/65536")
    volume.io("flush", generation=1 << 40)
    qemu.say("write -P 2 0 64k")
    qemu.wait_for("Input/output error")
    qemu.say("read 0 64k")
    qemu.wait_for("Input/output error")
    gateway.wait_for("fenced")
    assert "superseded by generation" in gateway.log or "is no longer ours" in gateway.log


@needs("fio")
@both
def test_fio_sees_no_error_and_no_wrong_byte_over_kills_pauses_and_repairs(gateway, volume):
    """One copy is killed, one is paused, one is wiped, one after the other, each until all are whole again."""
    job = fio_job(gateway, 12)
    time.sleep(1)
    volume.sleds[0].kill()
    time.sleep(0.5)
    volume.sleds[0].start()
    wait_for_slot(gateway, 0, "active")
    volume.sleds[1].process.send_signal(signal.SIGSTOP)
    wait_for_slot(gateway, 1, "absent", "connecting")
    volume.sleds[1].process.send_signal(signal.SIGCONT)
    wait_for_slot(gateway, 1, "active")
    volume.sleds[2].wipe().start()
    wait_for_slot(gateway, 2, "active")
    figures = end_of(job)
    assert figures["write"]["clat_ns"]["max"] < 10e9
    wait_until(lambda: all(one["in_sync"] for one in slots(gateway)), "all are in sync")
    assert gateway.stop() == 0
    assert_equal(volume)


@needs("fio")
def test_fio_waits_while_the_record_cannot_be_written(make_volume, node):
    """A copy leaves, and the record that says so has no room: nothing is acknowledged, nothing fails."""
    volume = make_volume(extents=EXTENTS)
    node.claim_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", node.claim_dir], check=True)
    try:
        create(node, volume)
        gateway = node.start()
        job = fio_job(gateway, 4)
        time.sleep(0.7)
        subprocess.run(["mount", "-o", "remount,ro", node.claim_dir], check=True)
        volume.sleds[1].kill()
        wait_until(lambda: "its claim record cannot be written" in node.tb4("status", check=False).stdout, "status says so")
        assert "Read-only file system" in gateway.log and gateway.volume_status()["in_flight"] > 0
        time.sleep(2)
        assert job.poll() is None
        subprocess.run(["mount", "-o", "remount,rw", node.claim_dir], check=True)
        figures = end_of(job)
        assert figures["write"]["clat_ns"]["max"] > 1.5e9
        assert not slots(gateway)[1]["in_sync"]
        assert gateway.stop() == 0
    finally:
        subprocess.run(["umount", "-l", node.claim_dir], check=True)


def test_one_hung_volume_does_not_hold_up_another_of_its_vm(make_volume, node):
    """R15: all copies of disk 0 are stopped; disk 1 and status go on as before."""
    hung = make_volume(extents=EXTENTS)
    create(node, hung)
    node.tb4("volume", "create", 200, "64M", "--disk", "1")
    gateway = node.start()

    def worst(seconds):
        latencies = []
        with gateway.connect("vm-200-disk-1") as client:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                began = time.monotonic()
                client.write(0, b"x" * 4096)
                latencies.append(time.monotonic() - began)
        return sorted(latencies)[int(len(latencies) * 0.99)]
    worst(0.5)
    before = worst(2)
    for sled in hung.sleds:
        sled.process.send_signal(signal.SIGSTOP)
    blocked = subprocess.Popen(["qemu-io", "-f", "raw", "-c", "write 0 4k", gateway.uri("vm-200-disk-0")],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    after = worst(2)
    began = time.monotonic()
    assert gateway.status()["volumes"][0]["in_flight"] == 1
    assert time.monotonic() - began < 5  # a bound against hanging; figures are the benches'
    assert after < 20 * before + 0.05, (before, after)
    assert blocked.poll() is None
    for sled in hung.sleds:
        sled.process.send_signal(signal.SIGCONT)
    assert blocked.wait(60) == 0
    assert gateway.stop() == 0


@needs("qemu-img")
@both
def test_qemu_img_converts_in_and_compares(gateway, volume, tmp_path):
    image = tmp_path / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, volume.size)
    run("qemu-io", "-c", "write -P 7 1M 5M", "-c", f"write -P 9 {volume.size - 4096} 4k", image)
    run("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", image, gateway.uri())
    assert "Images are identical" in run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, gateway.uri())
    assert gateway.stop() == 0
    assert_equal(volume)
