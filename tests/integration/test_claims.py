"""Who may write a volume: claims, generations, the role file, fencing, and every way to lose them."""
import fcntl
import glob
import json
import os
import re
import signal
import struct
import subprocess
import threading
import time

import pytest

from support import wire
from support.checksum import json_of, reseal, sealed
from support.node import PROGRAMS, TOOLS, fill
from support.outcome import node_tree, refused, refused_start, without_locks

FAKETIME = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
REQUESTS = [wire.CMD_READ, wire.CMD_WRITE, wire.CMD_FLUSH, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES, wire.CMD_CACHE,
            wire.CMD_BLOCK_STATUS]


def generation(gateway):
    return gateway.volume_status()["generation"]


def record_file(node, name="vm-200-disk-0"):
    return node.claim_dir / f"{name}.json"


def role_file(node, vmid=200):
    return node.run_dir / str(vmid) / "role"


def edit(path, old, new):
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new))


def errors_of_all_requests(client):
    """What each kind of request is answered with."""
    return {client.request(kind, 0, 0 if kind == wire.CMD_FLUSH else 4096,
                           payload=bytes(4096) if kind == wire.CMD_WRITE else b"").error for kind in REQUESTS}


def everything(gateway, name=""):
    """A client that can send every kind of request."""
    return gateway.client().greet().use_structured().use_allocation(name).go(name)


@pytest.fixture
def one_node(node):
    node.create(200, "1M")
    return node


@pytest.fixture
def two_nodes(make_node):
    """node-a, whose volume it is, and node-b, which sees the same directories."""
    one = make_node("node-a")
    one.create(200, "1M")
    return one, make_node("node-b", share_with=one)


# the ordinary way

def test_claim_is_stored_while_the_gateway_runs_and_released_by_an_orderly_stop(one_node):
    gateway = one_node.start()
    record = one_node.record()
    assert record["node"] == "node-a" and record["released"] is False and record["seq"] == 1
    assert record["generation_last"] - record["generation_first"] == 999
    assert abs(record["generation_first"] - time.time()) < 3600
    assert generation(gateway) == record["generation_first"]
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as boot:
        assert record["boot_id"] == boot.read().strip()
    role = json.loads(json_of(role_file(one_node)))
    assert role["volumes"] == [{"volume": "vm-200-disk-0", "claim_id": record["claim_id"],
                                "last_generation": record["generation_first"]}]
    assert gateway.stop() == 0
    assert one_node.record() == {**record, "released": True, "seq": 2}
    assert os.listdir(one_node.run_dir) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_each_stop_signal_stops_in_order(one_node, number):
    gateway = one_node.start()
    gateway.process.send_signal(number)
    assert gateway.process.wait(40) == 0
    assert one_node.record()["released"] is True


def test_each_new_claim_goes_on_above_all_generations(one_node):
    seen = []
    for _ in range(4):
        gateway = one_node.start()
        seen.append(generation(gateway))
        gateway.stop()
        assert one_node.record()["generation_first"] == seen[-1]
    assert all(later >= earlier + 1000 for earlier, later in zip(seen, seen[1:]))


def test_start_after_kill_resumes_the_claim_under_the_next_generation(one_node):
    gateway = one_node.start()
    record, first = one_node.record(), generation(gateway)
    for i in range(1, 4):
        gateway.kill()
        gateway = one_node.start()
        assert generation(gateway) == first + i and one_node.record() == record
        assert "claim resumed" in gateway.log
    assert gateway.stop() == 0
    assert one_node.record()["released"] is True and os.listdir(one_node.run_dir) == []


def test_the_thousandth_start_gets_new_generations_under_the_same_claim(one_node):
    gateway = one_node.start()
    record = one_node.record()
    gateway.kill()
    reseal(role_file(one_node), lambda text: text.replace(f'"last_generation":{record["generation_first"]}',
                                                          f'"last_generation":{record["generation_last"]}'))
    gateway = one_node.start()
    extended = one_node.record()
    assert extended["claim_id"] == record["claim_id"] and extended["seq"] == record["seq"] + 1
    assert extended["generation_first"] > record["generation_last"]
    assert generation(gateway) == extended["generation_first"]


def test_second_gateway_of_a_vm_refuses_in_one_line_that_names_the_first(one_node):
    gateway = one_node.start()
    before = node_tree(one_node)
    line = refused_start(one_node.run_to_end(), 75, "VM 200: in use by tb4-gateway, pid")
    assert f"pid {gateway.pid} on this node: stop that first" in line
    assert node_tree(one_node) == before
    with gateway.connect() as client:
        client.write(0, b"x" * 4096)


def test_gateway_without_volumes_says_how_to_make_one(node):
    refused_start(node.run_to_end(), 66, "VM 200: no volumes in .*: make one with tb4 volume create 200 SIZE")
    assert os.listdir(node.run_dir) == []


# fencing

def test_every_request_to_a_fenced_gateway_gets_eio_and_the_size_stays(one_node):
    gateway = one_node.start()
    with everything(gateway) as client:
        client.write(0, b"x" * 4096)
        one_node.tb4("claim", "force", "200", "--yes")
        gateway.wait_for("fenced")
        assert errors_of_all_requests(client) == {wire.EIO}
        reply = client.request(wire.CMD_READ, 0, 512)
        assert "fenced: node node-a has claimed it" in reply.text
    with everything(gateway) as client:
        assert client.size == 1 << 20
        assert errors_of_all_requests(client) == {wire.EIO}
    assert one_node.image().read_bytes() == b"x" * 4096 + bytes((1 << 20) - 4096)


def test_fence_comes_at_once_without_any_request(one_node):
    gateway = one_node.start()
    one_node.tb4("claim", "force", "200", "--yes")
    gateway.wait_for_log("vm-200-disk-0: fenced: node node-a has claimed it: all I/O of VM 200 is refused")
    shown = gateway.volume_status()
    assert shown["state"] == "fenced" and "fenced: node node-a has claimed it" in shown["reason"]
    assert len([line for line in gateway.log.splitlines() if "fenced" in line]) == 1


def test_fence_takes_all_volumes_of_the_vm(one_node):
    one_node.tb4("volume", "create", "200", "2M", "--disk", "1")
    gateway = one_node.start()
    with everything(gateway, "vm-200-disk-1") as other:
        one_node.tb4("claim", "force", "vm-200-disk-0", "--yes")
        gateway.wait_for("fenced")
        assert errors_of_all_requests(other) == {wire.EIO}
    assert gateway.volume_status("vm-200-disk-1")["state"] == "fenced"
    assert gateway.volume_status("vm-200-disk-1")["size"] == 2 << 20


def test_other_vms_are_not_fenced(one_node):
    one_node.create(201, "1M")
    gateway, other = one_node.start(200), one_node.start(201)
    one_node.tb4("claim", "force", "200", "--yes")
    gateway.wait_for("fenced")
    with other.connect() as client:
        client.write(0, b"x" * 4096)
    assert other.status()["state"] == "serving"


def test_record_that_disappears_fences(one_node):
    gateway = one_node.start()
    record_file(one_node).unlink()
    gateway.wait_for("fenced")
    assert "fenced: its claim record is gone" in gateway.volume_status()["reason"]


def test_record_that_is_damaged_under_a_running_gateway_is_named_and_left_alone(one_node):
    gateway = one_node.start()
    record_file(one_node).write_text("garbage")
    gateway.wait_for_log(f"the claim record {re.escape(str(record_file(one_node)))} is cut short or damaged")
    with gateway.connect() as client:
        client.write(0, b"x" * 4096)
    assert gateway.stop() != 0
    assert "the claim is kept" in gateway.log
    assert record_file(one_node).read_text() == "garbage"


def test_resumed_start_after_the_record_has_moved_on_is_fenced(one_node):
    one_node.start().kill()
    role = role_file(one_node).read_bytes()
    text = record_file(one_node).read_text()
    # what another node's claim would leave
    forced = one_node.directory / "forced.json"
    saved = node_tree(one_node)
    one_node.tb4("claim", "force", "200", "--yes")
    forced.write_bytes(record_file(one_node).read_bytes())
    role_file(one_node).parent.mkdir(exist_ok=True)
    role_file(one_node).write_bytes(role)
    assert text != forced.read_text() and saved
    gateway = one_node.start(state="fenced")
    with everything(gateway) as client:
        assert client.size == 1 << 20
        assert errors_of_all_requests(client) == {wire.EIO}
    assert "generation" not in gateway.volume_status()
    time.sleep(0.2)
    assert gateway.process.poll() is None
    assert record_file(one_node).read_bytes() == forced.read_bytes()
    assert gateway.stop() == 0


def test_orderly_stop_of_a_fenced_gateway_leaves_the_record_and_forgets_the_role(two_nodes):
    one, other = two_nodes
    gateway = one.start()
    other.tb4("claim", "force", "200", "--yes")
    gateway.wait_for("fenced")
    record = record_file(one).read_bytes()
    assert gateway.stop() == 0
    assert record_file(one).read_bytes() == record
    assert os.listdir(one.run_dir) == []


def test_killed_fenced_gateway_stays_fenced_until_it_is_stopped_in_order(one_node):
    gateway = one_node.start()
    one_node.tb4("claim", "force", "200", "--yes")
    gateway.wait_for("fenced").kill()
    again = one_node.start(state="fenced")
    assert again.stop() == 0
    one_node.start()


def test_fenced_gateway_lets_go_of_the_image(one_node):
    gateway = one_node.start()
    one_node.tb4("claim", "force", "200", "--yes")
    gateway.wait_for("fenced")
    lock_image(one_node).close()


def lock_image(node, kind=fcntl.F_WRLCK):
    """The image, locked as another program would; BlockingIOError if somebody else has it."""
    file = open(node.image(), "r+b")
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqixxxx", kind, os.SEEK_SET, 0, 0, 0))
    except OSError:
        file.close()
        raise
    return file


def test_write_in_the_backends_hands_ends_before_the_image_is_let_go(one_node, tmp_path):
    rules = tmp_path / "rules"
    rules.write_text("write hang\n")
    gateway = one_node.start(program=TOOLS / "faulty-gateway", env={"TB4_FAULTS": str(rules)})
    with gateway.connect() as client:
        client.send_request(wire.CMD_WRITE, 0, 4096, payload=b"w" * 4096)
        while gateway.volume_status()["in_flight"] == 0:
            time.sleep(0.01)
        one_node.tb4("claim", "force", "200", "--yes")
        gateway.wait_for("fenced")
        with pytest.raises(BlockingIOError):
            lock_image(one_node)
        rules.write_text("")
        client.read_reply()
        deadline = time.monotonic() + 20
        while True:
            try:
                lock_image(one_node).close()
                break
            except BlockingIOError:
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_fence_under_load_ends_every_request_with_an_answer(one_node):
    gateway = one_node.start()
    errors = []

    def load():
        with gateway.connect() as client:
            while wire.EIO not in errors[-5:]:
                for _ in range(16):
                    client.send_request(wire.CMD_WRITE, 0, 4096, payload=bytes(4096))
                errors.extend(client.read_reply()[1].error for _ in range(16))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    one_node.tb4("claim", "force", "200", "--yes")
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert set(errors) == {0, wire.EIO}
    assert gateway.stop() == 0


# other hosts

def test_volume_of_another_host_is_refused(two_nodes):
    one, other = two_nodes
    before = without_locks(node_tree(one))
    line = refused_start(other.run_to_end(), 77, "vm-200-disk-0: belongs to host node-a, this is node-b")
    assert "move it here with tb4 claim force vm-200-disk-0" in line
    assert without_locks(node_tree(one)) == before and os.listdir(other.run_dir) == []
    one.start()
    # on one machine the image's lock comes first, after 5 s; what counts is that it is refused
    assert other.run_to_end()[0] in (75, 77)


def test_claim_force_moves_a_volume_and_fences_the_owner_under_load(two_nodes):
    one, other = two_nodes
    gateway = one.start()
    with gateway.connect() as client:
        client.write(0, b"a" * 4096)
        client.flush()
        first = generation(gateway)
        assert other.tb4("claim", "force", "200", "--yes") == "took vm-200-disk-0\n"
        new = other.start()
        assert client.request(wire.CMD_WRITE, 0, 4096, payload=b"b" * 4096).error == wire.EIO
    with new.connect() as client:
        assert client.read(0, 4096) == b"a" * 4096
    assert generation(new) > first + 999
    assert other.record()["node"] == "node-b"
    assert "fenced: node node-b has claimed it" in gateway.volume_status()["reason"]
    assert gateway.stop() == 0
    # on one machine the image's lock comes first; what counts is that it is refused
    assert one.run_to_end()[0] in (75, 77)
    assert new.status()["state"] == "serving"


def test_claim_release_of_another_nodes_claim_is_refused(two_nodes):
    one, other = two_nodes
    one.start().kill()
    record = record_file(one).read_bytes()
    refused(other.tb4("claim", "release", "200", check=False), 75,
            "vm-200-disk-0: claimed by node node-a: release it there, or take it with tb4 claim force")
    assert record_file(one).read_bytes() == record
    one.tb4("claim", "release", "200")


def test_claim_release_while_the_gateway_runs_is_refused(one_node):
    gateway = one_node.start()
    line = refused(one_node.tb4("claim", "release", "200", check=False), 75, "in use by tb4-gateway")
    assert str(gateway.pid) in line and one_node.record()["released"] is False


def test_claim_release_after_kill_makes_the_next_start_a_fresh_one(one_node):
    gateway = one_node.start()
    used = generation(gateway)
    gateway.kill()
    assert one_node.tb4("claim", "release", "200") == "released vm-200-disk-0\n"
    assert one_node.record()["released"] is True and not role_file(one_node).exists()
    again = one_node.start()
    assert generation(again) > used + 999 and ": claimed, generation" in again.log


@pytest.mark.parametrize("prepare", ["never claimed", "released already", "record gone"])
def test_claim_release_without_a_claim_is_no_error_and_the_next_start_serves(one_node, prepare):
    if prepare == "released already":
        one_node.start().stop()
    if prepare == "record gone":
        one_node.start().kill()
        record_file(one_node).unlink()
    one_node.tb4("claim", "release", "200")
    one_node.start()


def test_claim_force_after_kill_lets_the_next_start_claim_as_usual(one_node):
    """Also where a dead gateway of this node has left its role file: force is what the operator is told to use."""
    gateway = one_node.start()
    used = generation(gateway)
    gateway.kill()
    one_node.tb4("claim", "force", "200", "--yes")
    assert generation(one_node.start()) > used


def test_what_the_error_about_a_damaged_record_tells_to_do_works(one_node):
    one_node.start().kill()
    record_file(one_node).write_text("garbage")
    refused_start(one_node.run_to_end(), 65, "move the file away, then run tb4 claim force vm-200-disk-0")
    record_file(one_node).rename(one_node.directory / "away")
    one_node.tb4("claim", "force", "vm-200-disk-0", "--yes")
    one_node.start()


def test_claim_show_lists_records(one_node):
    one_node.create(201, "1M")
    one_node.start()
    shown = one_node.tb4("claim", "show")
    assert re.search(r"^vm-200-disk-0 +node-a +owned, generations \d+-\d+, seq 1, claim [0-9a-f-]{36}$", shown, re.M)
    assert re.search(r"^vm-201-disk-0 +- +never claimed$", shown, re.M)
    claims = one_node.tb4_json("claim", "show")["claims"]
    assert [set(claim) for claim in claims] == [
        {"volume", "claim_id", "seq", "node", "boot_id", "generation_first", "generation_last", "released"}]


def test_failed_claim_force_leaves_the_volume_where_it_is(two_nodes):
    one, other = two_nodes
    one.start().stop()
    record_file(one).write_text("garbage")
    before = without_locks(node_tree(one))
    refused(other.tb4("claim", "force", "200", "--yes", check=False), 65, "is cut short or damaged")
    assert without_locks(node_tree(one)) == before


# damage

def test_record_cut_short_at_any_length_is_refused_and_never_overwritten(one_node):
    one_node.start().stop()
    whole = record_file(one_node).read_bytes()
    for length in range(len(whole)):
        record_file(one_node).write_bytes(whole[:length])
        result = one_node.tb4("claim", "show", "200", "--json", check=False)
        assert result.returncode == 65 and json.loads(result.stdout) == {"claims": []}
        assert result.stderr.startswith(f"tb4: vm-200-disk-0: the claim record {record_file(one_node)} is cut short")
        if length % 29 == 0:
            refused_start(one_node.run_to_end(), 65, f"the claim record {re.escape(str(record_file(one_node)))} is")
            for command in (("claim", "force", "200", "--yes"), ("claim", "release", "200"),
                            ("volume", "delete", "200", "--yes"), ("volume", "resize", "200", "2M")):
                refused(one_node.tb4(*command, check=False), 65, "the claim record .* is cut short or damaged")
        assert record_file(one_node).read_bytes() == whole[:length]
    assert one_node.image().exists() and os.listdir(one_node.run_dir) == []


def test_record_with_any_byte_changed_is_refused(one_node):
    one_node.start().stop()
    whole = record_file(one_node).read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 0x20 if at % 2 else 0x01
        record_file(one_node).write_bytes(changed)
        result = one_node.tb4("claim", "show", "200", check=False)
        assert result.returncode == 65 and str(record_file(one_node)) in result.stderr, (at, result)
        assert record_file(one_node).read_bytes() == bytes(changed)


@pytest.mark.parametrize("change, pattern", [
    (lambda text: text.replace('"version":1', '"version":2'), "another version of this program"),
    (lambda text: text.replace('"seq":', '"sek":'), "a field is missing or has a wrong value"),
    (lambda text: re.sub(r'"seq":\d+', '"seq":-1', text), "a field is missing or has a wrong value"),
    (lambda text: re.sub(r'"seq":\d+', '"seq":9223372036854775807', text), "wrong value"),
    (lambda text: re.sub(r'"generation_last":\d+', '"generation_last":1', text), "wrong value"),
    (lambda text: re.sub(r'"generation_last":\d+', '"generation_last":18446744073709551615', text), "wrong value"),
    (lambda text: re.sub(r'"claim_id":"[^"]*"', '"claim_id":""', text), "wrong value"),
    (lambda text: re.sub(r'"claim_id":"[^"]*"', '"claim_id":"%s"' % ("x" * 50), text), "wrong value"),
    (lambda text: re.sub(r'"node":"[^"]*"', '"node":""', text), "wrong value"),
    (lambda text: re.sub(r'"node":"[^"]*"', '"node":5', text), "wrong value"),
    (lambda text: text.replace('"released":true', '"released":1'), "wrong value"),
    (lambda text: "[" + text + "]", "damaged"), (lambda text: "{}", "damaged|wrong value"),
])
def test_record_that_makes_no_sense_is_refused_although_its_checksum_is_right(one_node, change, pattern):
    one_node.start().stop()
    reseal(record_file(one_node), change)
    text = record_file(one_node).read_text()
    line = refused_start(one_node.run_to_end(), 65, pattern)
    assert str(record_file(one_node)) in line
    refused(one_node.tb4("claim", "force", "200", "--yes", check=False), 65, pattern)
    assert record_file(one_node).read_text() == text


@pytest.mark.parametrize("make, pattern", [
    (lambda path, whole: path.write_bytes(b""), "cut short or damaged"),
    (lambda path, whole: path.write_bytes(b"\0" * len(whole)), "cut short or damaged"),
    (lambda path, whole: path.write_bytes(whole + b"\n"), "cut short or damaged"),
    (lambda path, whole: path.write_bytes(whole + whole), "cut short or damaged"),
    (lambda path, whole: path.write_bytes(b"x" * (65 << 10)), "larger than 65536 bytes"),
    (lambda path, whole: (path.unlink(), path.mkdir()), "not a regular file"),
    (lambda path, whole: (path.unlink(), os.mkfifo(path)), "not a regular file"),
    (lambda path, whole: (path.unlink(), path.symlink_to(path)), "Too many levels of symbolic links"),
], ids=["empty", "zeros", "longer", "twice", "large", "directory", "fifo", "loop"])
def test_what_is_no_record_is_refused_with_its_path(one_node, make, pattern):
    one_node.start().stop()
    make(record_file(one_node), record_file(one_node).read_bytes())
    before = os.lstat(record_file(one_node))
    status, log = one_node.run_to_end()
    assert status in (65, 70, 74) and log.count("\n") == 1
    assert str(record_file(one_node)) in log and pattern in log
    after = os.lstat(record_file(one_node))
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


ROLES = {  # of the JSON, which gets a right checksum
    "empty": lambda text: "", "cut": lambda text: text[:-1], "not json": lambda text: "role",
    "other version": lambda text: text.replace('"version":1', '"version":2'),
    "other role": lambda text: text.replace('"owner"', '"king"'),
    "other vm": lambda text: text.replace("vm-200-", "vm-201-"),
    "no volumes": lambda text: text.replace('"volumes":[', '"volume":['),
    "twice": lambda text: re.sub(r"\[(.*)\]", r"[\1,\1]", text),
    "negative": lambda text: re.sub(r'"last_generation":\d+', '"last_generation":-1', text),
    "not an object": lambda text: re.sub(r"\[.*\]", "[5]", text),
    "null": lambda text: re.sub(r"\[.*\]", "[null]", text),
    "no list": lambda text: re.sub(r"\[.*\]", "{}", text),
    "boot id of a number": lambda text: re.sub(r'"boot_id":"[^"]*"', '"boot_id":5', text),
}


@pytest.mark.parametrize("how", ROLES)
def test_role_file_that_makes_no_sense_is_refused_and_never_overwritten(one_node, how):
    one_node.start().kill()
    check_damaged_role(one_node, sealed(ROLES[how](json_of(role_file(one_node)))))


@pytest.mark.parametrize("how", [lambda text: "", lambda text: "\0" * len(text), lambda text: text + text,
                                 lambda text: text.replace("owner", "Owner"), lambda text: text[1:]],
                         ids=["empty", "zeros", "twice", "changed", "without its beginning"])
def test_damaged_role_file_is_refused_and_never_overwritten(one_node, how):
    one_node.start().kill()
    check_damaged_role(one_node, how(role_file(one_node).read_text()))


def test_role_file_cut_short_at_any_length_is_refused(one_node):
    one_node.start().kill()
    whole = role_file(one_node).read_bytes()
    for length in range(0, len(whole), 7):
        role_file(one_node).write_bytes(whole[:length])
        refused(one_node.tb4("claim", "release", "200", check=False), 65, "the role file is damaged")
        assert role_file(one_node).read_bytes() == whole[:length]


def check_damaged_role(node, damaged):
    """It is refused with its path by everybody, and left as it is; without it the next start serves."""
    role_file(node).write_text(damaged)
    record = record_file(node).read_bytes()
    line = refused_start(node.run_to_end(), 65, f"{re.escape(str(role_file(node)))}: the role file is damaged")
    assert "make sure that no other node runs VM 200, then delete it" in line
    refused(node.tb4("claim", "release", "200", check=False), 65, "the role file is damaged")
    refused(node.tb4("volume", "delete", "200", "--yes", check=False), 65, "the role file is damaged")
    assert role_file(node).read_text() == damaged and record_file(node).read_bytes() == record
    role_file(node).unlink()
    node.start()


def test_role_file_of_an_earlier_boot_counts_as_gone(one_node):
    gateway = one_node.start()
    used = generation(gateway)
    gateway.kill()
    reseal(role_file(one_node), lambda text: text.replace(one_node.record()["boot_id"],
                                                          "00000000-0000-0000-0000-000000000000"))
    again = one_node.start()
    assert ": claimed, generation" in again.log and generation(again) > used
    assert one_node.record()["boot_id"] in role_file(one_node).read_text()
    again.stop()
    assert os.listdir(one_node.run_dir) == []


def test_release_that_was_cut_short_before_the_role_file_is_claimed_afresh(one_node):
    gateway = one_node.start()
    used = generation(gateway)
    gateway.kill()
    role = role_file(one_node).read_bytes()
    one_node.tb4("claim", "release", "200")
    role_file(one_node).parent.mkdir(exist_ok=True)
    role_file(one_node).write_bytes(role)
    again = one_node.start()
    assert generation(again) > used + 999 and ": claimed, generation" in again.log


def test_damaged_volume_file_of_one_disk_does_not_stop_the_other(one_node):
    one_node.tb4("volume", "create", "200", "1M", "--disk", "1")
    damaged = one_node.volume_dir / "vm-200-disk-1.conf"
    damaged.write_text("[volume]\nsize = 1M\nnonsense\n")
    before = damaged.read_bytes()
    gateway = one_node.start()
    assert [volume["name"] for volume in gateway.status()["volumes"]] == ["vm-200-disk-0"]
    lines = [line for line in gateway.log.splitlines() if str(damaged) in line]
    assert lines and all(line.endswith("this volume is not served") for line in lines)
    assert f"{damaged}:3: neither [section] nor name = value" in gateway.log
    assert f"{damaged}:0:" not in gateway.log
    assert gateway.stop() == 0 and damaged.read_bytes() == before


def test_only_volume_file_damaged_is_refused_with_its_place(one_node):
    damaged = one_node.volume_dir / "vm-200-disk-0.conf"
    damaged.write_text(damaged.read_text().replace("size = 1M", "size = some"))
    before = damaged.read_bytes()
    status, log = one_node.run_to_end()
    assert status in (65, 78) and re.search(rf"{re.escape(str(damaged))}:\d+: size = some: not a size", log)
    assert len(set(line.split(": this volume")[0] for line in log.splitlines())) == 1
    assert damaged.read_bytes() == before


def test_image_locked_by_another_program_is_named(one_node):
    with lock_image(one_node):
        line = refused_start(one_node.run_to_end(), 75, "vm-200-disk-0: another program has .* locked")
    assert str(one_node.image()) in line and "lslocks" in line
    assert one_node.record() is None
    one_node.start()


def test_image_that_is_let_go_soon_is_waited_for(one_node):
    with lock_image(one_node):
        gateway = one_node.spawn()
        time.sleep(0.3)
        assert gateway.status()["state"] == "starting"
    gateway.wait_for("serving")


def test_locked_image_of_one_disk_does_not_hold_up_the_other(one_node):
    one_node.tb4("volume", "create", "200", "1M", "--disk", "1")
    with lock_image(one_node):
        gateway = one_node.spawn()
        with gateway_when_it_listens(gateway).connect("vm-200-disk-1") as client:
            client.write(0, b"x" * 4096)
            assert gateway.volume_status("vm-200-disk-0")["state"] == "starting"
        gateway.wait_for("serving")
    assert gateway.volume_status("vm-200-disk-0")["state"] == "failed"
    assert gateway.stop() == 0


def gateway_when_it_listens(gateway):
    deadline = time.monotonic() + 20
    while not os.path.exists(gateway.socket):
        assert time.monotonic() < deadline and gateway.process.poll() is None
        time.sleep(0.005)
    time.sleep(0.01)
    return gateway


@pytest.mark.parametrize("make, status, pattern", [
    (lambda path: path.unlink(), 66, "No such file or directory"),
    (lambda path: (path.unlink(), path.mkdir()), 66, "Is a directory|not a regular file"),
    (lambda path: (path.unlink(), os.mkfifo(path)), 65, "not a regular file"),
    (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), 65, "not a regular file"),
    (lambda path: os.truncate(path, (1 << 20) - 512), 65,
     "has 1048064 bytes, fewer than the 1048576 of the volume: restore it, or correct size in"),
    (lambda path: os.truncate(path, 0), 65, "has 0 bytes, fewer than the 1048576"),
], ids=["missing", "directory", "fifo", "device", "shorter", "empty"])
def test_what_is_no_image_is_refused_before_anything_is_claimed(one_node, make, status, pattern):
    make(one_node.image())
    line = refused_start(one_node.run_to_end(), status, f"vm-200-disk-0: .*({pattern})")
    assert str(one_node.image()) in line
    assert one_node.record() is None and os.listdir(one_node.run_dir) == []


def test_larger_image_shows_only_the_size_of_the_volume(one_node):
    os.truncate(one_node.image(), 3 << 20)
    with one_node.start().connect() as client:
        assert client.size == 1 << 20


def test_read_only_volume_serves_reads_and_refuses_writes(one_node):
    edit(one_node.volume_dir / "vm-200-disk-0.conf", "host = node-a\n", "host = node-a\nread_only = yes\n")
    gateway = one_node.start()
    with gateway.connect() as client:
        assert client.flags & wire.FLAG_READ_ONLY and not client.flags & wire.FLAG_SEND_TRIM
        assert client.read(0, 4096) == bytes(4096)
        for kind in (wire.CMD_WRITE, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES):
            reply = client.request(kind, 0, 4096, payload=bytes(4096) if kind == wire.CMD_WRITE else b"")
            assert reply.error == wire.EPERM
        client.flush()
    assert gateway.volume_status()["read_only"] is True
    refused(one_node.tb4("volume", "resize", "200", "2M", check=False), 77, "read.only")
    assert gateway.stop() == 0


# directories

@pytest.mark.parametrize("before", ["never claimed", "released", "dead owner"])
def test_full_claim_dir_is_one_clear_line_and_loses_nothing(one_node, small_disk, before):
    one_node.claim_dir = small_disk
    one_node.write_config()
    used = 0
    if before != "never claimed":
        gateway = one_node.start()
        used = generation(gateway)
        gateway.stop() if before == "released" else gateway.kill()
    record = one_node.record()
    filler = fill(small_disk)
    if before == "dead owner":  # nothing has to be stored
        gateway = one_node.start()
        assert generation(gateway) == used + 1
        gateway.stop()
        assert "cannot write: No space left on device: the claim is kept" in gateway.log
        assert gateway.process.returncode == 74
    else:
        refused_start(one_node.run_to_end(), 73, r"vm-200-disk-0.json: cannot write: No space left on device")
    assert one_node.record() == record
    filler.unlink()
    assert generation(one_node.start()) > used


def test_full_run_dir_is_one_clear_line_and_the_next_start_serves(one_node, small_disk):
    one_node.run_dir.rmdir()
    one_node.run_dir = small_disk / "run"
    one_node.write_config()
    one_node.run_dir.mkdir()
    filler = fill(small_disk)
    refused_start(one_node.run_to_end(), 73, r"200/role: cannot write: No space left on device")
    used = (one_node.record() or {"generation_last": 0})["generation_last"]
    filler.unlink()
    gateway = one_node.start()
    assert generation(gateway) > used or used == 0
    assert gateway.stop() == 0
    assert os.listdir(one_node.run_dir) == []


def test_failed_claim_of_a_command_leaves_no_claim_behind(one_node, small_disk):
    """What could not be begun must not have to be released by hand."""
    one_node.run_dir.rmdir()
    one_node.run_dir = small_disk / "run"
    one_node.write_config()
    filler = fill(small_disk)
    refused(one_node.tb4("volume", "resize", "200", "2M", check=False), 73, "No space left on device")
    filler.unlink()
    one_node.tb4("volume", "resize", "200", "2M")


@pytest.mark.parametrize("which", ["run_dir", "volume_dir", "claim_dir"])
@pytest.mark.parametrize("what", ["file", "dangling link", "loop"])
def test_directory_that_is_none_is_named_and_nothing_hangs(one_node, which, what):
    path = one_node.directory / "no-directory"
    if what == "file":
        path.write_text("")
    else:
        path.symlink_to(path if what == "loop" else "/nonexistent/place")
    setattr(one_node, which, path)
    one_node.write_config()
    gateway = one_node.spawn()
    try:
        status = gateway.process.wait(15)
    except subprocess.TimeoutExpired:
        gateway.process.kill()
        gateway.process.wait()
        raise AssertionError("it neither starts nor ends") from None
    assert status not in (0, 1) and status > 0 and gateway.log.count("\n") == 1, gateway.log
    assert str(path) in gateway.log


def test_run_dir_that_is_too_long_for_sockets_is_one_clear_line(one_node):
    one_node.run_dir = one_node.directory / ("x" * 90)
    one_node.write_config()
    status, log = one_node.run_to_end()
    assert status not in (0, 1, 70) and log.count("\n") == 1
    assert "too long for a socket: shorten run_dir" in log
    assert list(one_node.run_dir.iterdir()) == []


def test_what_lies_in_run_dir_after_kill_is_replaced(one_node):
    gateway = one_node.start()
    gateway.kill()
    assert sorted(os.listdir(gateway.directory)) == ["control.sock", "lock", "nbd.sock", "role"]
    (gateway.directory / "role.new").write_text("half a role")
    (one_node.claim_dir / "vm-200-disk-0.json.new").write_text("half a record")
    again = one_node.start()
    with again.connect() as client:
        client.write(0, b"x" * 4096)
    assert again.stop() == 0
    assert os.listdir(one_node.run_dir) == []
    assert sorted(os.listdir(one_node.claim_dir)) == [".lock", "vm-200-disk-0.json"]


# clocks

needs_faketime = pytest.mark.skipif(not FAKETIME, reason="not installed: faketime")


def at(when):
    """Environment of a program whose clock shows another time."""
    return {"LD_PRELOAD": FAKETIME[0], "FAKETIME": when, "DONT_FAKE_MONOTONIC": "1"} if FAKETIME else {}


@pytest.mark.plain
@needs_faketime
@pytest.mark.parametrize("when, least, most", [
    ("@1970-01-01 00:00:00", 1, 100000), ("@2100-01-01 00:00:00", 4102000000, 4103000000),
    ("@2038-01-19 03:14:08", 2147000000, 2148000000),
])
def test_any_clock_gives_a_generation(one_node, when, least, most):
    gateway = one_node.start(env=at(when))
    assert least <= generation(gateway) <= most
    assert gateway.stop() == 0


@pytest.mark.plain
@needs_faketime
@pytest.mark.parametrize("clocks", [
    ["@2100-01-01 00:00:00", "@1970-01-01 00:00:00", "@2024-01-01 00:00:00"],
    ["@1970-01-01 00:00:00", "@1970-01-01 00:00:00", "@2024-01-01 00:00:00"],
    ["@2024-01-02 00:00:00", "@2024-01-01 23:00:00", "@2024-01-01 23:00:01"],
], ids=["2100 and back", "without a clock", "an hour back"])
@pytest.mark.parametrize("end", ["stop", "kill", "force"])
def test_generations_rise_whatever_the_clock_does(one_node, clocks, end):
    used = []
    for when in clocks:
        gateway = one_node.start(env=at(when))
        used.append(generation(gateway))
        if end == "force":
            one_node.tb4("claim", "force", "200", "--yes", env=at(when))
            gateway.wait_for("fenced")
        gateway.kill() if end == "kill" else gateway.stop()
        for left in glob.glob(f"/dev/shm/*faketime_*_{gateway.pid}"):  # libfaketime's own, after kill -9
            os.unlink(left)
    assert used == sorted(set(used))
    assert one_node.record()["generation_last"] < 1 << 62


@pytest.mark.plain
@needs_faketime
def test_clock_that_jumps_while_the_gateway_runs_is_harmless(one_node):
    env = {**at("@2100-01-01 00:00:00"), "FAKETIME": "-50y x5000"}
    gateway = one_node.start(env=env)
    with gateway.connect() as client:
        for i in range(20):
            client.write(i * 4096, b"x" * 4096)
            time.sleep(0.01)
    used = generation(gateway)
    assert gateway.stop() == 0
    assert generation(one_node.start()) > used


# two at once

def test_crash_between_two_crashes_does_not_fence_oneself(one_node):
    """Killed after the record was released but before the role file went; then killed again after the new
    record was stored but before the role file. Nobody else was ever there."""
    gateway = one_node.start()
    gateway.kill()
    role = role_file(one_node).read_bytes()
    one_node.tb4("claim", "release", "200")
    role_file(one_node).parent.mkdir(exist_ok=True)
    role_file(one_node).write_bytes(role)  # as after a kill in the middle of the release
    killed = one_node.spawn(wrap=["strace", "-f", "-qq", "-o", "/dev/null", "-P", f"{role_file(one_node)}.new",
                                  "-e", "trace=openat", "-e", "inject=openat:signal=KILL:when=1"],
                            env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert killed.process.wait(30) != 0
    one_node.start()


@pytest.mark.parametrize("count, kinds", [(36, ["same", "resume"]), (4, ["nodes", "force"])],
                         ids=["one node", "two nodes"])
def test_races_of_two_starts_have_one_winner_each(count, kinds):
    script = os.path.join(os.path.dirname(__file__), "claim-races.py")
    result = subprocess.run(["/usr/bin/python3", script, str(count), *kinds], capture_output=True, text=True,
                            timeout=110, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(rf"^{count} races: .* 0 wrong", result.stdout), result.stdout


def test_claim_force_from_both_nodes_at_once_leaves_one_owner(two_nodes):
    command = [[str(PROGRAMS / "tb4"), "--config", str(node.config), "claim", "force", "200", "--yes"]
               for node in two_nodes]
    for _ in range(10):
        processes = [subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                     for line in command]
        for process in processes:
            error = process.communicate(timeout=60)[1]
            assert process.returncode == 0 or (process.returncode == 75 and error.count("\n") == 1), error
    host = two_nodes[0].tb4_json("volume", "info", "200")["host"]
    owner = next(node for node in two_nodes if node.name == host)
    owner.start()
    other = next(node for node in two_nodes if node.name != host)
    assert other.run_to_end()[0] in (75, 77)
