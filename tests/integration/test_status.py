"""tb4 status, metrics and check: what an operator and a monitor see."""
import json
import math
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from support import wire
from support.metrics import FAMILIES, parse_metrics, value
from support.node import PROGRAMS
from support.outcome import refused


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# status

def test_status_of_a_running_gateway_has_all_fields(node, gateway):
    with gateway.connect() as client:
        client.write(0, b"x" * 4096)
        shown = node.tb4_json("status")
    assert shown["version"] == 1 and shown["node"] == "node-a" and len(shown["gateways"]) == 1 and shown["degraded"] == []
    one = shown["gateways"][0]
    assert (one["vmid"], one["pid"], one["state"]) == (200, gateway.pid, "serving")
    assert one["nbd"] == {"socket": gateway.socket, "connections": 1, "handshakes": 0, "accepted": 1, "refused": 0,
                          "memory_used": 0, "memory": 256 << 20, "tls_clients": []}
    volume = one["volumes"][0]
    record = node.record()
    assert volume.pop("file")["image"] == str(node.image())
    assert record["generation_first"] <= volume.pop("generation") <= record["generation_last"]
    assert volume == {"device": "/dev/nbd0", "name": "vm-200-disk-0", "backend": "file", "state": "serving",
                      "size": 64 << 20, "read_only": False, "flush_failed": False, "connections": 1, "in_flight": 0,
                      "limit_iops": 0, "limit_bytes_per_second": 0, "limited": 0,
                      "awaited_writes": 0, "claim_id": record["claim_id"], "node": "node-a"}


def degraded(node, *arguments):
    """What tb4 status says is degraded; its exit status says the same."""
    result = node.tb4("status", *arguments, "--json", check=False)
    found = json.loads(result.stdout)["degraded"]
    assert result.returncode == (1 if found else 0) and result.stderr == ""
    assert node.tb4("status", *arguments, check=False).returncode == result.returncode
    return found


def test_status_of_stopped_vms_is_no_error_unless_they_are_asked_for(node):
    node.create(200, "1M")
    result = node.tb4("status", check=False)
    assert result.returncode == 0 and re.search(r"^200 +vm-200-disk-0 +1M +file +stopped", result.stdout, re.MULTILINE)
    assert node.tb4_json("status")["gateways"] == [
        {"vmid": 200, "state": "stopped", "volumes": [
            {"name": "vm-200-disk-0", "backend": "file", "state": "stopped", "size": 1 << 20}]}]
    assert degraded(node) == [] and degraded(node, "200") == ["VM 200: stopped"]
    node.start(200)
    assert degraded(node) == [] and degraded(node, "200") == []


def test_status_lists_all_vms_and_one_if_asked(node):
    for vmid in (201, 200):
        node.create(vmid, "1M")
    node.start(201)
    assert [(one["vmid"], one["state"]) for one in node.tb4_json("status")["gateways"]] == [
        (200, "stopped"), (201, "serving")]
    assert [one["vmid"] for one in node.tb4_json("status", "201")["gateways"]] == [201]


def test_status_shows_a_gateway_whose_volume_files_are_gone(node, gateway):
    (node.volume_dir / "vm-200-disk-0.conf").unlink()
    assert gateway.volume_status()["state"] == "serving"
    assert [one["vmid"] for one in node.tb4_json("status")["gateways"]] == [200]


def test_status_does_not_list_a_vm_of_which_only_the_sockets_of_a_killed_gateway_are_left(node, gateway):
    gateway.kill()
    node.tb4("claim", "release", "200")
    node.tb4("volume", "delete", "200", "--yes")
    assert (gateway.directory / "control.sock").exists()
    assert node.tb4_json("status")["gateways"] == []
    assert node.tb4_json("status", "200", check=False)["gateways"][0]["state"] == "stopped"  # asked for by name
    assert "tb4_up{" not in node.tb4("metrics")


def test_status_of_a_fenced_gateway_is_degraded_and_says_who(node, gateway):
    node.tb4("claim", "force", "200", "--yes")
    gateway.wait_for("fenced")
    result = node.tb4("status", check=False)
    assert result.returncode == 1 and result.stderr == ""
    assert " fenced " in result.stdout and "fenced: node node-a has claimed it" in result.stdout
    assert degraded(node) == ["VM 200: fenced", "vm-200-disk-0: fenced"]


def test_status_of_a_failed_volume_is_degraded_and_says_why(node):
    node.create(200, "1M")
    node.tb4("volume", "create", "200", "1M", "--disk", "1")
    node.image("vm-200-disk-1").unlink()
    gateway = node.start()
    assert gateway.volume_status("vm-200-disk-0")["state"] == "serving"
    failed = gateway.volume_status("vm-200-disk-1")
    assert failed["state"] == "failed" and "vm-200-disk-1.raw: No such file or directory" in failed["reason"]
    assert degraded(node) == ["vm-200-disk-1: failed"]


def test_status_after_kill_is_stopped_not_silent(node, gateway):
    gateway.kill()
    assert node.tb4_json("status")["gateways"][0]["state"] == "stopped"


def test_gateway_that_hangs_is_silent_however_many_ask(node):
    """Also when the queue of its control socket is full, which must not hold up a monitor for ever."""
    node.create(200, "1M")
    gateway = node.start()
    os.kill(gateway.pid, signal.SIGSTOP)
    command = [str(PROGRAMS / "tb4"), "--config", str(node.config), "status", "200", "--json"]
    early = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    waiting = []
    try:
        while True:
            client = socket.socket(socket.AF_UNIX)
            waiting.append(client)
            client.setblocking(False)
            try:
                client.connect(str(gateway.directory / "control.sock"))
            except BlockingIOError:
                break
        late = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for process in (early, late):
            out = process.communicate(timeout=50)[0]
            shown = json.loads(out)["gateways"][0]
            assert process.returncode == 1 and shown["state"] == "silent" and "does not answer" in shown["reason"]
    finally:
        for process in (early, late):
            process.kill()
            process.wait()
        for client in waiting:
            client.close()
        os.kill(gateway.pid, signal.SIGCONT)
    gateway.wait_for("serving")


def run_on_strange_gateway(node, command, answer, hangs_up=False):
    """(exit status, standard output, standard error) of tb4 where VM 200's gateway answers so."""
    directory = node.run_dir / "200"
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "control.sock"))
        listener.listen()
        process = subprocess.Popen([str(PROGRAMS / "tb4"), "--config", str(node.config), *command],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        listener.settimeout(30)
        client = listener.accept()[0]
        with client:
            client.recv(65536)
            client.sendall(answer)
            if hangs_up:
                client.shutdown(socket.SHUT_WR)
            out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"{}\n", b'{"version":2,"ok":true}\n', b'{"version":1}\n',
                                    b'[]\n', b'{"version":1,"ok":false}\n', b'{"version":1,"ok":true'])
def test_answer_that_makes_no_sense_is_silent_and_costs_nothing(node, answer):
    node.create(200, "1M")
    status, out, err = run_on_strange_gateway(node, ["status", "200", "--json"], answer, hangs_up=True)
    assert status == 1 and err == ""
    assert json.loads(out)["gateways"][0]["state"] == "silent"


@pytest.mark.parametrize("answer", [
    {"version": 1, "ok": True}, {"version": 1, "ok": True, "volumes": 5}, {"version": 1, "ok": True, "volumes": [5]},
    {"version": 1, "ok": True, "volumes": [{"commands": [], "name": 3, "size": "x", "state": None}], "nbd": []},
    {"version": 1, "ok": True, "nbd": {}, "volumes": [{"commands": {"read": {"latency": [1]}}}]},
    {"version": 1, "ok": True, "nbd": {}, "volumes": {"a": 1}},
    {"version": 1, "ok": True, "nbd": 1, "volumes": [None]},
    {"version": 1, "ok": True, "nbd": {}, "volumes": [{"commands": {"read": 5}}]},
    {"version": 1, "ok": True, "nbd": {}, "volumes": [{"commands": {"read": {"latency": 5}}}]},
    {"version": 1, "ok": True, "nbd": {}, "volumes": [{"name": 'a"b\\c\nd', "commands": {"x\"y": {"latency": []}}}]},
])
@pytest.mark.parametrize("command", [["status", "200"], ["metrics", "200"], ["status"], ["metrics"]], ids=" ".join)
def test_answer_of_a_strange_gateway_does_not_crash_tb4(node, command, answer):
    """As of another version, or of somebody who pretends to be one."""
    status, out, err = run_on_strange_gateway(node, command, json.dumps(answer).encode() + b"\n")
    assert status in (0, 1, 65), (status, err)
    assert out and "Sanitizer" not in err


def test_watch_shows_it_again_until_ctrl_c(node, gateway):
    process = subprocess.Popen([str(PROGRAMS / "tb4"), "--config", str(node.config), "status", "--watch"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = [process.stdout.readline() for _ in range(2)]
    again = [process.stdout.readline() for _ in range(2)]
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=30)
    assert process.returncode == 0 and err == ""
    assert first[0] == again[0] and first[0].startswith("VM ") and "vm-200-disk-0" in first[1] and rest == ""
    gateway.stop()


def test_watch_ends_when_nobody_reads_it(node, gateway):
    process = subprocess.Popen([str(PROGRAMS / "tb4"), "--config", str(node.config), "status", "--watch"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) != 0
    assert "Sanitizer" not in process.stderr.read()
    process.stderr.close()
    assert gateway.process.poll() is None


# metrics

def metrics(node, *arguments):
    return parse_metrics(node.tb4("metrics", *arguments))


def test_metrics_are_valid_and_complete(node, gateway):
    samples, types = metrics(node)
    assert types == FAMILIES
    assert samples[("tb4_up", (("vmid", "200"),))] == 1 and samples[("tb4_gateways", ())] == 1
    assert value(samples, "tb4_volume_size_bytes") == 64 << 20
    for state in ("starting", "serving", "failed", "fenced"):
        assert value(samples, "tb4_volume_state", state=state) == (state == "serving")
    for command in ("read", "write", "flush", "trim", "write_zeroes", "cache", "block_status"):
        assert value(samples, "tb4_requests_total", command=command) == 0
    assert gateway.process.poll() is None


def test_metrics_without_a_gateway_are_valid(node):
    assert metrics(node)[0] == {("tb4_gateways", ()): 0}
    node.create(200, "1M")
    samples, types = metrics(node)
    assert types == FAMILIES and samples == {("tb4_up", (("vmid", "200"),)): 0, ("tb4_gateways", ()): 0}


def test_counters_rise_by_exactly_what_was_sent(node, gateway):
    with gateway.client().greet().use_structured().use_allocation().go() as client:
        before, _ = metrics(node)
        for i in range(3):
            client.write(i * 4096, b"x" * 4096)
        for _ in range(2):
            client.read(0, 8192)
        client.flush()
        assert client.request(wire.CMD_TRIM, 0, 4096).error == 0
        assert client.request(wire.CMD_WRITE_ZEROES, 0, 65536).error == 0
        assert client.request(wire.CMD_CACHE, 0, 4096).error == 0
        assert client.request(wire.CMD_BLOCK_STATUS, 0, 4096).error == 0
        assert client.request(wire.CMD_READ, 64 << 20, 4096).error == wire.EINVAL
        assert client.request(wire.CMD_WRITE, 64 << 20, 4096, payload=bytes(4096)).error == wire.ENOSPC
        assert client.request(wire.CMD_WRITE, 0, 4096, flags=wire.DF, payload=bytes(4096)).error == wire.EINVAL
        after, _ = metrics(node)

    def rise(name, command):
        return value(after, name, command=command) - value(before, name, command=command)

    assert {command: (rise("tb4_requests_total", command), rise("tb4_request_bytes_total", command),
                      rise("tb4_request_errors_total", command))
            for command in ("read", "write", "flush", "trim", "write_zeroes", "cache", "block_status")} == {
        "read": (3, 16384, 1), "write": (5, 12288, 2), "flush": (1, 0, 0), "trim": (1, 4096, 0),
        "write_zeroes": (1, 65536, 0), "cache": (1, 4096, 0), "block_status": (1, 4096, 0)}
    for command in ("read", "write", "flush"):
        assert rise("tb4_request_seconds_count", command) == rise("tb4_requests_total", command)
        assert rise("tb4_request_seconds_sum", command) > 0
    assert value(after, "tb4_connections") == 1 and value(after, "tb4_requests_in_flight") == 0


def test_histogram_is_cumulative_and_ends_with_all(node, gateway):
    with gateway.connect() as client:
        for i in range(50):
            client.write(i * 65536, b"x" * 65536)
    samples, _ = metrics(node)
    buckets = {}
    for (name, labels), count in samples.items():
        if name == "tb4_request_seconds_bucket":
            labels = dict(labels)
            buckets.setdefault(labels["command"], []).append((float(labels["le"]), count))
    assert len(buckets) == 7
    for command, found in buckets.items():
        limits = [limit for limit, _ in found]
        counts = [count for _, count in found]
        assert limits == sorted(set(limits)) and limits[-1] == math.inf and len(limits) == 24
        assert counts == sorted(counts)
        assert counts[-1] == value(samples, "tb4_request_seconds_count", command=command)
    assert value(samples, "tb4_request_seconds_count", command="write") == 50
    seconds = value(samples, "tb4_request_seconds_sum", command="write")
    below = sum(1 for limit, count in buckets["write"] if count == 0)
    assert seconds >= 50 * (buckets["write"][below - 1][0] if below else 0)


def test_metrics_of_two_vms_stand_in_one_family_each(node):
    for vmid in (200, 300):
        node.create(vmid, "1M")
        node.start(vmid)
    samples, _ = metrics(node)
    assert {dict(labels)["vmid"] for name, labels in samples if name == "tb4_requests_total"} == {"200", "300"}
    only, _ = metrics(node, "300")
    assert {dict(labels)["vmid"] for name, labels in only if name != "tb4_gateways"} == {"300"}


def test_metrics_show_a_fence(node, gateway):
    node.tb4("claim", "force", "200", "--yes")
    gateway.wait_for("fenced")
    samples, _ = metrics(node)
    assert value(samples, "tb4_volume_state", state="fenced") == 1
    assert value(samples, "tb4_volume_state", state="serving") == 0


def test_metrics_as_json_are_those_of_the_gateway(node, gateway):
    one = node.tb4_json("metrics")["gateways"][0]
    commands = one["volumes"][0]["commands"]
    assert one["pid"] == gateway.pid and set(commands["read"]) == {
        "operations", "bytes", "errors", "nanoseconds", "latency"}
    assert len(commands["read"]["latency"]) == 24


# check

def faults(node, status=78):
    result = node.tb4("check", "--json", check=False)
    assert (result.returncode, result.stderr) == (status, ""), result
    return json.loads(result.stdout)["faults"]


def test_check_without_faults(node):
    assert node.tb4("check") == f"no faults: 0 volumes in {node.volume_dir}\n"
    node.create(200, "1M")
    node.start().stop()
    assert node.tb4("check") == f"no faults: 1 volumes in {node.volume_dir}\n"
    assert node.tb4_json("check") == {"volumes": 1, "faults": []}


CONFIG_FAULTS = [
    ("bogus = 1", "unknown section|has no setting"), ("[bogus]", "unknown section"),
    ("[nbd]\nmemory = lots", "not a size"), ("[nbd]\nmemory = 1", "not between"),
    ("[nbd]\nlist = maybe", "neither yes nor no"), ("[nbd]\nhandshake_timeout = 0", "not between"),
    ("[file]\ndirect = always", "not one of"), ("[log]\nlevel = loud", "not one of"),
    ("[nbd]\njust words", "neither .section. nor name = value"), ("[nbd]\nlist = yes\nlist = yes", "given twice"),
    ("[paths]\nrun_dir = relative", "not an absolute path|given twice"), ("[nbd]\nlisten =", "empty"),
    ("[nbd]\nlisten = 10.0.0.1", "beyond loopback NBD needs TLS"), ("[nbd]\nlisten = localhost", "not a numeric"),
    ("[nbd]\nallow_users = nobody-of-this-name", "there is no user"),
    ("[nbd]\nconnection_memory = 512M", "larger than memory"),
]


@pytest.mark.parametrize("lines, pattern", CONFIG_FAULTS, ids=[lines.split("\n")[-1] for lines, _ in CONFIG_FAULTS])
def test_check_names_every_fault_of_the_configuration_with_its_line(node, lines, pattern):
    node.write_config(lines + "\n")
    found = faults(node)
    last = len(node.config.read_text().rstrip("\n").splitlines())
    assert len(found) == 1 and found[0]["file"] == str(node.config) and re.search(pattern, found[0]["text"])
    assert found[0].get("line") == last, found


def test_check_collects_all_faults(node):
    node.create(200, "1M")
    node.write_config("[nbd]\nmemory = lots\nlist = maybe\n")
    edit(node.volume_dir / "vm-200-disk-0.conf", "size = 1M", "size = some\nbogus = 1")
    found = faults(node)
    assert len(found) == 4
    text = node.tb4("check", check=False).stdout
    assert text.splitlines() == [
        f"{one['file']}:{one['line']}: {one['text']}" for one in found]


@pytest.mark.parametrize("old, new, pattern", [
    ("size = 1M", "size = 1000", "not a multiple of 512"), ("size = 1M\n", "", "size is missing"),
    ("backend = file", "backend = tape", "not one of file"), ("host = node-a\n", "", "host is missing"),
    ("size = 1M", "size = 2M", "has 1048576 bytes, fewer than size says"),
    ("host = node-a", "host = node-a\nread_only = maybe", "neither yes nor no"),
    ("[file]", "[ports]\nnbd = 70000\n[file]", "not between 0 and 65535"),
])
def test_check_names_faults_of_a_volume_file(node, old, new, pattern):
    node.create(200, "1M")
    path = node.volume_dir / "vm-200-disk-0.conf"
    edit(path, old, new)
    found = faults(node)
    assert len(found) == 1 and found[0]["file"] == str(path) and re.search(pattern, found[0]["text"]), found


def test_check_finds_a_missing_image_and_one_that_is_none(node):
    node.create(200, "1M")
    node.image().unlink()
    assert "No such file" in faults(node)[0]["text"]
    node.image().mkdir()
    assert "not a regular file" in faults(node)[0]["text"]


@pytest.mark.parametrize("what, lines, entry", [
    ("image", None, "image = "), ("NBD port 20000", "[ports]\nnbd = 20000\ndevice = 500\n", "nbd = 20000"),
    ("/dev/nbd100", "[ports]\nnbd = 20500\ndevice = 100\n", "device = 100"),
])
def test_check_finds_what_two_volumes_have_in_common(node, what, lines, entry):
    node.create(300, "1M")
    node.create(301, "1M")
    path = node.volume_dir / "vm-301-disk-0.conf"
    if lines:
        text = re.sub(r"\[ports\]\n(?:\w+ = \d+\n)+", lines, path.read_text())
        path.write_text(text)
    else:
        edit(path, "vm-301-disk-0.raw", "vm-300-disk-0.raw")
    found = faults(node)
    assert len(found) == 1 and found[0]["file"] == str(path)
    assert what in found[0]["text"] and "is also that of vm-300-disk-0" in found[0]["text"]
    assert path.read_text().splitlines()[found[0]["line"] - 1].startswith(entry)


def test_check_finds_a_damaged_record_and_names_its_path(node):
    node.create(200, "1M")
    node.start().stop()
    record = node.claim_dir / "vm-200-disk-0.json"
    record.write_bytes(record.read_bytes()[:-5])
    found = faults(node)
    assert len(found) == 1 and str(record) in found[0]["text"] and "cut short or damaged" in found[0]["text"]


def test_check_finds_a_run_dir_that_is_too_long_for_sockets(node):
    node.run_dir.rmdir()
    node.run_dir = node.directory / ("x" * 90)
    node.write_config()
    found = faults(node)
    assert len(found) == 1 and "too long for the sockets in it" in found[0]["text"] and found[0]["line"] == 2


def test_check_finds_a_volume_file_whose_name_is_none(node):
    node.create(200, "1M")
    (node.volume_dir / "vm-200-disk-0.conf").rename(node.volume_dir / "vm200-disk-0.conf")
    found = faults(node)
    assert len(found) == 1 and "vm200-disk-0.conf" in found[0]["file"] + found[0]["text"]


def test_check_starts_and_changes_nothing(node):
    node.create(200, "1M")
    before = sorted(os.listdir(node.run_dir)), sorted(os.listdir(node.volume_dir)), node.claim_dir.exists()
    node.tb4("check")
    assert (sorted(os.listdir(node.run_dir)), sorted(os.listdir(node.volume_dir)), node.claim_dir.exists()) == before


def test_what_check_finds_keeps_the_gateway_from_starting(node):
    node.create(200, "1M")
    node.write_config("[nbd]\nlisten = 10.0.0.1\n")
    assert faults(node)
    status, log = node.run_to_end(200)
    assert status == 78 and "beyond loopback NBD needs TLS" in log and log.count("\n") == 1


def test_configuration_faults_end_the_gateway_with_all_of_them(node):
    node.create(200, "1M")
    node.write_config("[nbd]\nmemory = lots\nlist = maybe\n")
    status, log = node.run_to_end(200)
    assert status == 78 and log.count("\n") == 2
    assert re.search(r"node-a.conf:\d+: memory = lots", log) and re.search(r"node-a.conf:\d+: list = maybe", log)


def test_a_monitor_does_not_see_a_moment_without_a_state(node):
    """From the first answer on the state is one of those that are documented."""
    node.create(200, "1M")
    gateway = node.spawn()
    seen = set()
    deadline = time.monotonic() + 20
    while "serving" not in seen:
        seen.add(gateway.status()["state"])
        assert time.monotonic() < deadline
    assert seen <= {"stopped", "starting", "serving"}
    refused(node.tb4("status", "2", check=False), 64, "not the number of a VM")
