"""tb4 volume create, list, info, resize and delete, and tb4 ports, with real processes and files."""
import fcntl
import os
import pty
import re
import resource
import shutil
import signal
import socket
import subprocess
import time

import pytest

from support.node import PROGRAMS, fill
from support.outcome import node_tree, refused, tree, without_locks

GIB = 1 << 30


def volume_file(node, name="vm-200-disk-0"):
    return node.volume_dir / f"{name}.conf"


def edit(node, old, new, name="vm-200-disk-0"):
    path = volume_file(node, name)
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new))


# create

def test_create_as_typed_in_the_readme(node):
    assert node.tb4("volume", "create", "200", "50G") == (
        f"created vm-200-disk-0: 50G, file backend, {node.image()}\n")
    info = node.tb4_json("volume", "info", "200")
    assert info["size"] == 50 * GIB and info["host"] == "node-a" and info["claim"] == "never claimed"
    assert info["nbd_port"] == 10809 and info["device"] == 0 and info["allocated"] == 0
    assert node.image().stat().st_size == 50 * GIB
    assert oct(node.image().stat().st_mode & 0o777) == "0o600"
    assert node.start().volume_status()["size"] == 50 * GIB


@pytest.mark.parametrize("text, size", [
    ("512", 512), ("1K", 1024), ("1536", 1536), ("512M", 512 << 20), ("50g", 50 * GIB), ("50GiB", 50 * GIB),
    ("1T", 1 << 40), ("67109376", 67109376),
])
def test_sizes_are_taken_exactly(node, text, size):
    node.create(200, text)
    assert node.tb4_json("volume", "info", "200")["size"] == size == node.image().stat().st_size


@pytest.mark.parametrize("text", ["", "0", "-1", "1", "511", "513", "50GB", "1.5G", "G", "50 G", "0x200", "lots",
                                  "8E", "99999999999999999999", "9223372036854775807"])
def test_what_is_no_size_is_refused_and_nothing_is_left(node, text):
    before = without_locks(node_tree(node))
    refused(node.tb4("volume", "create", "200", "--", text, check=False), 64, "size")
    assert without_locks(node_tree(node)) == before


def test_size_beyond_the_file_system_leaves_nothing(node):
    result = node.tb4("volume", "create", "200", str((1 << 63) - 512), check=False)
    refused(result, 73, f"cannot make {re.escape(str(node.image()))} .* large: File too large")
    assert without_locks(node_tree(node)) == {}


def test_disk_and_name_choose_the_name(node):
    assert "vm-200-disk-7" in node.tb4("volume", "create", "200", "1M", "--disk", "7")
    for name in ("base-200-disk-1", "vm-200-cloudinit", "vm-200-state-before_upgrade", "vm-200-fleece-0"):
        assert name in node.tb4("volume", "create", "200", "1M", "--name", name)
    names = [volume["name"] for volume in node.tb4_json("volume", "list", "200")["volumes"]]
    assert names == ["base-200-disk-1", "vm-200-cloudinit", "vm-200-disk-7", "vm-200-fleece-0",
                     "vm-200-state-before_upgrade"]


@pytest.mark.parametrize("options, pattern", [
    (["--name", "vm-201-disk-0"], "--name vm-201-disk-0: not a name for a volume of VM 200"),
    (["--name", "disk"], "--name disk: not a name for a volume of VM 200"),
    (["--name", ""], "--name : not a name for a volume of VM 200"),
    (["--name", "vm-200-disk-1", "--disk", "1"], "--name and --disk exclude each other"),
    (["--backend", "rbd"], "--backend rbd: this version has: file, crucible"),
    (["--backend", ""], "--backend : this version has: file, crucible"),
    (["--disk", "10000"], "--disk 10000: not a number"),
    (["--description", "two\nlines"], "cannot be written"),
    (["--description", " blank before"], "cannot be written"),
    (["--description", ""], "cannot be written"),
    (["--description", "x" * 300], "cannot be written"),
])
def test_wrong_options_of_create_leave_nothing(node, options, pattern):
    refused(node.tb4("volume", "create", "200", "1M", *options, check=False), 64, pattern)
    assert without_locks(node_tree(node)) == {}


def test_a_volume_name_instead_of_a_vmid_is_refused_by_create(node):
    refused(node.tb4("volume", "create", "vm-200-disk-0", "1M", check=False), 64,
            "vm-200-disk-0: not the number of a VM")


def test_existing_volume_is_not_touched(node):
    node.create(200, "1M")
    node.image().write_bytes(b"data" * 1000 + bytes((1 << 20) - 4000))
    before = node_tree(node)
    refused(node.tb4("volume", "create", "200", "2M", check=False), 73,
            "vm-200-disk-0: exists already: see tb4 volume info vm-200-disk-0")
    assert node_tree(node) == before


def test_existing_image_is_not_touched_and_no_volume_is_made(node):
    node.data_dir.mkdir()
    node.image().write_bytes(b"somebody's")
    refused(node.tb4("volume", "create", "200", "1M", check=False), 73, "vm-200-disk-0.raw: exists already, and no volume file names it")
    assert without_locks(node_tree(node)) == {str(node.image()): tree(node.image())[str(node.image())]}


def test_volume_dir_that_is_read_only_leaves_no_image(node, small_disk):
    node.volume_dir = small_disk
    node.write_config()
    node.tb4("volume", "create", "201", "1M")  # makes volume_dir's lock file
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    before = node_tree(node)
    refused(node.tb4("volume", "create", "200", "1M", check=False), 73, "Read-only file system")
    assert node_tree(node) == before


def test_full_volume_dir_leaves_no_image(node, small_disk):
    node.volume_dir = small_disk
    node.write_config()
    node.tb4("volume", "list")
    fill(small_disk)
    refused(node.tb4("volume", "create", "200", "1M", check=False), 73,
            r"vm-200-disk-0.conf: cannot write: No space left on device")
    assert not node.image().exists() and not volume_file(node).exists()
    assert [path.name for path in small_disk.iterdir() if path.name != ".lock"] == ["filler"]


def test_create_after_a_full_disk_works(node, small_disk):
    node.volume_dir = small_disk
    node.write_config()
    filler = fill(small_disk)
    node.tb4("volume", "create", "200", "1M", check=False)
    filler.unlink()
    node.create(200, "1M")
    node.start()


def test_data_dir_that_is_a_file_is_named(node):
    node.data_dir.write_text("")
    result = node.tb4("volume", "create", "200", "1M", check=False)
    line = refused(result, result.returncode, re.escape(str(node.data_dir)))
    assert result.returncode in (64, 65, 73, 74, 77, 78), f"{result.returncode} says that it is our fault: {line}"
    assert not volume_file(node).exists()


def test_a_thin_volume_is_made_with_a_warning(node):
    result = node.tb4("volume", "create", "200", "8T", check=False)
    assert result.returncode == 0
    assert re.fullmatch(r"tb4: vm-200-disk-0: \S+ is thin: its file system has less room left than 8T\n",
                        result.stderr)


def test_creates_at_the_same_time_get_different_devices_and_one_name_one_winner(node):
    command = [str(PROGRAMS / "tb4"), "--config", str(node.config), "volume", "create"]
    processes = [subprocess.Popen([*command, vmid, "1M"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                 for vmid in ["200"] * 5 + [str(300 + i) for i in range(10)]]
    statuses = [process.wait(60) for process in processes]
    for process in processes:
        process.stderr.close()
    assert sorted(statuses[:5]) == [0, 73, 73, 73, 73] and statuses[5:] == [0] * 10
    infos = [node.tb4_json("volume", "info", str(vmid)) for vmid in [200, *range(300, 310)]]
    assert len({info["device"] for info in infos}) == 11
    assert len({info["nbd_port"] for info in infos}) == 11
    assert node.tb4("check").startswith("no faults: 11 volumes")


# list and info

def test_list_is_sorted_and_filtered(node):
    for vmid, disk in ((300, 0), (200, 10), (200, 2), (1000, 0)):
        node.tb4("volume", "create", vmid, "1M", "--disk", disk)
    listed = [volume["name"] for volume in node.tb4_json("volume", "list")["volumes"]]
    assert listed == ["vm-200-disk-2", "vm-200-disk-10", "vm-300-disk-0", "vm-1000-disk-0"]
    only = node.tb4("volume", "list", "200")
    assert re.findall(r"^vm\S+", only, re.MULTILINE) == ["vm-200-disk-2", "vm-200-disk-10"]
    assert node.tb4_json("volume", "list", "999") == {"volumes": []}


def test_list_shows_the_good_ones_and_names_the_damaged_one(node):
    node.create(200, "1M")
    node.create(201, "1M")
    volume_file(node, "vm-201-disk-0").write_text("[volume]\nsize = much\n")
    result = node.tb4("volume", "list", "--json", check=False)
    assert result.returncode == 65
    assert '"vm-200-disk-0"' in result.stdout and '"vm-201-disk-0"' not in result.stdout
    lines = result.stderr.splitlines()
    assert all(re.match(rf"tb4: {re.escape(str(volume_file(node, 'vm-201-disk-0')))}(:[1-9]\d*)?: ", line)
               for line in lines), lines
    assert "conf:2: size = much: not a size" in result.stderr


def test_info_shows_claim_and_missing_image(node):
    node.create(200, "1M")
    gateway = node.start()
    assert "claim        claimed by node-a" in node.tb4("volume", "info", "200")
    gateway.stop()
    assert node.tb4_json("volume", "info", "200")["claim"] == "released by node-a"
    node.image().unlink()
    assert "vm-200-disk-0.raw (missing)" in node.tb4("volume", "info", "200")
    assert "allocated" not in node.tb4_json("volume", "info", "200")


# resize

def test_resize_offline_grows_file_and_image_and_keeps_the_data(node):
    node.create(200, "1M")
    node.image().write_bytes(b"\x5a" * (1 << 20))
    assert node.tb4("volume", "resize", "200", "3M") == "resized vm-200-disk-0 to 3M\n"
    assert node.tb4_json("volume", "info", "200")["size"] == 3 << 20
    assert node.image().read_bytes() == b"\x5a" * (1 << 20) + bytes(2 << 20)
    assert node.record()["released"] is True
    assert os.listdir(node.run_dir) == []


def test_resize_live_is_seen_after_a_reconnect_and_disturbs_nobody(node):
    node.create(200, "1M")
    gateway = node.start()
    with gateway.connect() as client:
        client.write(0, b"a" * 4096)
        assert node.tb4("volume", "resize", "200", "2M") == "resized vm-200-disk-0 to 2M\n"
        assert client.read(0, 4096) == b"a" * 4096
        client.write(1 << 20, b"b" * 4096)  # the larger size is there for whoever learns of it
    with gateway.connect() as client:
        assert client.size == 2 << 20
        assert client.read(1 << 20, 4096) == b"b" * 4096
    assert gateway.volume_status()["size"] == 2 << 20
    assert gateway.stop() == 0
    assert node.tb4_json("volume", "info", "200")["size"] == 2 << 20


def test_resize_to_the_same_size_changes_nothing(node):
    node.create(200, "1M")
    before = node_tree(node)
    node.tb4("volume", "resize", "200", "1M")
    assert node_tree(node) == before


def test_shrinking_is_refused_live_and_offline(node):
    node.create(200, "2M")
    before = node_tree(node)
    refused(node.tb4("volume", "resize", "200", "1M", check=False), 64,
            "vm-200-disk-0: has 2M already, and volumes do not shrink")
    assert node_tree(node) == before
    gateway = node.start()
    refused(node.tb4("volume", "resize", "200", "1M", check=False), 64, "do not shrink")
    assert gateway.volume_status()["size"] == 2 << 20


@pytest.mark.parametrize("size", ["2097151", "2M1", "", "-2M", "x"])
def test_resize_to_no_size_is_refused(node, size):
    node.create(200, "1M")
    refused(node.tb4("volume", "resize", "200", "--", size, check=False), 64, "size")


def test_live_resize_beyond_the_file_system_fails_and_the_gateway_goes_on(node):
    node.create(200, "1M")
    gateway = node.start()
    with gateway.connect() as client:
        refused(node.tb4("volume", "resize", "200", str((1 << 63) - 4096), check=False), 73,
                "cannot grow .*: File too large")
        client.write(0, b"x" * 512 * 8)
    assert gateway.volume_status()["size"] == 1 << 20
    node.tb4("volume", "resize", "200", "2M")


def test_refusal_by_the_gateway_has_the_exit_status_of_its_reason(node):
    node.create(200, "1M")
    gateway = node.start()
    node.tb4("claim", "force", "200", "--yes")
    gateway.wait_for("fenced")
    refused(node.tb4("volume", "resize", "200", "2M", check=False), 75, "vm-200-disk-0: is not being served now")


def test_live_resize_of_a_volume_made_after_the_start_says_what_to_do(node, gateway):
    node.tb4("volume", "create", "200", "1M", "--disk", "1")
    refused(node.tb4("volume", "resize", "200", "2M", "--disk", "1", check=False), 75,
            "vm-200-disk-1: not among the volumes that the running gateway of VM 200 serves: tb4 reload 200 makes it look again")


def test_live_resize_with_a_full_volume_dir_fails_and_works_later(node, small_disk):
    node.volume_dir = small_disk
    node.write_config()
    node.create(200, "1M")
    gateway = node.start()
    filler = fill(small_disk)
    refused(node.tb4("volume", "resize", "200", "2M", check=False), 73, "cannot write: No space left on device")
    assert gateway.volume_status()["size"] == 1 << 20
    assert node.tb4_json("volume", "info", "200")["size"] == 1 << 20
    filler.unlink()
    node.tb4("volume", "resize", "200", "2M")
    assert gateway.volume_status()["size"] == 2 << 20


def test_live_resize_keeps_what_was_edited_in_the_volume_file_meanwhile(node):
    node.create(200, "1M")
    node.start()
    edit(node, "host = node-a\n", "host = node-a\ndescription = edited\n")
    node.tb4("volume", "resize", "200", "2M")
    info = node.tb4_json("volume", "info", "200")
    assert info["size"] == 2 << 20 and info.get("description") == "edited"


def test_damaged_volume_file_is_not_overwritten_by_a_live_resize(node):
    node.create(200, "1M")
    gateway = node.start()
    volume_file(node).write_text("[volume]\nnonsense\n")
    request = b'{"version":1,"command":"resize","volume":"vm-200-disk-0","size":2097152}\n'
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(20)
        control.connect(str(gateway.directory / "control.sock"))
        control.sendall(request)
        answer = control.recv(65536)
    assert b'"ok":false' in answer
    assert volume_file(node).read_text() == "[volume]\nnonsense\n"


def test_io_goes_on_while_a_live_resize_waits_for_the_lock_of_volume_dir(node):
    """Whoever holds the lock, perhaps a tb4 that is stopped by Ctrl-Z, must not freeze the guest."""
    node.create(200, "1M")
    gateway = node.start()
    command = [str(PROGRAMS / "tb4"), "--config", str(node.config), "volume", "resize", "200", "2M"]
    with gateway.connect() as client, open(node.volume_dir / ".lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        resize = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while node.image().stat().st_size < 2 << 20:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            for _ in range(20):
                client.write(0, b"w" * 4096)
                time.sleep(0.01)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert resize.wait(60) == 0


def test_resize_of_another_hosts_volume_is_refused(make_node):
    one = make_node("node-a")
    other = make_node("node-b", share_with=one)
    one.create(200, "1M")
    refused(other.tb4("volume", "resize", "200", "2M", check=False), 77,
            "vm-200-disk-0: belongs to host node-a, this is node-b")
    one.start()
    refused(other.tb4("volume", "resize", "200", "2M", check=False), 75,
            "vm-200-disk-0: owned by node node-a: stop the VM there first")
    assert one.image().stat().st_size == 1 << 20


def test_resize_under_a_dead_gateways_claim_says_what_to_do(node):
    node.create(200, "1M")
    node.start().kill()
    before = without_locks(node_tree(node))
    refused(node.tb4("volume", "resize", "200", "2M", check=False), 75,
            "still claimed by a gateway of this node that did not stop in order: start it again, or run "
            "tb4 claim release vm-200-disk-0")
    after = without_locks(node_tree(node))
    before.pop(f"{node.run_dir}/200/lock"), after.pop(f"{node.run_dir}/200/lock", None)
    assert after == before
    node.tb4("claim", "release", "200")
    node.tb4("volume", "resize", "200", "2M")


def test_start_right_after_a_resize_serves_the_new_size(node):
    """The gateway must read volume files only when nobody can change them any more."""
    if not shutil.which("strace"):
        pytest.skip("not installed: strace")
    node.create(200, "1M")
    # 3 s pass before the gateway takes the VM's lock; meanwhile the volume grows
    gateway = node.spawn(200, wrap=["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock",
                                    "-e", "inject=flock:delay_enter=3000000:when=1"],
                         env={"ASAN_OPTIONS": "detect_leaks=0"})
    deadline = time.monotonic() + 20
    while not (node.run_dir / "200" / "lock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    node.tb4("volume", "resize", "200", "2M")
    gateway.wait_for("serving")
    assert gateway.volume_status()["size"] == 2 << 20


# delete

def test_delete_removes_image_volume_file_and_record(node):
    node.create(200, "1M")
    gateway = node.start()
    assert gateway.stop() == 0
    assert node.tb4("volume", "delete", "200", "--yes") == "deleted vm-200-disk-0\n"
    assert without_locks(node_tree(node)) == {}
    assert os.listdir(node.run_dir) == []


def test_delete_without_a_terminal_needs_yes(node):
    node.create(200, "1M")
    before = node_tree(node)
    for text in ("", "vm-200-disk-0\n"):
        refused(node.tb4("volume", "delete", "200", check=False, input=text), 64, "no terminal .*: use --yes")
    assert node_tree(node) == before


def on_terminal(command, typed, timeout=60):
    """Runs a command on a terminal of its own: (exit status, all that it showed)."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.execv(command[0], command)
        finally:
            os._exit(127)
    shown = b""
    deadline = time.monotonic() + timeout
    os.write(terminal, typed)
    while time.monotonic() < deadline:
        try:
            part = os.read(terminal, 4096)
        except OSError:
            part = b""
        if not part:
            break
        shown += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


@pytest.mark.parametrize("typed, goes", [
    (b"vm-200-disk-0\n", True), (b"y\n", False), (b"yes\n", False), (b"\n", False), (b"vm-200-disk-1\n", False),
    (b"vm-200-disk-0 \n", False), (b"\x04", False), (b"vm-200-disk-0" + b"x" * 200 + b"\n", False),
])
def test_delete_asks_for_the_name(node, typed, goes):
    node.create(200, "1M")
    status, shown = on_terminal([str(PROGRAMS / "tb4"), "--config", str(node.config), "volume", "delete", "200"],
                                typed)
    assert "This deletes vm-200-disk-0 (1M) and all that is on it. Type its name to go on:" in shown
    assert status == (0 if goes else 64)
    assert volume_file(node).exists() != goes and node.image().exists() != goes


@pytest.mark.parametrize("typed, goes", [(b"y\n", True), (b"n\n", False), (b"\n", False), (b"\x04", False)])
def test_claim_force_asks(node, typed, goes):
    node.create(200, "1M")
    status, shown = on_terminal([str(PROGRAMS / "tb4"), "--config", str(node.config), "claim", "force", "200"], typed)
    assert "loses vm-200-disk-0 at once and gets I/O errors. Go on? [y/N]" in shown
    assert status == (0 if goes else 64)
    assert (node.record() is not None) == goes


def test_claim_force_without_a_terminal_needs_yes(node):
    node.create(200, "1M")
    refused(node.tb4("claim", "force", "200", check=False, input="y\n"), 64, "use --yes")
    assert node.record() is None


def test_delete_is_refused_while_a_gateway_runs(node):
    node.create(200, "1M")
    gateway = node.start()
    line = refused(node.tb4("volume", "delete", "200", "--yes", check=False), 75, "VM 200: in use by tb4-gateway, pid")
    assert str(gateway.pid) in line
    assert node.image().exists() and volume_file(node).exists()
    with gateway.connect() as client:
        client.write(0, b"x" * 4096)


def test_delete_is_refused_under_a_dead_gateways_claim(node):
    node.create(200, "1M")
    node.start().kill()
    refused(node.tb4("volume", "delete", "200", "--yes", check=False), 75, "tb4 claim release vm-200-disk-0")
    node.tb4("claim", "release", "200")
    node.tb4("volume", "delete", "200", "--yes")
    assert without_locks(node_tree(node)) == {}


def test_delete_of_another_nodes_volume_is_refused(make_node):
    one = make_node("node-a")
    other = make_node("node-b", share_with=one)
    one.create(200, "1M")
    refused(other.tb4("volume", "delete", "200", "--yes", check=False), 77, "belongs to host node-a")
    gateway = one.start()
    refused(other.tb4("volume", "delete", "200", "--yes", check=False), 75, "owned by node node-a")
    gateway.stop()
    refused(other.tb4("volume", "delete", "200", "--yes", check=False), 77, "belongs to host node-a")
    assert one.image().exists() and volume_file(one).exists()
    assert without_locks(tree(other.run_dir)) == {}


def test_delete_of_one_disk_leaves_the_others(node):
    node.create(200, "1M")
    node.tb4("volume", "create", "200", "1M", "--disk", "1")
    node.tb4("volume", "delete", "200", "--disk", "1", "--yes")
    assert [volume["name"] for volume in node.tb4_json("volume", "list")["volumes"]] == ["vm-200-disk-0"]
    node.start()


def test_delete_with_a_missing_image_works(node):
    node.create(200, "1M")
    node.image().unlink()
    node.tb4("volume", "delete", "200", "--yes")
    assert without_locks(node_tree(node)) == {}


def test_delete_does_not_remove_what_is_no_regular_file(node):
    """The image of a volume file may have been set to something else; only files are images."""
    node.create(200, "1M")
    node.image().unlink()
    fifo = node.data_dir / "device"
    os.mkfifo(fifo)
    edit(node, str(node.image()), str(fifo))
    refused(node.tb4("volume", "delete", "200", "--yes", check=False), 65, "not a regular file")
    assert fifo.exists() and volume_file(node).exists()


def test_create_after_delete_goes_on_above_all_generations(node):
    node.create(200, "1M")
    node.start().stop()
    first = node.record()["generation_last"]
    node.tb4("volume", "delete", "200", "--yes")
    node.create(200, "1M")
    node.start().stop()
    assert node.record()["generation_first"] > 0
    assert node.record()["generation_last"] >= first - 999


def test_interrupted_create_leaves_nothing(node):
    """Ctrl-C while create waits for somebody else."""
    node.create(201, "1M")
    command = [str(PROGRAMS / "tb4"), "--config", str(node.config), "volume", "create", "200", "1M"]
    with open(node.volume_dir / ".lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = without_locks(node_tree(node))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
        assert without_locks(node_tree(node)) == before


def test_file_size_limit_of_the_process_is_an_error_not_a_signal(node):
    limit = (1 << 20, 1 << 20)
    result = subprocess.run([str(PROGRAMS / "tb4"), "--config", str(node.config), "volume", "create", "200", "2M"],
                            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
                            capture_output=True, text=True, timeout=60, check=False)
    refused(result, 73, "File too large")
    assert without_locks(node_tree(node)) == {}


# ports

def ports(node, vmid):
    return {volume["name"]: volume for volume in node.tb4_json("ports", vmid)["volumes"]}


def test_ports_follow_the_scheme(node):
    shown = ports(node, 203)
    assert shown["vm-203-disk-0"] == {
        "name": "vm-203-disk-0", "exists": False, "nbd": 10812, "device": 3, "downstairs": [3930, 3931, 3932],
        "repair": [7930, 7931, 7932]}
    assert shown["vm-203-disk-2"]["downstairs"] == [3936, 3937, 3938]
    assert "vm-203-disk-1" in node.tb4("ports", "203")


@pytest.mark.parametrize("vmid, disk, holder", [
    (252, 0, "port 4420 of the scheme belongs to nvmet"),
    (210, 2, "port 8006 of the scheme belongs to pveproxy"),
])
def test_taken_ports_of_the_scheme_are_replaced_and_explained(node, vmid, disk, holder):
    volume = ports(node, vmid)[f"vm-{vmid}-disk-{disk}"]
    assert volume["downstairs"][0] >= 20000 and holder in volume["note"]


def test_disks_of_a_vm_outside_the_scheme_do_not_share_ports(node):
    for disk in range(3):
        node.tb4("volume", "create", "300", "1M", "--disk", disk)
    shown = ports(node, 300)
    used = [port for volume in shown.values() for port in volume["downstairs"] + volume["repair"]]
    assert len(set(used)) == len(used) == 18


@pytest.mark.parametrize("vmid", [200, 300])
def test_disks_that_are_not_made_yet_are_shown_with_what_they_will_get(node, vmid):
    planned = ports(node, vmid)
    for disk in range(3):
        node.tb4("volume", "create", vmid, "1M", "--disk", disk)
    assert {name: {**volume, "exists": True} for name, volume in planned.items()} == ports(node, vmid)


def test_vms_outside_the_scheme_do_not_share_ports(node):
    node.create(300, "1M")
    node.create(301, "1M")
    one, other = ports(node, 300)["vm-300-disk-0"], ports(node, 301)["vm-301-disk-0"]
    assert one["nbd"] != other["nbd"] and one["device"] != other["device"]
    assert not set(one["downstairs"]) & set(other["downstairs"])


def test_ports_of_volumes_are_those_of_their_files(node):
    node.create(300, "1M")
    node.tb4("volume", "create", "300", "1M", "--name", "vm-300-cloudinit")
    shown = ports(node, 300)
    for name in ("vm-300-disk-0", "vm-300-cloudinit"):
        info = node.tb4_json("volume", "info", name)
        assert (shown[name]["exists"], shown[name]["nbd"], shown[name]["device"]) == (
            True, info["nbd_port"], info["device"])


def test_taken_nbd_port_is_an_error_that_names_its_holder(node):
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        node.write_config("[nbd]\nlisten = 127.0.0.1\n")
        node.create(300, "1M")
        edit(node, re.search(r"nbd = \d+", volume_file(node, "vm-300-disk-0").read_text())[0], f"nbd = {port}",
             "vm-300-disk-0")
        status, log = node.run_to_end(300)
    assert status == 73
    assert f"port {port} on 127.0.0.1 is taken by pid {os.getpid()} (" in log and log.count("\n") == 1
