"""Crucible volumes on sleds: made, moved, deleted. The sleds are this machine, at addresses of loopback, by `sh -c`."""
import json
import os
import random
import re
import shlex
import signal
import socket
import stat
import subprocess
import time

import pytest

from support.downstairs import OWN, UPSTREAM, REPAIR_PORT_OFFSET
from support.node import PROGRAMS, ROOT, run, wait_until
from support.ports import is_free, take_port
from support.volume import MIB, both
from test_crucible_volumes import end, load, slots

NAME = "vm-200-disk-0"
SIZE = 128 * MIB


class Sleds:
    """Directories and addresses of sleds, what runs on them, and their part of tb4.conf."""

    def __init__(self, directory, program):
        self.directory, self.program = directory, program
        self.names = [f"s{i}" for i in range(1, 5)]
        # a host of 127/8 of its own for each, and not those of another test
        self.net = take_port(range(1, 250), lambda _: True)
        self.more = {}  # name -> further lines

    def path(self, name):
        return self.directory / name

    def address(self, name):
        return f"127.{self.net}.0.{name[1:]}"

    def settings(self, away=None):
        """The command of the sled that is away fails."""
        return "".join(f"[sled {name}]\naddress = {self.address(name)}\ncommand = {'false' if name == away else 'sh -c'}\n"
                       f"directory = {self.path(name)}\nprogram = {self.program}\n{self.more.get(name, '')}\n"
                       for name in self.names)

    def regions(self):
        """{(sled, port)} as they lie in the directories."""
        return {(name, int(path.parent.name)) for name in self.names for path in self.path(name).glob("*/region.json")}

    def files(self):
        return sorted(str(path.relative_to(self.directory)) for name in self.names for path in self.path(name).glob("*")
                      if path.name != ".lock")

    def pids(self):
        """Of the downstairs that run in these directories."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                    is_zombie = file.read().rsplit(")", 1)[1].split()[0] == "Z"
            except OSError:
                continue
            if b"run" in words and not is_zombie and any(word.startswith(os.fsencode(self.directory) + b"/") for word in words):
                found.append(int(pid))
        return found

    def close(self):
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def make_sleds(tmp_path):
    made = []

    def make(kind="own"):
        directory = tmp_path / f"sleds-{len(made)}"
        directory.mkdir()
        made.append(Sleds(directory, OWN if kind == "own" else UPSTREAM))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def sleds(make_sleds, request):
    return make_sleds(request.node.callspec.params.get("kind", "own") if hasattr(request.node, "callspec") else "own")


@pytest.fixture
def node(make_node, sleds):
    return make_node(settings=sleds.settings())


def create(node, *arguments, size=SIZE, vmid=200, **options):
    return node.tb4("volume", "create", vmid, size, "--backend", "crucible", *arguments, **options)


def places(node, name=NAME):
    return node.tb4_json("volume", "info", name)["targets"]


def name_of(sleds, target):
    return next(name for name in sleds.names if target.startswith(sleds.address(name) + ":"))


def assert_nothing_is_left(node, sleds):
    assert sleds.files() == [] and sleds.pids() == []
    assert not list(node.volume_dir.glob("*.conf")) and not list(node.claim_dir.glob("*.key"))


# making and deleting

@both
def test_create_serve_and_delete(node, sleds, kind, tmp_path):
    """Nothing else to set up: create, start, copy in, copy out; delete leaves nothing."""
    assert kind
    assert re.match(f"created {NAME}: 128M, crucible backend, ", create(node))
    targets = places(node)
    assert [int(target.split(":")[1]) for target in targets] == [3900, 3901, 3902]
    assert len({target.split(":")[0] for target in targets}) == 3
    assert len(sleds.regions()) == 3 and len(sleds.pids()) == 3
    assert node.tb4_json("volume", "info", NAME)["sleds"] == [name_of(sleds, target) for target in targets]
    assert re.search(r"^sleds +s\d, s\d, s\d$", node.tb4("volume", "info", NAME), re.M)
    image = tmp_path / "image"
    image.write_bytes(random.Random(1).randbytes(20 * MIB) + bytes(SIZE - 20 * MIB))
    gateway = node.start()
    run("nbdcopy", image, gateway.uri())
    run("nbdcopy", gateway.uri(), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == image.read_bytes()
    refused = node.tb4("volume", "delete", NAME, "--yes", check=False)
    assert refused.returncode == 75 and len(sleds.regions()) == 3
    assert gateway.stop() == 0
    node.tb4("volume", "delete", NAME, "--yes")
    assert_nothing_is_left(node, sleds)


def test_regions_have_the_shape_that_is_documented(node, sleds):
    create(node, size="65M")
    for name, port in sleds.regions():
        region = json.loads((sleds.path(name) / str(port) / "region.json").read_text())
        assert (region["block_size"], region["extent_size"]["value"], region["extent_count"]) == (4096, 16384, 2)
        assert region["encrypted"] is False
        mark = (sleds.path(name) / f"{port}.volume").read_text()
        assert mark == f"volume={NAME}\nnode=node-a\nuuid={region['uuid']}\nstate=ready\n"


def test_encrypted_volume_has_a_key_of_its_own(node, sleds, tmp_path):
    create(node, "--encrypt")
    create(node, "--encrypt", vmid=201)
    keys = [node.claim_dir / f"vm-{vmid}-disk-0.key" for vmid in (200, 201)]
    assert keys[0].read_bytes() != keys[1].read_bytes()
    for key in keys:
        assert len(key.read_bytes()) == 32 and stat.S_IMODE(key.stat().st_mode) == 0o600
    image = tmp_path / "image"
    image.write_bytes(b"plain text" * 400 + bytes(SIZE - 4000))
    gateway = node.start()
    run("nbdcopy", image, gateway.uri())
    run("nbdcopy", gateway.uri(), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == image.read_bytes()
    assert gateway.stop() == 0
    for name, port in sleds.regions():
        for path in (sleds.path(name) / str(port)).glob("*/*/*"):
            assert b"plain text" not in path.read_bytes()
    for vmid in (200, 201):
        node.tb4("volume", "delete", vmid, "--yes")
    assert_nothing_is_left(node, sleds)


def test_key_that_is_given_is_used_and_stays(node, sleds, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    create(node, "--key-file", key)
    assert node.start().stop() == 0
    node.tb4("volume", "delete", NAME, "--yes")
    assert key.exists()
    assert_nothing_is_left(node, sleds)


def test_emptiest_sleds_are_taken_and_a_full_one_is_not(node, sleds):
    sleds.more = {"s1": "capacity = 1G", "s2": "capacity = 4G", "s3": "capacity = 3G", "s4": "capacity = 2G"}
    node.write_config(sleds.settings())
    create(node)
    assert [target.split(":")[0] for target in places(node)] == [sleds.address(name) for name in ("s2", "s3", "s4")]
    result = create(node, size="1984M", vmid=201, check=False)
    assert result.returncode == 73
    assert re.search(r"needs 3 sleds, has 2 with room; sled s1: full: has room for 1 GiB, needs 1.9 GiB; sled s4: full",
                     result.stderr), result.stderr
    assert len(sleds.regions()) == 3


def test_too_few_sleds(node, sleds):
    sleds.names = ["s1", "s2"]
    node.write_config(sleds.settings())
    result = create(node, check=False)
    assert result.returncode == 73 and "needs 3 sleds, has 2 with room: see --allow-single-sled" in result.stderr
    result = create(node, "--allow-single-sled", check=False)
    assert result.returncode == 0 and "a single point of failure" in result.stderr
    assert len(sleds.regions()) == 3
    assert node.start().stop() == 0
    node.tb4("volume", "delete", NAME, "--yes")
    assert_nothing_is_left(node, sleds)


def test_dry_run_makes_nothing(node, sleds):
    assert create(node, "--encrypt", "--dry-run").startswith(f"would create {NAME}: 128M, crucible backend, 127.")
    assert_nothing_is_left(node, sleds)


def test_create_that_is_repeated_changes_nothing(node, sleds):
    create(node)
    before, text = sleds.files(), (node.volume_dir / f"{NAME}.conf").read_text()
    assert create(node).startswith(f"is there already: {NAME}: 128M, crucible backend, 127.")
    for words, size in (([], "192M"), (["--encrypt"], SIZE), (["--key-file", "/k"], SIZE)):
        result = create(node, *words, size=size, check=False)
        assert result.returncode == 73 and "exists already" in result.stderr, result
    assert (sleds.files(), (node.volume_dir / f"{NAME}.conf").read_text()) == (before, text)


def test_size_must_fit_the_blocks(node, sleds):
    result = create(node, size=4096 * 3 + 512, check=False)
    assert result.returncode == 64 and "multiple of 4096" in result.stderr
    assert_nothing_is_left(node, sleds)


# failures, one at each step

def wrapper(sleds, tmp_path, text):
    """A program that does `text` first; $REAL is the downstairs. Of one sled only."""
    path = tmp_path / "downstairs"
    path.write_text(f"#!/bin/sh\nREAL={shlex.quote(str(sleds.program))}\n{text}\nexec \"$REAL\" \"$@\"\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("text, pattern, status", [
    ('[ "$1" != create ] || { echo no luck today >&2; exit 1; }', "sled s3: .* create: no luck today", 74),
    ('[ "$1" != run ] || exit 1', r"its downstairs cannot be asked: .* \(sled s3\)", 69),
    ('[ "$1" != create ] || kill -9 $PPID', "sled s3: (Killed|its command was ended by signal 9|its command ended with 137)", 74),
], ids=["create", "start", "killed"])
def test_failure_on_one_sled_is_taken_back_on_all(node, sleds, tmp_path, text, pattern, status):
    sleds.names = ["s1", "s2", "s3"]
    settings = sleds.settings().rsplit("program = ", 1)
    node.write_config(f"{settings[0]}program = {wrapper(sleds, tmp_path, text)}\n")
    result = create(node, "--encrypt", check=False)
    assert result.returncode == status and re.search(pattern, result.stderr), result.stderr
    assert_nothing_is_left(node, sleds)


@pytest.mark.parametrize("line, pattern", [
    ("command = false", "sled s3: its command ended with 1"),
    ("command = /nowhere/ssh root@s3", "sled s3: /nowhere/ssh: no such file"),
    ("command = sh -c exit\\ 255", "has 2 with room; sled s3: "),
    ("program = no-such-downstairs", "sled s3: no-such-downstairs: not installed"),
], ids=["fails", "absent", "ssh", "program"])
def test_sled_that_cannot_be_asked_is_named(node, sleds, line, pattern):
    sleds.names = ["s1", "s2", "s3"]
    name = line.split()[0]
    settings = sleds.settings().rsplit(f"{name} = ", 1)
    rest = settings[1].split("\n", 1)[1]
    node.write_config(f"{settings[0]}{line}\n{rest}")
    result = create(node, check=False)
    assert result.returncode == 73 and re.search(pattern, result.stderr), result.stderr
    assert_nothing_is_left(node, sleds)


def test_taken_port_is_named_with_its_holder(node, sleds):
    with socket.socket() as holder:
        holder.bind((sleds.address("s2"), 3901 + REPAIR_PORT_OFFSET))
        holder.listen()
        sleds.names = ["s1", "s2", "s3"]
        sleds.more = {"s1": "capacity = 3G", "s2": "capacity = 2G", "s3": "capacity = 1G"}  # in this order
        node.write_config(sleds.settings())
        result = create(node, check=False)
        assert result.returncode == 73
        assert re.search(rf"sled s2: port 7901 is taken: 127.*:7901 .*pid={os.getpid()}", result.stderr), result.stderr
    assert_nothing_is_left(node, sleds)


def test_volume_file_that_cannot_be_written(node, sleds):
    node.volume_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "tmpfs", node.volume_dir], check=True)
    try:
        result = create(node, "--encrypt", check=False)
        assert result.returncode in (73, 74), result.stderr
        assert_nothing_is_left(node, sleds)
    finally:
        subprocess.run(["umount", "-l", node.volume_dir], check=True)


def test_limit_on_open_files(node, sleds):
    result = node.tb4("volume", "create", 200, "30G", "--backend", "crucible", wrap=["prlimit", "--nofile=1000:1000"], check=False)
    assert result.returncode == 73 and "1000 are allowed" in result.stderr, result.stderr
    assert_nothing_is_left(node, sleds)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_interrupt_takes_everything_back(node, sleds, tmp_path, number):
    sleds.program = wrapper(sleds, tmp_path, f'[ "$1" != create ] || {{ touch {tmp_path}/creating; sleep 60; }}')
    node.write_config(sleds.settings())
    process = subprocess.Popen([PROGRAMS / "tb4", "--config", node.config, "volume", "create", "200", "128M", "--backend",
                                "crucible"], stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "creating").exists, "a region is being made")
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in err
    assert_nothing_is_left(node, sleds)


def test_create_that_was_killed_is_repeated(node, sleds, tmp_path):
    """kill -9 at any moment: the same command finds what was left, and makes the volume."""
    for delay in (0.02, 0.05, 0.08, 0.12):
        process = subprocess.Popen([PROGRAMS / "tb4", "--config", node.config, "volume", "create", "200", "128M",
                                    "--backend", "crucible", "--encrypt"], stdout=subprocess.DEVNULL)
        time.sleep(delay)
        process.kill()
        process.wait()
        time.sleep(0.3)  # what it started on the sleds comes to its end
        result = create(node, "--encrypt", check=False)
        assert result.returncode == 0 or "exists already" in result.stderr, result.stderr
        assert len(sleds.regions()) == 3 and len(sleds.pids()) == 3
        assert node.start().stop() == 0
        node.tb4("volume", "delete", NAME, "--yes")
        assert_nothing_is_left(node, sleds)


def test_region_of_an_older_volume_of_that_name_is_never_taken(node, sleds):
    """Only the volume file is gone, as after a node was installed anew: its data stays."""
    create(node)
    (node.volume_dir / f"{NAME}.conf").unlink()
    before = sleds.files()
    result = create(node, check=False)
    assert result.returncode == 73 and re.search(r"has region 390\d of it already, made by node-a", result.stderr), result.stderr
    assert sleds.files() == before and len(sleds.pids()) == 3


def test_delete_while_a_sled_is_away(node, sleds):
    create(node)
    away = name_of(sleds, places(node)[1])
    node.write_config(sleds.settings(away))
    result = node.tb4("volume", "delete", NAME, "--yes", check=False)
    assert result.returncode != 0 and "nothing is deleted: use --force" in result.stderr
    assert len(sleds.regions()) == 3 and node.tb4_json("volume", "list")["volumes"]
    result = node.tb4("volume", "delete", NAME, "--yes", "--force", check=False)
    assert result.returncode == 0 and "is left where it is" in result.stderr
    assert {name for name, _ in sleds.regions()} == {away}


# regions that exist already

@both
def test_adopt_takes_size_and_shape_of_the_regions(make_volume, make_node, kind, tmp_path):
    volume = make_volume(kind, extents=16)
    node = make_node()
    volume.io("fill", 7, 8 * MIB)
    result = node.tb4("volume", "adopt", 200, *volume.target_options, check=False)
    assert result.returncode == 0 and "can be seen only on hosts that are a [sled]" in result.stderr, result.stderr
    assert node.tb4_json("volume", "info", NAME)["size"] == volume.size
    result = node.tb4("volume", "adopt", 201, *volume.target_options, check=False)
    assert result.returncode == 73 and f"is a region of {NAME}" in result.stderr
    gateway = node.start()
    run("nbdcopy", gateway.uri(), tmp_path / "back")
    assert gateway.stop() == 0
    assert any((tmp_path / "back").read_bytes()[:8 * MIB])
    result = node.tb4("volume", "delete", NAME, "--yes", check=False)
    assert result.returncode == 0 and result.stderr.count("is left where it is") == 3
    assert all(sled.is_running() and sled.extent_path(0).exists() for sled in volume.sleds)


def test_adopt_refuses_what_is_no_volume(make_volume, make_node):
    node = make_node()
    first, other, sealed = make_volume(extents=4), make_volume(extents=5), make_volume(extents=4, key=bytes(32))

    def adopt(*ports, more=()):
        targets = [word for port in ports for word in ("--target", f"127.0.0.1:{port}")]
        result = node.tb4("volume", "adopt", 200, *targets, *more, check=False)
        assert result.returncode != 0 and not list(node.volume_dir.glob("*.conf"))
        return result.stderr
    ports = [sled.port for sled in first.sleds]
    assert "of different shape" in adopt(ports[0], ports[1], other.sleds[2].port)
    assert "needs --key-file" in adopt(*[sled.port for sled in sealed.sleds])
    assert "not for encrypted blocks" in adopt(*ports, more=["--key-file", sealed.directory / "key"])
    assert "given twice" in adopt(ports[0], ports[1], ports[1])
    assert "3 times, has it 2 times" in adopt(*ports[:2])
    free = take_port(range(24100, 28000))
    assert "cannot be asked" in adopt(ports[0], ports[1], free)
    with socket.socket() as stranger:  # something else answers there
        stranger.bind(("127.0.0.1", free + REPAIR_PORT_OFFSET))
        stranger.listen()
        assert "cannot be asked" in adopt(ports[0], ports[1], free)


def test_adopt_refuses_while_a_client_is_connected(node, sleds):
    create(node)
    targets = [word for target in places(node) for word in ("--target", target)]
    gateway = node.start()
    (node.volume_dir / f"{NAME}.conf").rename(node.directory / "kept")
    result = node.tb4("volume", "adopt", 201, *targets, check=False)
    assert result.returncode == 75 and "a client is connected to its port on sled s" in result.stderr, result.stderr
    assert gateway.stop() == 0
    node.tb4("volume", "adopt", 201, *targets)
    assert node.tb4_json("volume", "info", "vm-201-disk-0")["size"] == SIZE


# daily operation

@both
def test_replace_on_another_sled_and_drain_under_load(node, sleds, kind, tmp_path):
    assert kind
    create(node)
    gateway = node.start()
    history = load(gateway, tmp_path / "stop")
    spare = next(name for name in sleds.names if name not in {name_of(sleds, target) for target in places(node)})
    old = name_of(sleds, places(node)[1])
    out = node.tb4("volume", "replace", NAME, 1, "--sled", spare)
    assert f"slot 1, {sleds.address(spare)}:" in out and "is new and in sync" in out
    assert old not in {name for name, _ in sleds.regions()} and len(sleds.pids()) == 3
    assert [(one["state"], one["in_sync"]) for one in slots(gateway)] == [("active", True)] * 3
    drained = name_of(sleds, places(node)[0])
    assert "would go to sled" in node.tb4("sled", "drain", drained, "--dry-run")
    moved = node.tb4_json("sled", "drain", drained)
    assert moved["moved"] == [{"name": NAME, "slot": 0, "sled": old}] and moved["failed"] == []
    assert "no volume has a region there" in node.tb4("sled", "drain", drained)
    end(history, tmp_path / "stop")
    assert gateway.stop() == 0
    assert len(sleds.regions()) == 3 and {name for name, _ in sleds.regions()} == set(sleds.names) - {drained}
    again = node.start()
    assert again.stop() == 0
    node.tb4("volume", "delete", NAME, "--yes")
    assert_nothing_is_left(node, sleds)


def test_replace_that_the_gateway_refuses_leaves_no_region(node, sleds):
    create(node)
    spare = next(name for name in sleds.names if name not in {name_of(sleds, target) for target in places(node)})
    before = sleds.regions()
    result = node.tb4("volume", "replace", NAME, 1, "--sled", spare, check=False)
    assert result.returncode == 69 and "its gateway does not run" in result.stderr, result.stderr
    assert sleds.regions() == before
    taken = name_of(sleds, places(node)[0])
    result = node.tb4("volume", "replace", NAME, 1, "--sled", taken, check=False)
    assert result.returncode == 64 and f"sled {taken} has slot 0 already" in result.stderr
    result = node.tb4("volume", "replace", NAME, 1, "--sled", "nowhere", check=False)
    assert result.returncode == 66 and "nowhere: no such sled" in result.stderr
    result = node.tb4("volume", "replace", NAME, 1, check=False)
    assert result.returncode == 64 and "one --sled NAME or one --target" in result.stderr
    result = node.tb4("sled", "drain", taken, check=False)
    assert result.returncode == 69 and "its gateway does not run" in result.stderr
    assert sleds.regions() == before


def test_broken_sled_is_replaced(node, sleds, tmp_path):
    """Its downstairs is gone and its command fails: the slot goes elsewhere, and what it had is left."""
    create(node)
    gateway = node.start()
    run("nbdcopy", "--", PROGRAMS / "tb4", "null:")
    broken = name_of(sleds, places(node)[2])
    pid = next(pid for pid in sleds.pids()
               if os.fsencode(sleds.path(broken)) in open(f"/proc/{pid}/cmdline", "rb").read())  # noqa: SIM115
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: slots(gateway)[2]["state"] in ("absent", "connecting"), "slot 2 is away")
    node.write_config(sleds.settings(broken))
    spare = next(name for name in sleds.names if name not in {name_of(sleds, target) for target in places(node)})
    result = node.tb4("volume", "replace", NAME, 2, "--sled", spare, check=False)
    assert result.returncode == 0 and "is left where it is: sled" in result.stderr, result.stderr
    assert slots(gateway)[2]["in_sync"] is True
    assert gateway.stop() == 0


def findings(node, *arguments, severity="fault"):
    return [f"{one['about']}: {one['text']}" for one in node.tb4_json("sled", "check", *arguments, check=False)["findings"]
            if one["severity"] == severity]


def test_list_and_check(node, sleds):
    create(node)
    listed = node.tb4_json("sled", "list")["sleds"]
    assert [one["name"] for one in listed] == sleds.names and all(one["reachable"] for one in listed)
    assert sum(len(one["regions"]) for one in listed) == 3
    region = next(region for one in listed for region in one["regions"])
    assert region["volume"] == NAME and region["size"] == SIZE and region["listens"] is True
    assert listed[0]["message_version"] == 13
    lines = node.tb4("sled", "list").splitlines()
    assert len(lines) == 5 and lines[0].startswith("SLED")
    assert findings(node) == []
    assert node.tb4("sled", "check").endswith("no faults: 4 sleds\n")
    advice = findings(node, severity="advice")
    assert any("nobody starts its downstairs after a reboot" in line for line in advice)
    assert any("has no certificates" in line for line in advice)


def test_check_finds_what_is_wrong(node, sleds):
    create(node)
    create(node, vmid=201)
    (victim, port) = next((name, port) for name, port in sleds.regions() if port < 3910)
    pid = int((sleds.path(victim) / f"{port}.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_free(port), "the downstairs is gone")
    found = findings(node)
    assert f"sled {victim}: region {port} ({NAME}): no downstairs serves it" in found
    assert any(re.match(rf"{NAME}: slot \d: 127.*: its downstairs cannot be asked", line) for line in found)
    assert len(found) == 2
    assert node.tb4("sled", "check", check=False).returncode == 1
    (node.volume_dir / "vm-201-disk-0.conf").unlink()
    assert sum("of vm-201-disk-0, which does not exist any more" in line for line in findings(node)) == 3
    other = next(name for name in sleds.names if name != victim)
    assert all(victim not in line for line in findings(node, other))
    mark = next(sleds.path(other).glob("39*.volume"))
    mark.write_text(mark.read_text().replace("ready", "creating").replace(NAME, "vm-209-disk-0"))
    assert any("whose creation was cut short" in line for line in findings(node, other))
    result = node.tb4("sled", "check", "nowhere", check=False)
    assert result.returncode == 66


def test_sled_that_does_not_answer_is_listed(node, sleds):
    sleds.names = ["s1", "s2"]
    node.write_config(sleds.settings("s1"))
    result = node.tb4("sled", "list", check=False)
    assert result.returncode == 1 and re.search(r"^s1 .*its command ended with 1", result.stdout, re.M)
    assert re.search(r"^s2 .*GiB", result.stdout, re.M)
    assert findings(node) == ["sled s1: sled s1: its command ended with 1"]


def test_process_that_a_command_leaves_behind_is_not_waited_for(node, sleds, tmp_path):
    """As ssh leaves its master, which has the standard error of the first."""
    command = tmp_path / "command"
    command.write_text('#!/bin/sh\nsetsid sleep 100 &\necho $! >>"$0.pids"\nexec sh -c "$1"\n')
    command.chmod(0o755)
    node.write_config(sleds.settings().replace("command = sh -c", f"command = {command}"))
    try:
        assert len(node.tb4_json("sled", "list")["sleds"]) == 4
    finally:
        for pid in (tmp_path / "command.pids").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def test_sleds_by_ipv6_and_by_name(node, sleds):
    """Downstairs take no names: the address is looked up here, and its figures are what they listen at."""
    sleds.names = ["s1", "s2", "s3"]
    settings = sleds.settings().replace(f"address = {sleds.address('s1')}\n", "address = ::1\n") \
        .replace(f"address = {sleds.address('s2')}\n", "address = localhost\n")
    node.write_config(settings)
    vmid, name = 1000, "vm-1000-disk-0"  # its ports are of the pool, which no other test has at these addresses
    create(node, vmid=vmid)
    assert sorted(target.rsplit(":", 1)[0] for target in places(node, name)) == sorted(
        ["[::1]", "localhost", sleds.address("s3")])
    gateway = node.start(vmid)
    with gateway.connect() as client:
        client.write(0, b"6" * 4096)
        assert client.read(0, 4096) == b"6" * 4096
    assert gateway.stop() == 0
    node.tb4("volume", "delete", vmid, "--yes")
    assert sleds.files() == [] and sleds.pids() == []


def test_no_sleds(make_node):
    node = make_node()
    for words in (["sled", "list"], ["sled", "check"]):
        result = node.tb4(*words, check=False)
        assert result.returncode == 66 and "tb4.conf has no [sled NAME]" in result.stderr
    result = node.tb4("volume", "create", 200, "1G", "--backend", "crucible", check=False)
    assert result.returncode == 64 and "needs [sled NAME] sections in tb4.conf" in result.stderr


@pytest.mark.parametrize("text, pattern", [
    ("[sled]\naddress = a", r"\[sled \]: not a name"), ("[sled a b]\naddress = a", r"\[sled a b\]: not a name"),
    ("[sled a]", r"\[sled a\] address is missing"), ("[sled a]\naddress = a\n[sled a]\naddress = b", "is there twice"),
    ("[sled a]\naddress = a b", "neither a name nor an address"), ("[sled a]\naddress = a\nport = 1", "has no setting port"),
    ("[sled a]\naddress = a\n[sled b]\naddress = a", r"\[sled b\] has the address of \[sled a\]"),
    ("[sled a]\naddress = a\naddress = b", "address is given twice, first on line"),
    ("[sled a]\naddress = a\ndirectory = x", "not an absolute path"), ("[sled a]\naddress = a\ncapacity = much", "not a size"),
])
def test_faults_of_sleds_in_the_configuration(make_node, text, pattern):
    node = make_node(settings=text)
    result = node.tb4("check", check=False)
    assert result.returncode == 78 and re.search(pattern, result.stdout), result.stdout


def test_quotes_in_settings_reach_the_sled_as_they_are(node, sleds, tmp_path):
    """No shell on the way takes a directory apart."""
    sleds.directory = tmp_path / "a 'b' $(c) \"d\" \\e"
    sleds.directory.mkdir()
    node.write_config(sleds.settings())
    create(node)
    assert len(sleds.regions()) == 3
    assert node.start().stop() == 0
    node.tb4("volume", "delete", NAME, "--yes")
    assert_nothing_is_left(node, sleds)


# generations that others have used

def adopted(node, volume):
    node.tb4("volume", "adopt", 200, *volume.target_options)
    return node


@both
@pytest.mark.parametrize("generation", [1 << 35, 1 << 50], ids=["2^35", "2^50"])
def test_fresh_claim_goes_above_what_is_stored(make_volume, make_node, kind, generation):
    """As after another program, or a node with a wild clock, had the regions."""
    volume, node = make_volume(kind), make_node()
    volume.io("fill", 7, 4 * MIB, generation=generation)
    gateway = adopted(node, volume).start()
    assert re.search(rf"generation {generation} was there before: claimed above it, generation {generation + 1}\n", gateway.log)
    assert node.record()["generation_first"] == generation + 1
    run("nbdcopy", gateway.uri(), "null:")
    assert gateway.stop() == 0
    assert node.start().stop() == 0
    assert node.record()["generation_first"] > generation + 1000


@both
def test_live_client_with_a_higher_generation_is_waited_for_and_then_outrun(make_volume, make_node, kind):
    """Its downstairs close without telling the number; the gateway says so, and goes on when that client has ended."""
    volume, node = make_volume(kind), make_node()
    adopted(node, volume)
    rival = volume.load(generation=1 << 45).wait_until_serving()
    gateway = node.spawn()
    gateway.wait_for_log("another client with an equal or higher generation is active on it")
    assert rival.is_running()
    assert rival.stop()[0] == 0
    gateway.wait_for("serving")
    assert f"generation {1 << 45} was there before: claimed above it" in gateway.log
    assert gateway.stop() == 0


def test_start_that_resumes_never_goes_above(make_volume, make_node):
    volume, node = make_volume(), make_node()
    gateway = adopted(node, volume).start()
    gateway.kill()
    volume.io("fill", 7, 4 * MIB, generation=1 << 45)
    gateway = node.start(state="fenced")
    assert "claim resumed" in gateway.log and "claimed above" not in gateway.log
    assert f"shows generation {1 << 45}" in gateway.log


def test_generation_that_leaves_no_room_is_refused(make_volume, make_node):
    volume, node = make_volume(), make_node()
    volume.io("fill", 7, 4 * MIB, generation=(1 << 63) - 5)
    status, log = adopted(node, volume).run_to_end()
    assert status != 0 and "leaves no room for ours" in log
    result = node.tb4("volume", "export", 200, "/dev/null", "--force", check=False)
    assert result.returncode != 0 and "leaves no room for ours" in result.stderr, result.stderr


def test_command_without_a_gateway_goes_above_too(make_volume, make_node, tmp_path):
    volume, node = make_volume(), make_node()
    volume.io("fill", 7, 4 * MIB, generation=1 << 45)
    adopted(node, volume).tb4("volume", "export", 200, tmp_path / "out")
    assert (tmp_path / "out").stat().st_size == volume.size


@pytest.mark.parametrize("kind", ["own"])
def test_import_makes_the_volume_on_sleds_and_takes_it_back_when_it_fails(node, sleds, kind, tmp_path):
    assert kind
    image = tmp_path / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, f"{(70 << 20) + 512}")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 66M 2M", image)
    node.tb4("volume", "import", 200, image, "--backend", "crucible", "--encrypt")
    assert node.tb4_json("volume", "info", 200)["size"] == (70 << 20) + 4096
    gateway = node.start()
    run("nbdcopy", gateway.uri(), tmp_path / "back")
    assert gateway.stop() == 0
    assert (tmp_path / "back").read_bytes()[66 << 20:68 << 20] == b"\5" * (2 << 20)
    node.tb4("volume", "delete", 200, "--yes")
    assert_nothing_is_left(node, sleds)
    result = node.tb4("volume", "import", 200, "-", "--size", "1M", "--backend", "crucible", check=False,
                      input="x" * (2 << 20))
    assert result.returncode == 73 and "larger than the volume" in result.stderr, result.stderr
    assert_nothing_is_left(node, sleds)


# what must not be taken back

def marks(sleds):
    return {path: path.read_text() for name in sleds.names for path in sleds.path(name).glob("*.volume")}


def test_undo_takes_only_what_the_same_creation_made(node, sleds):
    """A region of the same volume that somebody else is making just now stays."""
    create(node)
    for path, text in marks(sleds).items():
        path.write_text(text.replace("ready", "creating"))
    (node.volume_dir / f"{NAME}.conf").unlink()
    before = marks(sleds)
    first = sorted(before)[0]
    script = (f"DIRECTORY='{first.parent}' PROGRAM='{sleds.program}' ARGUMENTS='' ADDRESS='127.0.0.1'\n"
              f"PORT='{first.stem}' VOLUME='{NAME}' NODE='node-a' UUID='00000000-0000-0000-0000-000000000000'\n"
              f"{(ROOT / 'gateway' / 'sled' / 'sled.sh').read_text()}\nUNDO\n")
    subprocess.run(["sh", "-s"], input=script, text=True, check=True)
    assert marks(sleds) == before and len(sleds.pids()) == 3


def test_region_of_a_volume_that_was_served_is_no_leftover(node, sleds):
    """Its mark was never changed from creating, and its volume file is lost; but it has a claim record."""
    create(node)
    assert node.start().stop() == 0
    for path, text in marks(sleds).items():
        path.write_text(text.replace("ready", "creating"))
    assert any("still marked as being made" in line for line in findings(node, severity="advice"))
    (node.volume_dir / f"{NAME}.conf").unlink()
    result = create(node, check=False)
    assert result.returncode == 73 and "of it already, made by node-a" in result.stderr, result.stderr
    assert len(sleds.regions()) == 3 and len(sleds.pids()) == 3


def test_what_is_left_of_a_removal_or_a_creation_is_found(node, sleds):
    """Only the marks are there any more: delete and create go on from there."""
    create(node)
    for name, port in sleds.regions():
        (sleds.path(name) / str(port) / "region.json").unlink()
    node.tb4("volume", "delete", NAME, "--yes")
    assert_nothing_is_left(node, sleds)
    for name in sleds.names[:3]:
        sleds.path(name).mkdir(exist_ok=True)
        (sleds.path(name) / "3900.volume").write_text(
            f"volume={NAME}\nnode=node-a\nuuid=7d345299-b1c0-4941-8c38-d8496b7b0fd6\nstate=creating\n")
    create(node)
    assert node.start().stop() == 0
    node.tb4("volume", "delete", NAME, "--yes")
    assert_nothing_is_left(node, sleds)


def test_key_stays_as_long_as_a_region_does(node, sleds):
    create(node, "--encrypt")
    node.write_config(sleds.settings(name_of(sleds, places(node)[0])))
    result = node.tb4("volume", "delete", NAME, "--yes", "--force", check=False)
    assert result.returncode == 0 and "its key stays, too" in result.stderr, result.stderr
    assert (node.claim_dir / f"{NAME}.key").exists() and len(sleds.regions()) == 1


def test_interrupted_import_on_slow_sleds_is_taken_back(node, sleds, tmp_path):
    """The undoing is not interrupted by the signal that made it necessary."""
    command = tmp_path / "slow"
    command.write_text('#!/bin/sh\nsleep 0.4\nexec sh -c "$1"\n')
    command.chmod(0o755)
    node.write_config(sleds.settings().replace("command = sh -c", f"command = {command}"))
    process = subprocess.Popen([PROGRAMS / "tb4", "--config", node.config, "volume", "import", "200", "-", "--size", "64M",
                                "--backend", "crucible"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(b"x" * (1 << 20))
    process.stdin.flush()
    wait_until(lambda: (node.volume_dir / f"{NAME}.conf").exists(), "the volume is made")
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"could not be taken back" not in err, err
    assert_nothing_is_left(node, sleds)
