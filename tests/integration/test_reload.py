"""tb4 reload, tb4 limit and tb4 volume limit: what changes under a running gateway, and what is not touched by it."""
import os
import re
import subprocess
import threading
import time

import pytest

from support import wire
from support.node import needs, run, wait_until

SCRIPT = os.path.join(os.path.dirname(__file__), "reload-cycles.py")
DISK_0, DISK_1 = "vm-200-disk-0", "vm-200-disk-1"
NOTHING = {"added": [], "removed": [], "changed": [], "need_restart": [], "faults": [], "dry_run": False}


def reload_json(node, *options):
    answer = node.tb4_json("reload", 200, *options)
    assert answer.pop("version") == 1 and answer.pop("ok") is True
    return answer


def names(gateway):
    return [volume["name"] for volume in gateway.status()["volumes"]]


def file_of(node, name=DISK_0):
    return node.volume_dir / f"{name}.conf"


# volumes that come and go

def test_new_volume_is_served_and_one_whose_file_is_gone_leaves(node, gateway):
    with gateway.connect(DISK_0) as untouched:
        node.tb4("volume", "create", 200, "8M", "--disk", 1)
        assert reload_json(node, "--dry-run") == {**NOTHING, "added": [DISK_1], "dry_run": True}
        assert names(gateway) == [DISK_0]
        assert reload_json(node) == {**NOTHING, "added": [DISK_1]}
        with gateway.connect(DISK_1) as client:
            client.write(0, b"new!" * 1024)
        assert node.record(DISK_1)["claim_id"]
        assert reload_json(node) == NOTHING and "nothing has changed" in node.tb4("reload", 200)

        client = gateway.connect(DISK_1)
        file_of(node, DISK_1).rename(node.directory / "kept")
        assert f"{DISK_1}: would be taken out of service" in node.tb4("reload", 200, "--dry-run")
        assert reload_json(node) == {**NOTHING, "removed": [DISK_1]}
        assert client.is_closed() and names(gateway) == [DISK_0]
        assert "no longer served" in gateway.log

        (node.directory / "kept").rename(file_of(node, DISK_1))  # and comes back with what it held
        assert node.record(DISK_1)["released"] is True
        assert f"{DISK_1}: is new" in node.tb4("reload", 200)
        with gateway.connect(DISK_1) as client:
            assert client.read(0, 4096) == b"new!" * 1024
        untouched.write(0, b"constant" * 512)
        assert untouched.read(0, 4096) == b"constant" * 512
    assert gateway.stop() == 0


def test_volume_leaves_only_when_its_requests_are_answered_and_others_are_served_meanwhile(node, memory_dir):
    """A client that does not take its replies is waited for as long as an orderly stop would."""
    node.write_config("[nbd]\nstop_timeout = 2\n")
    node.create(200, "64M")
    node.tb4("volume", "create", 200, "64M", "--disk", 1)
    gateway = node.start()
    slow = gateway.connect(DISK_1)
    for _ in range(8):
        slow.send_request(wire.CMD_READ, 0, 8 << 20)
    wait_until(lambda: gateway.volume_status(DISK_1)["in_flight"] == 0, "requests done")
    file_of(node, DISK_1).unlink()
    reloading = threading.Thread(target=reload_json, args=(node,))
    reloading.start()
    wait_until(lambda: gateway.volume_status(DISK_1)["state"] == "leaving", "leaving")
    assert "No such file" in run("nbdinfo", gateway.uri(DISK_1), check=False).stderr
    with gateway.connect(DISK_0) as client:
        client.write(0, b"x" * 4096)
    reloading.join(20)
    assert names(gateway) == [DISK_0] and "the volume is no longer served: dropped" in gateway.log
    slow.close()


def test_all_files_gone_is_no_order_to_drop_everything(node, gateway):
    with gateway.connect(DISK_0) as client:
        file_of(node).rename(node.directory / "kept")
        result = node.tb4("reload", 200, check=False)
        assert result.returncode == 66 and "nothing is changed: stop the gateway" in result.stderr
        client.write(0, b"served" + bytes(506))


def test_volume_that_failed_is_tried_again(node):
    node.create(200, "8M")
    node.tb4("volume", "create", 200, "8M", "--disk", 1)
    node.image(DISK_1).rename(node.directory / "image")
    gateway = node.start()
    assert gateway.volume_status(DISK_1)["state"] == "failed"
    result = node.tb4("reload", 200, check=False)
    assert result.returncode == 1 and DISK_1 in result.stderr
    (node.directory / "image").rename(node.image(DISK_1))
    assert reload_json(node) == {**NOTHING, "added": [DISK_1]}
    assert gateway.volume_status(DISK_1)["state"] == "serving"


def test_damaged_file_changes_nothing_and_is_named(node, gateway):
    with gateway.connect(DISK_0) as client:
        kept = file_of(node).read_text()
        node.tb4("volume", "create", 200, "8M", "--disk", 1)
        file_of(node).write_text(kept.replace("size = ", "size = x"))
        result = node.tb4("reload", 200, check=False)
        assert result.returncode == 78 and re.search(rf"{DISK_0}.conf:\d+: size", result.stderr)
        assert f"{DISK_1}: is new" in result.stdout  # the others' changes hold
        client.write(0, b"served" + bytes(506))
        file_of(node).write_text(kept)
        (node.volume_dir / "vm-200.conf").write_text("[limits]\niops = many\n")
        result = node.tb4("reload", 200, check=False)
        assert result.returncode == 78 and "vm-200.conf:2: iops" in result.stderr
        assert "vm-200.conf:2" in node.tb4("check", check=False).stdout


def test_what_cannot_change_live_is_named_and_what_can_does(node, gateway):
    with gateway.connect(DISK_0) as client:
        text = file_of(node).read_text()
        file_of(node).write_text(text.replace("host =", "description = quiet disk\nread_only = yes\nhost ="))
        answer = reload_json(node)
        assert answer == {**NOTHING, "changed": [DISK_0], "need_restart": [{"volume": DISK_0, "setting": "read_only"}]}
        client.write(0, b"as it was" + bytes(503))
        assert "read_only holds from the next start of the gateway on" in node.tb4("reload", 200)
    assert "quiet disk" in run("nbdinfo", gateway.uri(DISK_0))


def test_resized_volume_needs_no_reload_json(node, gateway):
    node.tb4("volume", "resize", DISK_0, "128M")
    assert reload_json(node) == NOTHING


def test_reload_refuses_in_one_line(node):
    node.create(200, "8M")
    result = node.tb4("reload", 200, check=False)
    assert result.returncode == 69 and len(result.stderr.splitlines()) == 1
    assert node.tb4("reload", "x", check=False).returncode == 64


@pytest.mark.parametrize("seed", range(2))
def test_untouched_export_sees_no_error_while_others_come_and_go(seed):
    """R16: more by hand."""
    result = subprocess.run(["/usr/bin/python3", SCRIPT, "30", str(seed)], capture_output=True, text=True, timeout=115,
                            check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.match(r"30 reloads, \d+ added, \d+ removed, \d+ retuned, \d{3,} operations, 0 violations", result.stdout)


# limits

def measure(gateway, name, count, kind=wire.CMD_WRITE, length=4096):
    """Seconds that so many requests take, 16 in flight."""
    payload = b"\1" * length if kind == wire.CMD_WRITE else b""
    with gateway.connect(name) as client:
        began = time.monotonic()
        sent = 0
        for done in range(count):
            while sent < min(count, done + 16):
                client.send_request(kind, 0, length, payload=payload)
                sent += 1
            assert client.read_reply()[1].error == 0
        return time.monotonic() - began


def test_limits_hold_and_can_be_changed_live(node, gateway):
    """The first second's worth comes at once, each further one takes a second. How fast it is without is not asked."""
    node.tb4("volume", "limit", DISK_0, "--iops", 100)
    assert measure(gateway, DISK_0, 250) > 1.2
    node.tb4("volume", "limit", DISK_0, "--iops", 0, "--bytes-per-second", "1M")
    assert measure(gateway, DISK_0, 40, wire.CMD_READ, 65536) > 1.2  # 2.5 MiB
    shown = gateway.volume_status()
    assert (shown["limit_iops"], shown["limit_bytes_per_second"]) == (0, 1 << 20) and shown["limited"] > 0
    assert re.search(r"^tb4_limited_total\{.*\} [1-9]", node.tb4("metrics", 200), re.M)
    assert node.tb4("volume", "limit", DISK_0) == f"{DISK_0}: 1 MiB/s, bursts of 1 s\n"
    with gateway.connect(DISK_0) as client:  # one that waits goes on at once when the limit goes
        node.tb4("volume", "limit", DISK_0, "--bytes-per-second", 1)
        for _ in range(3):
            client.send_request(wire.CMD_READ, 0, 1 << 20)
        assert client.read_reply()[1].error == 0
        assert client.is_silent(0.5)
        node.tb4("volume", "limit", DISK_0, "--bytes-per-second", 0)
        for _ in range(2):
            assert client.read_reply()[1].error == 0
    assert gateway.stop() == 0


def test_limit_of_the_vm_holds_for_all_its_volumes_together_and_lasts(node, gateway):
    node.tb4("volume", "create", 200, "8M", "--disk", 1)
    node.tb4("reload", 200)
    assert node.tb4("limit", 200, "--iops", 50, "--dry-run") == "would limit VM 200: 50 requests/s, bursts of 1 s\n"
    assert node.tb4("limit", 200) == "VM 200: no limits\n"
    node.tb4("limit", 200, "--iops", 100, "--burst", 1)
    assert gateway.stop() == 0
    gateway = node.start()
    assert gateway.status()["limit_iops"] == 100
    times = []
    threads = [threading.Thread(target=lambda name=name: times.append(measure(gateway, name, 130)))
               for name in (DISK_0, DISK_1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(times) > 1.2, "both share one budget"
    assert node.tb4_json("limit", 200) == {"name": "VM 200", "iops": 100, "bytes_per_second": 0, "burst": 1}
    node.tb4("limit", 200, "--iops", 0)
    assert not (node.volume_dir / "vm-200.conf").exists()


def test_client_behind_a_limit_can_hang_up_and_the_gateway_can_stop(node, gateway):
    node.tb4("volume", "limit", DISK_0, "--bytes-per-second", 1)
    client, other = gateway.connect(DISK_0), gateway.connect(DISK_0)
    for one in (client, other):
        one.send_request(wire.CMD_READ, 0, 1 << 20)
        one.send_request(wire.CMD_READ, 0, 1 << 20)
    wait_until(lambda: gateway.volume_status()["limited"] >= 1, "one waits")
    client.close()
    wait_until(lambda: gateway.volume_status()["connections"] == 1, "its connection is gone")
    assert gateway.stop() == 0


@pytest.mark.parametrize("options", [("--iops", "x"), ("--iops", "-1"), ("--burst", "0"), ("--burst", "3601"),
                                     ("--iops", "1000000001"), ("--bytes-per-second", "fast")])
def test_bad_limits_are_refused_and_change_nothing(node, options):
    node.create(200, "8M")
    before = file_of(node).read_text()
    for command in (("volume", "limit", DISK_0), ("limit", 200)):
        result = node.tb4(*command, *options, check=False)
        assert result.returncode in (64, 78) and result.stderr.startswith(f"tb4: {options[0]}")
    assert file_of(node).read_text() == before and not (node.volume_dir / "vm-200.conf").exists()


@needs("fio")
def test_limits_of_a_crucible_volume(node, make_volume):
    volume = make_volume("own", extents=4)
    node.tb4("volume", "create", 200, volume.size, "--backend", "crucible", *volume.target_options)
    gateway = node.start()
    node.tb4("volume", "limit", DISK_0, "--iops", 100)
    assert measure(gateway, DISK_0, 250) > 1.2
