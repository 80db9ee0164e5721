"""kill -9 of the gateway under load: the guest sees a pause, and nothing acknowledged is lost."""
import os
import re
import signal
import subprocess
import threading
import time

import pytest

from support.node import TOOLS, needs

SCRIPT = os.path.join(os.path.dirname(__file__), "kill-cycles.py")


@pytest.mark.parametrize("seed", range(10))
def test_kills_under_load_lose_nothing(seed):
    """Two hundred cycles altogether."""
    result = subprocess.run(["/usr/bin/python3", SCRIPT, "20", str(seed)], capture_output=True, text=True, timeout=115,
                            check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.match(r"20 cycles, \d+ kills, \d{4,} operations, \d+ unanswered at a kill, 0 violations", result.stdout)


@needs("qemu-storage-daemon")
@pytest.mark.parametrize("kind", ["file", "own"])
def test_guest_behind_qemu_sees_no_error_over_restarts_and_kills(kind):
    """R3; how long it waits (R4, R5) is only printed here."""
    result = subprocess.run(["/usr/bin/python3", os.path.join(os.path.dirname(SCRIPT), "restart-cycles.py"), "20", "1", kind],
                            capture_output=True, text=True, timeout=115, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.match(r"20 restarts, 0 errors, \d{3,} operations", result.stdout)


def test_flushed_data_survive_kill_and_so_do_unflushed_ones_of_a_living_host(node, gateway):
    with gateway.connect() as client:
        client.write(0, b"flushed!" * 512)
        client.flush()
        client.write(4096, b"written." * 512)
    gateway.kill()
    with node.start().connect() as client:
        assert client.read(0, 4096) == b"flushed!" * 512
        assert client.read(4096, 4096) == b"written." * 512


def start_load(gateway):
    """(a client that connects again when it has to, the file that ends it)"""
    stop_file = gateway.node.directory / "stop"
    return subprocess.Popen([TOOLS / "nbd-history", "--region", "4M", "--stop-file", stop_file, gateway.socket,
                             "vm-200-disk-0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True), stop_file


def test_client_that_waits_for_the_restart_goes_on(node, gateway):
    """With a reconnecting client over kill and start the load never sees an error."""
    load, stop_file = start_load(gateway)
    for _ in range(3):
        time.sleep(0.2)
        gateway.kill()
        time.sleep(0.1)
        gateway = node.start()
    stop_file.touch()
    out, err = load.communicate(timeout=100)
    assert load.returncode == 0 and err == "" and " 0 errors" in out and " 0 violations" in out, out + err


def test_kill_right_after_the_start_again_and_again(node):
    """At whatever moment: the next one starts, under a higher generation."""
    node.create(200, "1M")
    seen = [0]
    for i in range(40):
        gateway = node.spawn()
        time.sleep(i * 0.001)
        gateway.kill()
        seen += [int(number) for number in re.findall(r"generation (\d+)", gateway.log)]
    gateway = node.start()
    seen.append(gateway.volume_status()["generation"])
    assert seen == sorted(set(seen))
    assert gateway.stop() == 0 and os.listdir(node.run_dir) == []


def test_orderly_stop_under_load_answers_everything_and_releases(node, gateway):
    load, stop_file = start_load(gateway)
    for _ in range(3):
        time.sleep(0.2)
        assert gateway.stop() == 0
        assert node.record()["released"] is True
        gateway = node.start()
    stop_file.touch()
    out, err = load.communicate(timeout=100)
    assert load.returncode == 0 and " 0 errors" in out and " 0 violations" in out, out + err


def test_second_stop_signal_while_stopping_is_harmless(node, gateway):
    with gateway.connect():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(gateway.pid, number)
        assert gateway.process.wait(40) == 0
    assert node.record()["released"] is True


def test_stop_right_after_the_start_again_and_again(node):
    """SIGTERM may come before the claim, in the middle of it, and after it."""
    node.create(200, "1M")
    for i in range(30):
        gateway = node.spawn()
        time.sleep(i * 0.001)
        gateway.process.send_signal(signal.SIGTERM)
        status = gateway.process.wait(40)
        assert status in (0, -signal.SIGTERM), (status, gateway.log)
        if status == 0 and "claimed" in gateway.log:
            assert node.record()["released"] is True
    assert node.start().stop() == 0


def test_commands_during_kills_never_see_nonsense(node, gateway):
    """status, metrics and claim show while gateways come and go."""
    results, ends = [], threading.Event()

    def ask():
        while not ends.is_set():
            for command in (("status", "--json"), ("metrics",), ("claim", "show"), ("volume", "list")):
                results.append((command, node.tb4(*command, check=False)))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(10):
            time.sleep(0.05)
            gateway.kill()
            gateway = node.start()
    finally:
        ends.set()
        thread.join()
    for command, result in results:
        assert result.returncode in (0, 1) and "anitizer" not in result.stderr, (command, result)
        if result.returncode == 1:  # it was killed while it answered
            assert command[0] == "status" and '"silent"' in result.stdout, result
