"""Volumes of the Crucible backend: the gateway on three downstairs, ours and upstream's."""
import fcntl
import json
import os
import random
import re
import signal
import subprocess
import time

import pytest

from support.certificates import files
from support.node import PROGRAMS, TOOLS, run, wait_until
from support.volume import BLOCK, EXTENTS, KEY, MIB, both
from support.wire import CMD_WRITE, Closed

HISTORY = TOOLS / "nbd-history"


def target_of(sled):
    return f"127.0.0.1:{sled.port}"


def options_of(volume):
    return ["--backend", "crucible", *volume.target_options, *(["--key-file", volume.directory / "key"] if volume.key else [])]


def create(node, volume, vmid=200, size=None):
    node.tb4("volume", "create", vmid, size or volume.size, *options_of(volume))


def contents(volume, slot):
    """The bytes of a region, as they lie in its files."""
    sled = volume.sleds[slot]
    return b"".join(sled.extent_path(extent).read_bytes()[:sled.extent_size * BLOCK]
                    for extent in range(sled.extent_count))


def assert_equal(volume):
    """All three hold the same; after an orderly stop with all in sync."""
    first = contents(volume, 0)
    for slot in (1, 2):
        other = contents(volume, slot)
        at = next((i for i in range(0, len(first), BLOCK) if first[i:i + BLOCK] != other[i:i + BLOCK]), None)
        assert at is None, f"slots 0 and {slot} differ at {at}"


def slots(gateway):
    return gateway.volume_status()["crucible"]["slots"]


def wait_for_slot(gateway, slot, *states, timeout=60):
    wait_until(lambda: slots(gateway)[slot]["state"] in states, f"slot {slot} {' or '.join(states)}", timeout)


def copy_in(gateway, path):
    run("nbdcopy", path, gateway.uri())


def copy_out(gateway, path):
    run("nbdcopy", gateway.uri(), path)


def load(gateway, stop_file):
    """nbd-history in the background, from the moment on that its region is zeroed."""
    words = [HISTORY, "--region", "16M", "--max", "128K", "--align", "4096", "--connections", "3", "--depth", "8", "--wait",
             "--stop-file", stop_file, gateway.socket, "vm-200-disk-0"]
    history = subprocess.Popen([str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert history.stdout.readline() == "ready\n", history.stderr.read()
    history.stdin.write("go\n")
    history.stdin.flush()
    return history


def serve_under_load(volume, node, tmp_path):
    """(the gateway of a new volume, its load, the file that ends the load)"""
    create(node, volume)
    gateway = node.start()
    stop_file = tmp_path / "stop"
    return gateway, load(gateway, stop_file), stop_file


def end(history, stop_file, timeout=100):
    """Ends it in order. Nothing may have gone wrong."""
    stop_file.touch()
    out, err = history.communicate(timeout=timeout)
    assert history.returncode == 0 and " 0 violations" in out and " 0 errors" in out, out + err
    return int(re.match(r"\d+", out)[0])


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
@both
def test_what_is_copied_in_comes_out_and_lies_on_all_three(make_volume, node, kind, key, tmp_path):
    volume = make_volume(kind, extents=EXTENTS, key=key)
    create(node, volume)
    image = tmp_path / "image"
    image.write_bytes(random.Random(1).randbytes(20 * MIB) + bytes(20 * MIB) + random.Random(2).randbytes(24 * MIB))
    gateway = node.start()
    copy_in(gateway, image)
    copy_out(gateway, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == image.read_bytes()
    assert gateway.stop() == 0
    assert_equal(volume)
    data = contents(volume, 0)
    assert (data == image.read_bytes()) is (key is None)
    again = node.start()
    copy_out(again, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == image.read_bytes()
    assert again.stop() == 0


@both
def test_orderly_stop_leaves_a_clean_record_and_nothing_else(volume, node):
    create(node, volume)
    gateway = node.start()
    with gateway.connect() as client:
        client.write(0, b"x" * 4096)
    assert gateway.stop() == 0
    text = (node.claim_dir / "vm-200-disk-0.json").read_text().splitlines()[0]
    record = json.loads(text)
    assert record["released"] is True and record["copies"]["clean"] is True
    assert [slot["in_sync"] for slot in record["copies"]["slots"]] == [True] * 3
    assert [slot["region"] for slot in record["copies"]["slots"]] == [str(one.uuid) for one in volume.sleds]
    assert os.listdir(node.run_dir) == []


@both
def test_kill_of_the_gateway_under_load_loses_nothing(volume, node, tmp_path):
    """The next one takes the history over: no copy is mended from another."""
    gateway, history, stop_file = serve_under_load(volume, node, tmp_path)
    for _ in range(4):
        time.sleep(0.3)
        gateway.kill()
        gateway = node.start()
        assert "claim resumed" in gateway.log and "given up" not in gateway.log and "made equal" not in gateway.log
    assert end(history, stop_file) > 0
    assert gateway.stop() == 0
    assert_equal(volume)


@both
def test_guest_goes_on_while_one_downstairs_is_away_and_all_are_equal_when_it_is_back(volume, node, tmp_path):
    gateway, history, stop_file = serve_under_load(volume, node, tmp_path)
    for slot in (1, 0, 2):
        time.sleep(0.3)
        volume.sleds[slot].kill()
        wait_for_slot(gateway, slot, "absent", "connecting")
        assert slots(gateway)[slot]["trouble"] in ("unreachable", "lost"), slots(gateway)[slot]
        before = gateway.volume_status()
        time.sleep(0.3)
        assert before["state"] == "serving"
        volume.sleds[slot].start()
        wait_for_slot(gateway, slot, "active")
        wait_until(lambda: slots(gateway)[slot]["in_sync"], "in sync again")  # pylint: disable=cell-var-from-loop
    end(history, stop_file)
    assert gateway.stop() == 0
    assert_equal(volume)


@both
def test_wiped_downstairs_is_filled_again_under_load(make_volume, node, kind, tmp_path):
    volume = make_volume(kind, extents=EXTENTS)
    gateway, history, stop_file = serve_under_load(volume, node, tmp_path)
    time.sleep(0.5)
    victim = volume.sleds[1]
    victim.kill()
    wait_for_slot(gateway, 1, "absent", "connecting")
    for extent in range(victim.extent_count):
        victim.extent_path(extent).unlink()
    victim.directory.rename(f"{victim.directory}.gone")
    subprocess.run(victim.create_command(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    victim.start()
    wait_for_slot(gateway, 1, "active")
    end(history, stop_file)
    assert gateway.stop() == 0
    assert_equal(volume)


def replace(node, slot, sled, **options):
    return node.tb4("volume", "replace", "200", slot, "--target", target_of(sled), **options)


def wait_until_replaced(gateway, slot, sled):
    def is_there():
        found = slots(gateway)[slot]
        return found["target"] == target_of(sled) and found["state"] == "active" and found["in_sync"]
    wait_until(is_there, f"slot {slot} is replaced", 60)


def let_take_its_place(volume, gateway, slot, sled):
    """The old one goes as soon as the new one is being filled."""
    volume.sleds[slot].kill()
    volume.sleds[slot] = sled
    wait_until_replaced(gateway, slot, sled)


@both
def test_slot_gets_another_region_under_load(make_volume, node, kind, tmp_path):
    volume, spare = make_volume(kind, extents=EXTENTS), make_volume(kind, extents=EXTENTS).sleds[0]
    gateway, history, stop_file = serve_under_load(volume, node, tmp_path)
    time.sleep(0.3)
    assert re.fullmatch(rf"vm-200-disk-0: slot 1, 127.0.0.1:{spare.port}, .* tb4 status 200\n", replace(node, 1, spare))
    let_take_its_place(volume, gateway, 1, spare)
    time.sleep(0.3)
    assert end(history, stop_file) > 0
    assert gateway.stop() == 0
    assert_equal(volume)
    gateway = node.start()  # the volume file and the record know it
    wait_until_replaced(gateway, 1, spare)
    assert node.tb4_json("volume", "info", "200")["targets"][1] == target_of(spare)
    assert gateway.stop() == 0


@both
def test_region_that_is_not_empty_is_refused_until_it_is_and_the_slot_is_retried(make_volume, node, kind):
    volume, other = make_volume(kind, extents=EXTENTS), make_volume(kind, extents=EXTENTS)
    other.check(0.2)
    create(node, volume)
    gateway = node.start()
    spare = other.sleds[0]
    replace(node, 2, spare)
    wait_for_slot(gateway, 2, "failed")
    assert "not empty" in slots(gateway)[2]["last_error"] and slots(gateway)[2]["advice"]
    before = spare.extent_path(0).read_bytes()
    with gateway.connect() as client:
        client.write(0, b"1" * BLOCK)
        client.flush()
    assert spare.extent_path(0).read_bytes() == before
    spare.wipe().start()
    assert slots(gateway)[2]["state"] == "failed"  # nobody looks at it by himself
    assert json.loads(node.tb4("volume", "retry", "200", "2", "--json"))["target"] == target_of(spare)
    let_take_its_place(volume, gateway, 2, spare)
    assert gateway.stop() == 0
    assert_equal(volume)


@both
def test_replacement_that_a_kill_has_cut_in_two_is_completed_by_the_same_command(make_volume, node, kind):
    """The volume file names the new region, the record the old one."""
    volume, spare = make_volume(kind, extents=EXTENTS), make_volume(kind, extents=EXTENTS).sleds[0]
    create(node, volume)
    gateway = node.start()
    with gateway.connect() as client:
        client.write(0, b"1" * BLOCK)
        client.flush()
    gateway.kill()
    path = node.volume_dir / "vm-200-disk-0.conf"
    path.write_text(path.read_text().replace(target_of(volume.sleds[0]), target_of(spare)))
    gateway = node.start()
    wait_for_slot(gateway, 0, "failed")
    assert "another region" in slots(gateway)[0]["last_error"]
    replace(node, 0, spare)
    let_take_its_place(volume, gateway, 0, spare)
    with gateway.connect() as client:
        assert client.read(0, BLOCK) == b"1" * BLOCK
    assert gateway.stop() == 0
    assert_equal(volume)


def test_replacement_that_the_copies_refuse_at_the_last_moment_leaves_the_old_target(make_volume, node):
    """Another slot goes while the volume file is being written."""
    volume, spare = make_volume(extents=EXTENTS), make_volume(extents=EXTENTS).sleds[0]
    create(node, volume)
    path = node.volume_dir / "vm-200-disk-0.conf"
    before = path.read_text()
    gateway = node.start()
    with open(node.volume_dir / ".lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [PROGRAMS / "tb4", "--config", node.config, "volume", "replace", "200", "1", "--target", target_of(spare)]
        waiting = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: "is being changed already" in node.tb4("volume", "retry", "200", "1", check=False).stderr,
                   "the gateway waits for the lock")
        volume.sleds[0].kill()
        wait_for_slot(gateway, 0, "absent", "connecting")
        fcntl.flock(lock, fcntl.LOCK_UN)
    _, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 75 and "both other slots must be active" in err, err
    assert path.read_text() == before and slots(gateway)[1]["target"] == target_of(volume.sleds[1])
    volume.sleds[0].start()
    wait_for_slot(gateway, 0, "active")
    replace(node, 1, spare)
    wait_until_replaced(gateway, 1, spare)
    assert gateway.stop() == 0


def test_replacements_and_retries_that_cannot_be_are_refused_and_change_nothing(make_volume, node):
    volume, spare = make_volume(extents=EXTENTS), make_volume(extents=EXTENTS).sleds[0]
    create(node, volume)
    node.tb4("volume", "create", "201", "1M")
    path = node.volume_dir / "vm-200-disk-0.conf"
    before = path.read_text()

    def refused(status, text, *words):
        result = node.tb4("volume", *words, check=False)
        assert result.returncode == status and re.search(text, result.stderr), result
        assert result.stderr.count("\n") == 1 and path.read_text() == before

    new = ["--target", target_of(spare)]
    refused(69, "does not run", "replace", "200", "1", *new)
    gateway = node.start()
    refused(64, "not a slot", "replace", "200", "3", *new)
    refused(64, "not a slot", "retry", "200", "--", "-1")
    refused(64, "not a slot", "retry", "200", "x")
    refused(64, "one --target HOST:PORT", "replace", "200", "1")
    refused(64, "one --target HOST:PORT", "replace", "200", "1", *new, *new)
    refused(64, "not HOST:PORT", "replace", "200", "1", "--target", "nowhere")
    refused(64, "is slot 0 already", "replace", "200", "1", "--target", target_of(volume.sleds[0]))
    refused(64, "has no slots", "replace", "201", "1", *new)
    refused(75, "has not failed", "retry", "200", "1")
    refused(69, "no-such-host", "replace", "200", "1", "--target", "no-such-host.invalid:1")
    volume.sleds[0].kill()
    wait_for_slot(gateway, 0, "absent", "connecting")
    refused(75, "both other slots must be active", "replace", "200", "1", *new)
    replace(node, 0, spare)  # the one that is missing may be
    wait_until_replaced(gateway, 0, spare)
    assert gateway.stop() == 0


@both
def test_requests_wait_while_all_downstairs_are_away(volume, node, tmp_path):
    gateway, history, stop_file = serve_under_load(volume, node, tmp_path)
    time.sleep(0.3)
    for one in volume.sleds:
        one.kill()
    wait_until(lambda: gateway.volume_status()["crucible"]["copies"] == "paused", "the pause")
    time.sleep(1)
    assert history.poll() is None
    for one in volume.sleds:
        one.start()
    wait_until(lambda: gateway.volume_status()["crucible"]["copies"] == "serving", "the end of the pause", 60)
    for slot in range(3):
        wait_for_slot(gateway, slot, "active")
    end(history, stop_file)
    assert gateway.stop() == 0
    assert_equal(volume)


@both
def test_start_with_two_of_three_serves_and_the_third_comes_back(volume, node):
    create(node, volume)
    assert node.start().stop() == 0
    volume.sleds[2].kill()
    gateway = node.start()
    with gateway.connect() as client:
        client.write(0, b"two" * 4096)
        result = node.tb4("status", "200", check=False)
        port = volume.sleds[2].port
        assert result.returncode == 1 and re.search(rf"slot 2, 127\.0\.0\.1:{port}: (absent|connecting).*: ", result.stdout)
        assert "slot 1" not in result.stdout
        reasons = node.tb4_json("status", check=False)["degraded"]
        assert len(reasons) == 1 and re.match("vm-200-disk-0: slot 2: (absent|connecting), not in sync, ", reasons[0]), reasons
        volume.sleds[2].start()
        wait_until(lambda: node.tb4("status", "200", check=False).returncode == 0, "all in order", 60)
        assert client.read(0, 4096) == (b"two" * 4096)[:4096]
    assert gateway.stop() == 0
    assert_equal(volume)


@both
def test_paused_owner_that_wakes_after_a_take_over_writes_nothing(make_volume, make_node, kind, tmp_path):
    """Its generation is refused by the downstairs, whatever it believes."""
    volume = make_volume(kind, extents=EXTENTS)
    first = make_node("node-a")
    second = make_node("node-b", share_with=first)
    create(first, volume)
    old = first.start()
    client = old.connect()
    client.write(0, b"A" * 4096)
    os.kill(old.pid, signal.SIGSTOP)
    second.tb4("claim", "force", "200", "--yes")
    second.tb4("claim", "release", "200")
    new = second.start()
    with new.connect() as other:
        assert other.read(0, 4096) == b"A" * 4096
        other.write(0, b"B" * 4096)
        client.send_request(CMD_WRITE, 0, 4096, payload=b"C" * 4096)
        os.kill(old.pid, signal.SIGCONT)
        old.wait_for("fenced")
        time.sleep(0.3)
        assert other.read(0, 4096) == b"B" * 4096
    with pytest.raises((Closed, ConnectionError, AssertionError)):
        client.read(0, 4096)
    assert new.stop() == 0
    assert_equal(volume)


@both
def test_parts_of_blocks_are_written_for_clients_that_ask_for_no_block_size(volume, node):
    create(node, volume)
    gateway = node.start()
    line = run(HISTORY, "--region", "256K", "--max", "8K", "--connections", "2", "--depth", "4", "--operations", "400",
               "--no-block-size", gateway.socket, "vm-200-disk-0")
    assert " 0 violations" in line and " 0 errors" in line
    assert gateway.stop() == 0
    assert_equal(volume)


@both
def test_blocks_that_were_never_written_are_a_hole_once_they_were_read(volume, node, tmp_path):
    create(node, volume)
    gateway = node.start()
    with gateway.connect() as client:
        client.write(8 * MIB, b"data" * 1024)
    copy_out(gateway, tmp_path / "all")
    extents = json.loads(run("nbdinfo", "--map", "--json", gateway.uri()))
    assert [(one["offset"], one["length"], one["type"]) for one in extents] == [  # the first block is the fence
        (0, 4096, 0), (4096, 8 * MIB - 4096, 3), (8 * MIB, 4096, 0),
        (8 * MIB + 4096, volume.size - 8 * MIB - 4096, 3)]
    assert gateway.stop() == 0


@both
def test_zeroes_of_a_large_range_are_zeros_everywhere(volume, node, tmp_path):
    create(node, volume)
    gateway = node.start()
    (tmp_path / "image").write_bytes(random.Random(3).randbytes(volume.size))
    copy_in(gateway, tmp_path / "image")
    run("qemu-io", "-f", "raw", "-c", "write -z 1M 40M", gateway.uri())
    copy_out(gateway, tmp_path / "back")
    wanted = bytearray((tmp_path / "image").read_bytes())
    wanted[MIB:41 * MIB] = bytes(40 * MIB)
    assert (tmp_path / "back").read_bytes() == bytes(wanted)
    assert gateway.stop() == 0
    assert_equal(volume)


@both
def test_import_and_export_without_a_gateway(volume, node, tmp_path):
    create(node, volume)
    (tmp_path / "image").write_bytes(random.Random(4).randbytes(9 * MIB))
    node.tb4("volume", "import", "200", tmp_path / "image")
    node.tb4("volume", "export", "200", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "image").read_bytes() + bytes(volume.size - 9 * MIB)
    assert_equal(volume)


def test_regions_that_are_too_small_are_refused_with_what_to_do(make_volume, node):
    volume = make_volume(extents=4)
    create(node, volume)
    node.change_file(size=volume.size + 4096)
    status, log = node.run_to_end()
    assert status == 65 and re.search(r"fewer than the \d+ bytes of the volume: correct size in \S+vm-200-disk-0\.conf", log)


def test_volume_grows_into_what_its_regions_have_left_and_no_further(make_volume, node):
    volume = make_volume(extents=8)
    create(node, volume, size="4M")
    gateway = node.start()
    node.tb4("volume", "resize", "200", "8M")
    with gateway.connect() as client:
        client.write(8 * MIB - 4096, b"e" * 4096)
    result = node.tb4("volume", "resize", "200", "9M", check=False)
    assert result.returncode == 73 and "qm disk move" in result.stderr, result
    assert gateway.stop() == 0


@pytest.mark.parametrize("options, status, why", [
    ([], 64, "needs [sled NAME] sections in tb4.conf, or --target 3 times"),
    (["--target", "a:1", "--target", "b:2"], 64, "has it 2 times"),
    (["--target", "a:1", "--target", "b:2", "--target", "c:3", "--target", "d:4"], 64, "--target: there are 3"),
    (["--target", "a:1", "--target", "b:2", "--target", "a:1"], 64, "a:1: given twice"),
    (["--target", "a", "--target", "b:2", "--target", "c:3"], 64, "--target a: not HOST:PORT"),
    (["--target", "a:0", "--target", "b:2", "--target", "c:3"], 64, "--target a:0: not HOST:PORT"),
    (["--target", "::1:5", "--target", "b:2", "--target", "c:3"], 64, "not HOST:PORT"),
    (["--target", "a:1", "--target", "b:2", "--target", "c:3", "--key-file", "key"], 64, "not an absolute path"),
])
def test_wrong_targets_are_refused_and_leave_nothing(node, options, status, why):
    result = node.tb4("volume", "create", "200", "64M", "--backend", "crucible", *options, check=False)
    assert result.returncode == status and why in result.stderr and len(result.stderr.splitlines()) == 1, result
    assert not node.volume_dir.exists() or not list(node.volume_dir.glob("*.conf"))


@pytest.mark.parametrize("change, why", [
    (("target_1", None), r"\[crucible\] has no target_1"), (("target_2", "nowhere"), r"target_2 = nowhere: not HOST:PORT"),
    (("block_size", "5000"), "block_size: not a power of two"), (("size", "66048"), "size: not a multiple of the block size, 4096"),
])
def test_faults_of_the_volume_file_are_named_with_their_line(node, change, why):
    node.tb4("volume", "create", "200", "64M", "--backend", "crucible", "--target", "127.0.0.1:1", "--target", "[::1]:2",
             "--target", "127.0.0.1:3", "--force")
    path = node.volume_dir / "vm-200-disk-0.conf"
    name, value = change
    lines = [line for line in path.read_text().splitlines() if not line.startswith(name)]
    if value:
        lines.insert(lines.index("[volume]" if name == "size" else "[crucible]") + 1, f"{name} = {value}")
    path.write_text("\n".join(lines) + "\n")
    result = node.tb4("check", check=False)
    assert result.returncode == 78 and re.search(why, result.stdout + result.stderr), result
    if value:
        assert re.search(r"\.conf:\d+: ", result.stdout + result.stderr), result


def test_key_that_others_may_read_is_refused(make_volume, node):
    volume = make_volume(key=KEY)
    create(node, volume)
    (volume.directory / "key").chmod(0o644)
    status, log = node.run_to_end()
    assert status == 77 and "others may read it: chmod 600" in log


def test_name_that_resolves_and_one_that_does_not(make_volume, node):
    volume = make_volume()
    targets = [word for one in volume.sleds for word in ("--target", f"localhost:{one.port}")]
    node.tb4("volume", "create", "200", "16M", "--backend", "crucible", *targets)
    assert node.start().stop() == 0
    node.change_file(target_0="no-such-host.invalid:5")
    status, log = node.run_to_end()
    assert status != 0 and "target_0: no-such-host.invalid:5" in log


def test_two_volumes_with_one_downstairs_are_found_by_check(make_volume, node):
    volume = make_volume()
    create(node, volume)
    text = (node.volume_dir / "vm-200-disk-0.conf").read_text()
    (node.volume_dir / "vm-201-disk-0.conf").write_text(text)
    result = node.tb4("check", check=False)
    assert result.returncode == 78 and "is also one of vm-200-disk-0" in result.stdout + result.stderr


def tls_settings(certificates, name):
    return (f"[crucible]\ntls_authority = {certificates}/authority.pem\ntls_certificate = {certificates}/{name}.pem\n"
            f"tls_key = {certificates}/{name}.key")


def test_connections_to_downstairs_are_made_by_tls(make_volume, make_node, certificates):
    node = make_node(settings=tls_settings(certificates, "upstairs"))
    volume = make_volume(start=False)
    for i, sled in enumerate(volume.sleds):
        sled.arguments = files(certificates, f"downstairs{i}")
        sled.start()
    create(node, volume)
    gateway = node.start()
    with gateway.connect() as client:
        client.write(4096, b"t" * 4096)
        assert client.read(4096, 4096) == b"t" * 4096
    assert gateway.stop() == 0
    assert_equal(volume)


def test_downstairs_without_tls_is_no_copy_where_tls_is_set(make_volume, make_node, certificates):
    node = make_node(settings=tls_settings(certificates, "upstairs"))
    volume = make_volume()
    create(node, volume)
    gateway = node.spawn()
    gateway.wait_for_log("slot 2, .*TLS")
    assert gateway.volume_status()["state"] == "starting"


@pytest.mark.parametrize("settings, why", [
    ("[crucible]\ntls_key = /k", "needs all of tls_authority, tls_certificate and tls_key"),
    ("[crucible]\ntls_authority = /a\ntls_certificate = /c\ntls_key = /k", r"TLS: .*/a"),
])
def test_incomplete_tls_settings_are_refused(make_volume, make_node, settings, why):
    node = make_node()
    create(node, make_volume())
    node.write_config(settings)
    status, log = node.run_to_end()
    assert status != 0 and re.search(why, log) and len(log.splitlines()) == 1, log


def scrub(node, *options, **more):
    return node.tb4("volume", "scrub", "200", *options, **more)


def damaged(gateway):
    return [(one["damaged_blocks"], one["healed_blocks"]) for one in slots(gateway)]


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
@both
def test_scrub_finds_what_has_rotted_and_heals_it_under_load(make_volume, node, kind, key, tmp_path):
    """Bits flip in one region, where nobody reads: found, healed, counted; and named by nobody afterwards."""
    volume = make_volume(kind, extents=EXTENTS, key=key)
    create(node, volume)
    gateway = node.start()
    image = tmp_path / "image"
    image.write_bytes(random.Random(5).randbytes(volume.size))
    copy_in(gateway, image)
    assert scrub(node) == "vm-200-disk-0: all copies are equal\n"
    blocks = volume.size // BLOCK
    victims = sorted(random.Random(6).sample(range(20 * MIB // BLOCK, blocks), 5))  # behind what the load writes
    for block in victims:
        volume.sleds[1].flip(block)
    history = load(gateway, tmp_path / "stop")
    assert "5 blocks were not right on all copies, 0 of them could not be healed" in scrub(node)
    assert damaged(gateway) == [(0, 0), (5, 5), (0, 0)]
    metrics = node.tb4("metrics", "200")
    assert 'tb4_slot_healed_blocks_total{vmid="200",volume="vm-200-disk-0",slot="1"} 5' in metrics
    assert 'tb4_scrub_passes_total{vmid="200",volume="vm-200-disk-0"} 2' in metrics
    assert node.tb4_json("volume", "scrub", "200") == {
        "name": "vm-200-disk-0", "differing_blocks": 0, "unhealed_blocks": 0}
    end(history, tmp_path / "stop")
    copy_out(gateway, tmp_path / "back")
    assert (tmp_path / "back").read_bytes()[20 * MIB:] == image.read_bytes()[20 * MIB:]
    assert gateway.stop() == 0
    assert_equal(volume)


def test_scrub_in_the_background_is_shown_and_can_be_stopped(make_volume, node):
    create(node, make_volume(extents=EXTENTS))
    gateway = node.start()
    assert "has begun" in scrub(node, "--background", "--rate", "1M")
    wait_until(lambda: gateway.volume_status()["crucible"]["scrub"]["done_blocks"] > 0, "it goes on")
    assert re.search(r"scrub: \d+ % of the blocks compared", node.tb4("status"))
    waiting = subprocess.Popen([PROGRAMS / "tb4", "--config", node.config, "volume", "scrub", "200", "--rate", "1M"],
                               stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 130 and "the scrub goes on" in err
    assert gateway.volume_status()["crucible"]["scrub"]["running"] is True
    assert "is stopped" in scrub(node, "--stop")
    wait_until(lambda: not gateway.volume_status()["crucible"]["scrub"]["running"], "it stops")
    assert gateway.stop() == 0


def test_scrub_that_cannot_be_is_refused(make_volume, node):
    create(node, make_volume(extents=4))
    node.tb4("volume", "create", "201", "1M")

    def refused(status, text, *words):
        result = node.tb4("volume", "scrub", *words, check=False)
        assert result.returncode == status and text in result.stderr, result
    refused(69, "start the VM's gateway first", "200")
    refused(64, "has no copies to compare", "201")
    refused(64, "not a number of bytes a second", "200", "--rate", "fast")
    refused(64, "not a number of bytes a second", "200", "--rate", "0")
    refused(66, "no such volume", "202")


def test_scrub_by_itself(make_volume, make_node):
    """A minute after the start, which a test does not wait for: the setting is taken, and nothing is scrubbed before."""
    node = make_node(settings="[crucible]\nscrub_rate = 100M\nscrub_every = 1\n")
    create(node, make_volume(extents=4))
    gateway = node.start()
    assert gateway.volume_status()["crucible"]["scrub"] == {
        "running": False, "done_blocks": 0, "all_blocks": 0, "passes": 0, "differing_blocks": 0}
    assert gateway.stop() == 0


@both
def test_writes_answered_at_once_are_not_lost_by_kills_either(volume, node, tmp_path):
    """write_ack = submit: what was answered is in the history, which outlives the gateway."""
    create(node, volume)
    node.add_to_file(write_ack="submit")
    gateway = node.start()
    assert "write_ack = submit: loss of this host loses writes that were not flushed" in gateway.log
    assert gateway.volume_status()["crucible"]["write_ack"] == "submit"
    history = load(gateway, tmp_path / "stop")
    for number in range(4):
        time.sleep(0.3)
        gateway.kill()
        if number % 2:
            volume.sleds[number % 3].kill()
        gateway = node.start()
        if number % 2:
            volume.sleds[number % 3].start()
    end(history, tmp_path / "stop")
    for slot in range(3):
        wait_for_slot(gateway, slot, "active")
    assert gateway.stop() == 0
    assert_equal(volume)


@both
def test_lone_write_that_is_answered_at_once_is_on_all_copies_soon(volume, node):
    """write_ack = submit: it waits for others for a moment only."""
    create(node, volume)
    node.add_to_file(write_ack="submit")
    gateway = node.start()
    with gateway.connect() as client:
        for number in range(1, 4):
            client.write(0, bytes([number]) * 4096)
            for sled in volume.sleds:
                wait_until(lambda: sled.extent_path(0).read_bytes()[:4096] == bytes([number]) * 4096,  # pylint: disable=W0640
                           "the write", 5)
    assert gateway.stop() == 0


def test_snapshots_are_refused_with_the_reason(make_volume, node):
    create(node, make_volume(extents=4))
    node.tb4("volume", "create", "201", "1M")
    for vmid, why in ((200, "acknowledges a snapshot also where it takes none"), (201, "has no snapshots")):
        result = node.tb4("volume", "snapshot", vmid, "before-upgrade", check=False)
        assert result.returncode == 69 and why in result.stderr and "tb4 volume export" in result.stderr, result
        assert result.stdout == "" and result.stderr.count("\n") == 1
