"""What the gateway tells systemd: when it is ready, that it stops, and in between how it fares."""
import os
import signal
import socket
import time

import pytest


@pytest.fixture
def supervisor(tmp_path):
    """The socket that NOTIFY_SOCKET names, and a way to read all that came."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = f"/tmp/tb4-notify-{os.getpid()}-{abs(hash(str(tmp_path)))}"
        sock.bind(path)
        sock.settimeout(20)
        yield Supervisor(sock, path)
        os.unlink(path)


class Supervisor:
    """Messages as they come."""

    def __init__(self, sock, path):
        self.sock, self.path = sock, path
        self.lines = []

    @property
    def env(self):
        return {"NOTIFY_SOCKET": self.path}

    def all_that_came(self):
        self.sock.settimeout(0.2)
        try:
            while True:
                self.lines += self.sock.recv(4096).decode().splitlines()
        except TimeoutError:
            return self.lines

    def wait_for(self, text):
        while not any(text in line for line in self.lines):
            self.lines += self.sock.recv(4096).decode().splitlines()
        return next(line for line in self.lines if text in line)


def test_ready_comes_once_when_the_volume_is_served_and_stopping_at_the_end(node, supervisor):
    node.create(200, "1M")
    gateway = node.spawn(env=supervisor.env)
    supervisor.wait_for("READY=1")
    assert gateway.status()["state"] == "serving"
    assert supervisor.wait_for("STATUS=") == "STATUS=Serving 1 of 1 volumes"
    assert gateway.stop() == 0
    supervisor.wait_for("STOPPING=1")
    assert supervisor.lines.count("READY=1") == 1


def test_ready_comes_when_one_volume_serves_and_the_other_has_failed(node, supervisor):
    node.create(200, "1M")
    node.tb4("volume", "create", "200", "1M", "--disk", "1")
    node.image("vm-200-disk-1").unlink()
    node.spawn(env=supervisor.env)
    supervisor.wait_for("READY=1")
    assert supervisor.wait_for("STATUS=Serving") == "STATUS=Serving 1 of 2 volumes"


def test_fence_is_told_and_the_process_stays(node, supervisor):
    node.create(200, "1M")
    gateway = node.spawn(env=supervisor.env)
    supervisor.wait_for("READY=1")
    node.tb4("claim", "force", "200", "--yes")
    assert "vm-200-disk-0: fenced" in supervisor.wait_for("STATUS=Fenced")
    assert gateway.process.poll() is None


def test_start_that_is_fenced_is_ready_too_so_that_nobody_restarts_it(node, supervisor):
    node.create(200, "1M")
    gateway = node.start()
    node.tb4("claim", "force", "200", "--yes")
    gateway.wait_for("fenced").kill()
    again = node.spawn(env=supervisor.env)
    supervisor.wait_for("READY=1")
    assert again.status()["state"] == "fenced"


def test_failed_start_is_never_ready(node, supervisor):
    node.create(200, "1M")
    node.image().unlink()
    gateway = node.spawn(env=supervisor.env)
    assert gateway.process.wait(30) == 66
    assert "READY=1" not in supervisor.all_that_came()


def crucible_volume(node, make_volume):
    volume = make_volume(extents=4)
    node.tb4("volume", "create", 200, volume.size, "--backend", "crucible", *volume.target_options)
    return volume


def test_status_says_that_requests_wait_for_copies_and_that_they_go_on(node, make_volume, supervisor):
    volume = crucible_volume(node, make_volume)
    gateway = node.spawn(env=supervisor.env)
    supervisor.wait_for("READY=1")
    supervisor.lines.clear()
    for sled in volume.sleds[:2]:
        sled.kill()
    assert supervisor.wait_for("requests wait") == \
        "STATUS=Serving 1 of 1 volumes; requests wait for copies of vm-200-disk-0"
    assert "vm-200-disk-0: requests wait: too few of its copies are there" in gateway.log
    supervisor.lines.clear()
    for sled in volume.sleds[:2]:
        sled.start()
    assert supervisor.wait_for("STATUS=") == "STATUS=Serving 1 of 1 volumes"
    assert gateway.stop() == 0


def test_start_that_takes_long_asks_for_more_time(node, make_volume, supervisor):
    """No copy is there: the start waits for them, and systemd for the start."""
    volume = crucible_volume(node, make_volume)
    for sled in volume.sleds:
        sled.kill()
    gateway = node.spawn(env=supervisor.env)
    assert supervisor.wait_for("EXTEND_TIMEOUT_USEC=") == "EXTEND_TIMEOUT_USEC=20000000"
    assert "STATUS=Starting: vm-200-disk-0" in supervisor.lines and "READY=1" not in supervisor.lines
    for sled in volume.sleds:
        sled.start()
    supervisor.wait_for("READY=1")
    assert gateway.stop() == 0


def test_watchdog_is_fed_while_the_loop_turns(node, supervisor):
    """Three times within its limit; not at all while the process is stopped."""
    node.create(200, "1M")
    gateway = node.spawn(env={**supervisor.env, "WATCHDOG_USEC": "300000"})
    supervisor.wait_for("READY=1")
    for _ in range(3):
        supervisor.lines.clear()
        supervisor.wait_for("WATCHDOG=1")
    os.kill(gateway.pid, signal.SIGSTOP)
    supervisor.all_that_came()
    supervisor.lines.clear()
    time.sleep(0.5)
    assert supervisor.all_that_came() == []
    os.kill(gateway.pid, signal.SIGCONT)
    supervisor.wait_for("WATCHDOG=1")
    assert gateway.stop() == 0


def test_without_a_watchdog_none_is_fed(node, supervisor):
    node.create(200, "1M")
    gateway = node.spawn(env=supervisor.env)
    supervisor.wait_for("READY=1")
    assert gateway.stop() == 0
    assert "WATCHDOG=1" not in supervisor.all_that_came()
