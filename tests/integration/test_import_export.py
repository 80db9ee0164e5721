"""tb4 volume import and export: files, holes, pipes, sizes, and that half of it is undone."""
import fcntl
import os
import pty
import random
import re
import select
import signal
import subprocess
import termios
import time

import pytest

from support.node import PROGRAMS, needs, run
from support.outcome import node_tree, refused, tree, without_locks

MIB = 1 << 20


def random_bytes(length, seed=1):
    return random.Random(seed).randbytes(length)


def allocated(path):
    return path.stat().st_blocks * 512


@pytest.fixture
def picture(tmp_path):
    """An image of 6 MiB: a bit over 1 MiB of data, a hole, data, a hole at the end."""
    path = tmp_path / "picture.raw"
    with open(path, "wb") as file:
        file.write(random_bytes(MIB + 4096))
        file.seek(4 * MIB)
        file.write(random_bytes(4096, 2))
        file.truncate(6 * MIB)
    return path


def command(node, *arguments):
    return [str(PROGRAMS / "tb4"), "--config", str(node.config), "volume", *map(str, arguments)]


def wait_until(condition, what, timeout=30):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not after {timeout} s: {what}"
        time.sleep(0.005)


# import

@needs("qemu-img")
def test_import_makes_a_volume_with_the_same_contents_and_holes(node, picture):
    assert node.tb4("volume", "import", "200", picture) == f"filled vm-200-disk-0 (6M) from {picture}\n"
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", picture, node.image())
    assert allocated(node.image()) <= 3 * MIB
    assert node.record()["released"] is True and os.listdir(node.run_dir) == []


@pytest.mark.parametrize("way", ["file", "pipe", "overwrite"])
def test_small_holes_stay_holes(node, tmp_path, way):
    """4 KiB of data in each MiB, as a fresh ext4 or a database has it."""
    source = tmp_path / "source"
    with open(source, "wb") as file:
        for at in range(0, 16 * MIB, MIB):
            file.seek(at)
            file.write(b"d" * 4096)
        file.truncate(16 * MIB)
    node.create(200, "16M")
    if way == "overwrite":
        node.image().write_bytes(b"o" * (16 * MIB))
        node.tb4("volume", "import", "200", source, "--overwrite")
    elif way == "file":
        node.tb4("volume", "import", "200", source)
    else:
        node.tb4("volume", "import", "200", "-", input=source.read_bytes(), text=False)
    assert node.image().read_bytes() == source.read_bytes()
    assert allocated(node.image()) <= 4 * MIB
    node.tb4("volume", "export", "200", tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == source.read_bytes()
    assert allocated(tmp_path / "out.raw") <= 4 * MIB


@needs("qemu-img")
def test_import_from_a_pipe_needs_a_size_and_leaves_zeros_out(node, picture):
    with open(picture, "rb") as file:
        data = file.read()
    refused(node.tb4("volume", "import", "200", "-", input=data, text=False, check=False), 64,
            "the size of standard input is not known beforehand: give it with --size")
    assert without_locks(node_tree(node)) == {}
    node.tb4("volume", "import", "200", "-", "--size", "8M", input=data, text=False)
    assert node.image().read_bytes() == data + bytes(2 * MIB)
    assert allocated(node.image()) <= 4 * MIB


def test_import_from_a_slow_pipe_takes_every_byte(node):
    data = random_bytes(2 * MIB + 1536)
    process = subprocess.Popen(command(node, "import", "200", "-", "--size", "3M"), stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL)
    at = 0
    for length in (1, 511, 4096, MIB, MIB - 1, len(data)):
        process.stdin.write(data[at:at + length])
        process.stdin.flush()
        at += length
    process.stdin.close()
    assert process.wait(60) == 0
    assert node.image().read_bytes() == data + bytes(MIB - 1536)


@pytest.mark.parametrize("length", [1, 511, 512, 513, 4095, 4097, MIB - 1, MIB, MIB + 1])
@pytest.mark.parametrize("overwrite", [False, True], ids=["blank", "overwrite"])
def test_any_length_is_followed_by_zeros(node, tmp_path, length, overwrite):
    source = tmp_path / "source"
    source.write_bytes(random_bytes(length))
    node.create(200, "2M")
    if overwrite:
        node.image().write_bytes(b"\xee" * (2 * MIB))
    node.tb4("volume", "import", "200", source, *(["--overwrite"] if overwrite else []))
    assert node.image().read_bytes() == random_bytes(length) + bytes(2 * MIB - length)


def test_new_volume_is_as_large_as_its_image_rounded_up_to_sectors(node, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(random_bytes(1000))
    node.tb4("volume", "import", "200", source)
    assert node.tb4_json("volume", "info", "200")["size"] == 1024
    assert node.image().read_bytes() == random_bytes(1000) + bytes(24)


def test_size_makes_a_larger_volume(node, picture):
    node.tb4("volume", "import", "200", picture, "--size", "10M", "--disk", "1")
    assert node.tb4_json("volume", "info", "vm-200-disk-1")["size"] == 10 * MIB
    assert node.image("vm-200-disk-1").read_bytes() == picture.read_bytes() + bytes(4 * MIB)


@pytest.mark.parametrize("size, pattern", [("lots", "--size lots: not a size"), ("1", "multiple of 512"),
                                           ("0", "multiple of 512")])
def test_wrong_size_leaves_nothing(node, picture, size, pattern):
    refused(node.tb4("volume", "import", "200", picture, "--size", size, check=False), 64, pattern)
    assert without_locks(node_tree(node)) == {}


def test_size_for_an_existing_volume_is_refused(node, picture):
    node.create(200, "8M")
    refused(node.tb4("volume", "import", "200", picture, "--size", "8M", check=False), 73,
            "vm-200-disk-0: exists already; --size is for new ones")


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_image_larger_than_the_volume_is_refused_and_nothing_changed(node, picture, existing):
    if existing:
        node.create(200, "5M")
    before = without_locks(node_tree(node))
    options = [] if existing else ["--size", "5M"]
    refused(node.tb4("volume", "import", "200", picture, *options, check=False), 73,
            "larger than vm-200-disk-0")
    assert without_locks(node_tree(node)) == before


def test_pipe_with_more_than_the_volume_holds_leaves_it_blank(node):
    node.create(200, "1M")
    for extra in (1, MIB):
        data = random_bytes(MIB + extra)
        refused(node.tb4("volume", "import", "200", "-", input=data, text=False, check=False), 73,
                "standard input: larger than the volume")
        assert node.image().read_bytes() == bytes(MIB)
    node.tb4("volume", "import", "200", "-", input=random_bytes(MIB), text=False)
    assert node.image().read_bytes() == random_bytes(MIB)


def test_failed_import_into_a_new_volume_leaves_nothing(node):
    """Not even a claim record of a volume that was never there."""
    data = random_bytes(MIB + 1)
    refused(node.tb4("volume", "import", "200", "-", "--size", "1M", input=data, text=False, check=False), 73,
            "larger than the volume")
    assert without_locks(node_tree(node)) == {}


def test_existing_data_need_overwrite(node, picture):
    node.create(200, "6M")
    node.tb4("volume", "import", "200", picture)
    before = node_tree(node)
    refused(node.tb4("volume", "import", "200", picture, check=False), 73,
            "vm-200-disk-0: holds data: --overwrite replaces them, which cannot be undone")
    after = node_tree(node)
    before.pop(f"{node.claim_dir}/vm-200-disk-0.json"), after.pop(f"{node.claim_dir}/vm-200-disk-0.json")
    assert after == before
    node.tb4("volume", "import", "200", "-", "--overwrite", input=b"x" * 512, text=False)
    assert node.image().read_bytes() == b"x" * 512 + bytes(6 * MIB - 512)


@pytest.mark.parametrize("make, status, pattern", [
    (lambda path: None, 66, "source: No such file"),
    (lambda path: path.mkdir(), 66, "source: .*directory"),
    (lambda path: path.write_bytes(b""), 64, "source: empty"),
], ids=["missing", "directory", "empty"])
def test_what_is_no_image_is_refused_and_no_volume_made(node, tmp_path, make, status, pattern):
    make(tmp_path / "source")
    refused(node.tb4("volume", "import", "200", tmp_path / "source", check=False), status, pattern)
    assert without_locks(node_tree(node)) == {}


def test_import_into_a_running_vms_volume_is_refused(node, picture):
    node.create(200, "6M")
    node.start()
    refused(node.tb4("volume", "import", "200", picture, check=False), 75, "VM 200: in use by tb4-gateway, pid")


def test_import_into_another_hosts_volume_is_refused(make_node, picture):
    one = make_node("node-a")
    other = make_node("node-b", share_with=one)
    one.create(200, "6M")
    refused(other.tb4("volume", "import", "200", picture, check=False), 77, "belongs to host node-a")
    assert one.image().read_bytes() == bytes(6 * MIB)


def test_import_beside_a_running_gateway_of_the_vm_makes_nothing(node, picture):
    node.create(200, "1M")
    node.start()
    before = without_locks(node_tree(node))
    refused(node.tb4("volume", "import", "200", picture, "--disk", "1", check=False), 75, "in use by tb4-gateway")
    assert without_locks(node_tree(node)) == before


@needs("strace")
def test_gateway_that_starts_during_a_failing_import_neither_serves_nor_loses_its_volume(node, picture):
    """The import makes the volume and then fails, as the image is larger. A gateway started in between must not be
    serving an image that has been deleted."""
    slow = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e",
            "inject=flock:delay_enter=800000"]
    process = subprocess.Popen([*slow, *command(node, "import", "200", "-", "--size", "512")], stdin=subprocess.PIPE,
                               stderr=subprocess.PIPE, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    wait_until(lambda: (node.volume_dir / "vm-200-disk-0.conf").exists(), "the volume is made")
    gateway = node.spawn(200)
    process.communicate(bytes(1024), timeout=60)
    assert process.returncode == 73
    assert gateway.process.wait(20) == 75 and "VM 200: in use by" in gateway.log
    assert without_locks(node_tree(node)) == {}


def start_import(node, *arguments):
    """An import of a pipe that is in the middle: 12 MiB are taken, more is awaited."""
    process = subprocess.Popen(command(node, "import", "200", "-", *arguments), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdin.buffer.write(random_bytes(12 * MIB + 1024))
    process.stdin.buffer.flush()
    wait_until(lambda: node.image().exists() and allocated(node.image()) >= MIB, "data in the image")
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_import_into_a_new_volume_leaves_nothing(node, number):
    process = start_import(node, "--size", "16M")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "tb4: interrupted\n")
    assert without_locks(node_tree(node)) == {}
    assert os.listdir(node.run_dir) == []


@needs("strace")
def test_import_is_interrupted_while_it_zeroes_the_rest_of_a_volume(node, tmp_path):
    """One step for each GiB, each slow here."""
    (tmp_path / "small").write_bytes(b"s" * 512)
    node.create(200, "64G")
    with open(node.image(), "r+b") as image:
        image.write(b"D" * 4096)

    def first_bytes(path):
        with open(path, "rb") as file:
            return file.read(512)
    slow = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_setup,fallocate", "-e",
            "inject=io_uring_setup:error=ENOSYS", "-e", "inject=fallocate:delay_enter=500000"]
    process = subprocess.Popen([*slow, *command(node, "import", "200", tmp_path / "small", "--overwrite")],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    wait_until(lambda: first_bytes(node.image()) == b"s" * 512, "it has copied the image")
    os.kill(traced(process, "tb4"), signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "", "tb4: interrupted\n")
    assert node.record()["released"] is True


def test_interrupted_import_leaves_a_blank_volume_blank(node):
    node.create(200, "16M")
    process = start_import(node)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert node.image().read_bytes() == bytes(16 * MIB)
    assert node.tb4_json("volume", "info", "200")["claim"] == "released by node-a"
    node.tb4("volume", "import", "200", "-", input=b"again", text=False)


def test_killed_import_says_what_to_do_and_can_be_repeated(node):
    process = start_import(node, "--size", "16M")
    process.kill()
    process.communicate()
    refused(node.tb4("volume", "import", "200", "-", input="x", check=False), 75, "tb4 claim release vm-200-disk-0")
    node.tb4("claim", "release", "200")
    refused(node.tb4("volume", "import", "200", "-", input="x", check=False), 73, "holds data: --overwrite")
    node.tb4("volume", "import", "200", "-", "--overwrite", input="x")
    assert node.image().read_bytes() == b"x" + bytes(16 * MIB - 1)


@needs("strace")
@pytest.mark.parametrize("existing", [False, True], ids=["new", "blank"])
def test_source_that_cannot_be_read_to_its_end_is_undone(node, picture, existing):
    if existing:
        node.create(200, "6M")
    before = without_locks(node_tree(node))
    result = node.tb4("volume", "import", "200", picture, check=False, env={"ASAN_OPTIONS": "detect_leaks=0"},
                      wrap=["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(picture), "-e", "trace=read",
                            "-e", "inject=read:error=EIO:when=2+"])
    refused(result, 74, "picture.raw: Input/output error")
    after = without_locks(node_tree(node))
    if existing:
        after.pop(f"{node.claim_dir}/vm-200-disk-0.json")
    assert after == before


@needs("strace")
def test_failed_last_flush_fails_the_import(node, picture):
    node.create(200, "6M")
    result = node.tb4("volume", "import", "200", picture, check=False, env={"ASAN_OPTIONS": "detect_leaks=0"},
                      wrap=["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(node.image()), "-e", "trace=fsync",
                            "-e", "inject=fsync:error=EIO"])
    refused(result, 74, "the last flush failed: Input/output error")


def test_image_whose_hole_is_larger_than_memory_is_fast(node, tmp_path):
    source = tmp_path / "large"
    with open(source, "wb") as file:
        file.seek((1 << 40) - 512)
        file.write(b"the end".ljust(512, b"\0"))
    node.tb4("volume", "import", "200", source)
    with open(node.image(), "rb") as file:
        file.seek((1 << 40) - 512)
        assert file.read() == b"the end".ljust(512, b"\0")
    assert allocated(node.image()) <= 2 * MIB


def test_standard_input_that_is_a_file_is_read_from_where_it_stands(node, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"H" * 512 + random_bytes(4096))
    with open(source, "rb", buffering=0) as file:
        file.seek(512)
        result = subprocess.run(command(node, "import", "200", "-", "--size", "4608"), stdin=file, timeout=60,
                                capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert node.image().read_bytes() == random_bytes(4096) + bytes(512)


# export

@pytest.fixture
def full(node, picture):
    """A node whose vm-200-disk-0 holds the picture."""
    node.tb4("volume", "import", "200", picture)
    return node


@needs("qemu-img")
def test_export_gives_the_same_contents_and_holes(full, picture, tmp_path):
    out = tmp_path / "out.raw"
    assert full.tb4("volume", "export", "200", out) == f"copied vm-200-disk-0 (6M) to {out}\n"
    assert run("qemu-img", "compare", "-f", "raw", "-F", "raw", picture, out) == "Images are identical.\n"
    assert allocated(out) <= 3 * MIB
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out.raw")] == ["out.raw"]
    assert full.record()["released"] is True


@needs("strace")
@pytest.mark.parametrize("force", [False, True], ids=["new", "force"])
def test_name_of_an_export_is_synced_like_its_contents(full, tmp_path, force):
    out, log = tmp_path / "out.raw", tmp_path / "trace"
    if force:
        out.write_bytes(b"old")
    subprocess.run(["strace", "-f", "-qq", "-y", "-o", log, "-e", "trace=linkat,renameat2,fsync",
                    *command(full, "export", "200", out), *(["--force"] if force else [])],
                   check=True, stdout=subprocess.DEVNULL, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    behind = log.read_text().rpartition("renameat2" if force else "linkat")[2]
    assert re.search(rf"fsync\(\d+<{re.escape(str(tmp_path))}>\) += 0", behind)


def test_export_to_a_pipe_is_the_bytes_and_nothing_else(full, picture):
    for options in ([], ["--json"]):
        assert full.tb4("volume", "export", "200", "-", *options, text=False) == picture.read_bytes()


def test_export_and_import_through_a_pipe(full, picture):
    line = (f"set -e; {' '.join(command(full, 'export', '200', '-'))} | "
            f"{' '.join(command(full, 'import', '201', '-', '--size', '6M'))}")
    assert subprocess.run(["sh", "-c", line], stdout=subprocess.DEVNULL, timeout=60, check=False).returncode == 0
    assert full.image("vm-201-disk-0").read_bytes() == picture.read_bytes()


@pytest.mark.parametrize("mode", ["append to an empty file", "append", "behind a header", "over old data"])
def test_export_to_standard_output_that_is_a_file_changes_nothing_before_it(full, picture, tmp_path, mode):
    """A shell may have opened it with >>, or have written to it before, or not have emptied it."""
    out = tmp_path / "out.raw"
    old = b"" if mode == "append to an empty file" else b"h" * 1000
    out.write_bytes(old if mode != "over old data" else b"\xee" * (7 * MIB))
    flags = os.O_WRONLY | (os.O_APPEND if mode.startswith("append") else 0)
    descriptor = os.open(out, flags)
    if mode == "behind a header":
        os.lseek(descriptor, 0, os.SEEK_END)
    result = subprocess.run(command(full, "export", "200", "-"), stdout=descriptor, stderr=subprocess.PIPE,
                            timeout=60, check=False)
    os.close(descriptor)
    assert result.returncode == 0, result.stderr
    found = out.read_bytes()
    if mode == "over old data":
        assert found[:6 * MIB] == picture.read_bytes()
    else:
        assert found == old + picture.read_bytes()


def test_export_of_any_size_is_exact(node, tmp_path):
    for size in (512, MIB - 512, MIB, MIB + 512):
        node.create(300 + size % 7, str(size))
        name = f"vm-{300 + size % 7}-disk-0"
        node.image(name).write_bytes(random_bytes(size))
        out = tmp_path / name
        node.tb4("volume", "export", name, out)
        assert out.read_bytes() == random_bytes(size)


def test_export_does_not_replace_a_file_without_force(full, picture, tmp_path):
    out = tmp_path / "out.raw"
    out.write_bytes(b"mine")
    refused(full.tb4("volume", "export", "200", out, check=False), 73, "out.raw: exists already: --force replaces it")
    assert out.read_bytes() == b"mine"
    full.tb4("volume", "export", "200", out, "--force")
    assert out.read_bytes() == picture.read_bytes()


def test_export_to_a_terminal_is_refused(full):
    leader, follower = pty.openpty()
    result = subprocess.run(command(full, "export", "200", "-"), stdout=follower, stderr=subprocess.PIPE,
                            text=True, timeout=60, check=False)
    os.close(leader)
    os.close(follower)
    assert result.returncode == 64 and result.stderr == "tb4: not written to a terminal\n"


def test_export_to_a_device_writes_every_byte(full):
    full.tb4("volume", "export", "200", "/dev/null")
    refused(full.tb4("volume", "export", "200", "/dev/full", check=False), 73, "/dev/full: No space left on device")


def test_export_to_a_closed_pipe_is_an_io_error(full):
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(command(full, "export", "200", "-"), stdout=write, stderr=subprocess.PIPE, text=True,
                            timeout=60, check=False)
    os.close(write)
    assert result.returncode == 74 and result.stderr == "tb4: standard output: Broken pipe\n"
    assert full.record()["released"] is True


@pytest.mark.parametrize("path", ["none/out.raw", "picture.raw/out.raw", "."])
def test_export_to_an_impossible_place_is_named_and_not_taken_for_our_fault(full, tmp_path, path):
    before = tree(tmp_path)
    result = full.tb4("volume", "export", "200", tmp_path / path, check=False)
    assert result.returncode in (64, 66, 73), result
    assert re.fullmatch(rf"tb4: {re.escape(str(tmp_path))}\S*: .*\n", result.stderr)
    assert {name: entry for name, entry in tree(tmp_path).items() if "claims" not in name} == {
        name: entry for name, entry in before.items() if "claims" not in name}


def test_export_leaves_somebody_elses_partial_file_alone(full, tmp_path):
    mine = tmp_path / "out.raw.partial"
    mine.write_bytes(b"mine")
    full.tb4("volume", "export", "200", tmp_path / "out.raw", check=False)
    assert mine.read_bytes() == b"mine"


@needs("strace")
def test_two_exports_to_one_file_do_not_mix(node, tmp_path):
    """The second begins while the first is in the middle. Each is complete or refused."""
    node.create(201, "4M")
    node.image("vm-201-disk-0").write_bytes(b"b" * (4 * MIB))
    out = tmp_path / "out.raw"
    first, _ = export_in_slow_motion(node, out)
    second = node.tb4("volume", "export", "201", out, check=False).returncode
    first.communicate(timeout=60)
    assert sorted((second, first.returncode)) == [0, 73]
    assert out.read_bytes() in (random_bytes(32 * MIB), b"b" * (4 * MIB))


def slow_export(node, *arguments, **options):
    """An export into a pipe that nobody reads: it is in the middle until told otherwise."""
    process = subprocess.Popen(command(node, "export", "200", *arguments), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, **options)
    assert select.select([process.stdout], [], [], 60)[0]
    return process


def test_interrupted_export_to_a_pipe_ends_and_releases_the_claim(full):
    process = slow_export(full, "-")
    assert full.record()["released"] is False
    process.send_signal(signal.SIGINT)
    process.wait(60)
    err = process.communicate()[1]
    assert process.returncode == 130 and err == b"tb4: interrupted\n"
    assert full.record()["released"] is True


def test_interrupted_export_of_zeros_ends_at_once(node, tmp_path):
    node.tb4("volume", "create", "200", "8T", check=False)
    process = subprocess.Popen(command(node, "export", "200", tmp_path / "out.raw"), stderr=subprocess.PIPE)
    wait_until(lambda: not node.record()["released"] if node.record() else False, "the export to begin")
    process.send_signal(signal.SIGINT)
    try:
        err = process.communicate(timeout=15)[1]
    finally:
        process.kill()
    assert process.returncode == 130 and err == b"tb4: interrupted\n"
    assert [path for path in tmp_path.iterdir() if path.name.startswith("out.raw")] == []


def traced(strace, name):
    """The process of this name that strace runs, not one of its own trials before; None if there is none yet."""
    with open(f"/proc/{strace.pid}/task/{strace.pid}/children", encoding="ascii") as children:
        for pid in children.read().split():
            try:
                with open(f"/proc/{pid}/comm", encoding="ascii") as comm:
                    if comm.read().strip() == name:
                        return int(pid)
            except FileNotFoundError:
                pass
    return None


def export_in_slow_motion(node, out):
    """An export to a file that is in the middle: (strace, pid of tb4)."""
    node.create(200, "32M")
    node.image().write_bytes(random_bytes(32 * MIB))
    slow = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_enter", "-e",
            "inject=io_uring_enter:delay_enter=50000"]
    process = subprocess.Popen([*slow, *command(node, "export", "200", out)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    wait_until(lambda: traced(process, "tb4"), "tb4")
    pid = traced(process, "tb4")
    wait_until(lambda: int(re.search(r"wchar: (\d+)", open(f"/proc/{pid}/io", encoding="ascii").read())[1]) > MIB,
               "1 MiB to be written")
    return process, pid


@needs("strace")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_export_that_ends_in_the_middle_leaves_no_half_file_under_the_final_name(node, tmp_path, number):
    out = tmp_path / "out.raw"
    process, pid = export_in_slow_motion(node, out)
    os.kill(pid, number)
    err = process.communicate(timeout=60)[1]
    assert not out.exists()
    if number == signal.SIGKILL:
        node.tb4("claim", "release", "200")
    else:
        assert process.returncode == 130 and err == b"tb4: interrupted\n"
        assert [path for path in tmp_path.iterdir() if path.name.startswith("out.raw")] == []
        assert node.record()["released"] is True
    node.tb4("volume", "export", "200", out)
    assert out.read_bytes() == random_bytes(32 * MIB)


@pytest.mark.parametrize("force", [False, True], ids=["new", "force"])
def test_export_to_a_full_disk_leaves_nothing_and_replaces_nothing(full, small_disk, force):
    out = small_disk / "out.raw"
    if force:
        out.write_bytes(b"mine")
    refused(full.tb4("volume", "export", "200", out, *(["--force"] if force else []), check=False), 73,
            "No space left on device")
    assert [path.name for path in small_disk.iterdir()] == (["out.raw"] if force else [])
    assert not force or out.read_bytes() == b"mine"
    assert full.record()["released"] is True


@needs("strace")
def test_file_that_appears_meanwhile_is_not_replaced(node, tmp_path):
    out = tmp_path / "out.raw"
    process, _ = export_in_slow_motion(node, out)
    out.write_bytes(b"mine")
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 73 and b"File exists" in err
    assert out.read_bytes() == b"mine"


def test_export_of_a_running_vms_volume_says_how(full):
    gateway = full.start()
    line = refused(full.tb4("volume", "export", "200", "/dev/null", check=False), 75, "in use by tb4-gateway")
    assert f"nbdcopy 'nbd+unix:///vm-200-disk-0?socket={gateway.socket}' FILE" in line
    gateway.kill()
    line = refused(full.tb4("volume", "export", "200", "/dev/null", check=False), 75, "did not stop in order")
    assert "nbdcopy" not in line


def test_export_of_a_read_only_volume_works(full, picture, tmp_path):
    path = full.volume_dir / "vm-200-disk-0.conf"
    path.write_text(path.read_text().replace("host = node-a\n", "host = node-a\nread_only = yes\n"))
    full.tb4("volume", "export", "200", tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == picture.read_bytes()


def test_import_into_a_read_only_volume_is_refused_and_changes_nothing(full, picture):
    path = full.volume_dir / "vm-200-disk-0.conf"
    path.write_text(path.read_text().replace("host = node-a\n", "host = node-a\nread_only = yes\n"))
    result = full.tb4("volume", "import", "200", "-", "--overwrite", input="x", check=False)
    line = refused(result, result.returncode, "read.only")
    assert result.returncode in (73, 77), line
    assert full.image().read_bytes() == picture.read_bytes()


# progress

def watch(process, descriptor, timeout=60):
    """All that a process writes to a descriptor until it ends."""
    shown = b""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if not select.select([descriptor], [], [], 0.1)[0]:
            if process.poll() is not None:
                return shown
            continue
        try:
            part = os.read(descriptor, 4096)
        except OSError:
            return shown
        if not part:
            return shown
        shown += part
    raise AssertionError("it does not end")


def drip(process, data, pause=0.03):
    """Feeds a process slowly, over about a second."""
    step = max(len(data) // 40, 1)
    for at in range(0, len(data), step):
        process.stdin.write(data[at:at + step])
        process.stdin.flush()
        time.sleep(pause)
    process.stdin.close()


def test_progress_is_shown_on_a_terminal_and_taken_away_again(node):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, b"\x18\0\x50\0\0\0\0\0")
    process = subprocess.Popen(command(node, "import", "200", "-", "--size", "64M"), stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=follower)
    os.close(follower)
    drip(process, random_bytes(60 * MIB))
    shown = watch(process, leader).decode()
    assert process.wait(60) == 0
    os.close(leader)
    assert re.search(r"\r\x1b\[Kimport: [0-9.]+ [KM]iB, [0-9.]+ [KMG]iB/s", shown), shown
    assert shown.endswith("\r\x1b[K") and "\n" not in shown


def test_progress_of_a_known_size_has_percent_and_time_left(node):
    node.create(200, "64M")
    node.image().write_bytes(random_bytes(64 * MIB))
    leader, follower = pty.openpty()
    read, write = os.pipe()
    process = subprocess.Popen(command(node, "export", "200", f"/dev/fd/{write}"), stdout=subprocess.DEVNULL,
                               stderr=follower, pass_fds=[write])
    os.close(follower)
    os.close(write)
    taken = 0
    while True:  # 64 MiB at about 40 MiB/s
        part = os.read(read, 1 << 16)
        if not part:
            break
        taken += len(part)
        time.sleep(0.0015)
    shown = watch(process, leader).decode()
    assert process.wait(60) == 0 and taken == 64 * MIB
    os.close(leader)
    os.close(read)
    assert re.search(r"export: [0-9.]+ MiB of 64 MiB \(\d+ %\), [0-9.]+ [KMG]iB/s, \d+:\d\d left", shown), shown


def test_progress_is_not_shown_on_a_pipe(node):
    process = subprocess.Popen(command(node, "import", "200", "-", "--size", "64M"), stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    drip(process, random_bytes(60 * MIB))
    assert process.stderr.read() == b"" and process.wait(60) == 0
    process.stderr.close()


def test_interrupted_import_on_a_terminal_ends_its_progress_line(node):
    leader, follower = pty.openpty()
    process = subprocess.Popen(command(node, "import", "200", "-", "--size", "64M"), stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=follower)
    os.close(follower)
    data = random_bytes(2 * MIB)
    shown = b""
    deadline = time.monotonic() + 60
    while b"import:" not in shown:
        assert time.monotonic() < deadline
        process.stdin.write(data)
        process.stdin.flush()
        while select.select([leader], [], [], 0.1)[0]:
            shown += os.read(leader, 4096)
    process.send_signal(signal.SIGINT)
    shown += watch(process, leader)
    assert process.wait(60) == 130
    os.close(leader)
    process.stdin.close()
    assert shown.decode().endswith("\r\x1b[Ktb4: interrupted\r\n")


# qcow2

def make_qcow2(path, size, *options):
    run("qemu-img", "create", "-q", "-f", "qcow2", *options, path, size)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 3M", "-c", f"write -P 9 {size - 4096} 4k", "-c", "write -z 2M 64k", path)
    return path


@pytest.mark.parametrize("options", [[], ["-o", "compat=0.10"], ["-o", "cluster_size=2M"]], ids=["new", "old", "clusters"])
def test_qcow2_is_imported_as_what_it_holds(node, tmp_path, options):
    size = 24 << 20
    image = make_qcow2(tmp_path / "-image.qcow2", size, *options)
    assert "filled vm-200-disk-0 (24M)" in node.tb4("volume", "import", "200", image)
    assert "Images are identical" in run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, node.image())
    assert node.image().stat().st_blocks * 512 < 8 << 20


def test_compressed_qcow2_into_a_larger_volume(node, tmp_path):
    image = make_qcow2(tmp_path / "image.qcow2", 8 << 20)
    run("qemu-img", "convert", "-c", "-O", "qcow2", image, tmp_path / "small.qcow2")
    node.create(200, "16M")
    node.tb4("volume", "import", "200", tmp_path / "small.qcow2")
    run("qemu-img", "convert", "-O", "raw", image, tmp_path / "raw")
    assert node.image().read_bytes() == (tmp_path / "raw").read_bytes() + bytes(8 << 20)


def test_qcow2_that_names_other_files_is_refused(node, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * (1 << 20))
    backed = tmp_path / "backed.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", backed)
    result = node.tb4("volume", "import", "200", backed, check=False)
    assert result.returncode == 64 and "has a backing file" in result.stderr
    outside = tmp_path / "outside.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", outside, "1M")
    result = node.tb4("volume", "import", "200", outside, check=False)
    assert result.returncode == 64 and "has its data in another file" in result.stderr
    assert not node.volume_dir.exists() or not list(node.volume_dir.glob("*.conf"))


def test_damaged_qcow2_is_refused(node, tmp_path):
    short = tmp_path / "short.qcow2"
    short.write_bytes(b"QFI\xfb\0\0\0\3")
    result = node.tb4("volume", "import", "200", short, check=False)
    assert result.returncode == 65 and "cut short in its qcow2 header" in result.stderr
    wrong = tmp_path / "wrong.qcow2"
    wrong.write_bytes(b"QFI\xfb\0\0\0\3" + bytes(5000))
    result = node.tb4("volume", "import", "200", wrong, check=False)
    assert result.returncode == 65 and "that qemu-nbd does not open" in result.stderr
    result = node.tb4("volume", "import", "200", wrong, check=False, env={"PATH": "/nowhere"})
    assert result.returncode == 65 and "that qemu-nbd does not open" in result.stderr
    assert not node.volume_dir.exists() or not list(node.volume_dir.glob("*.conf"))


def test_options_of_new_volumes_are_refused_for_one_that_exists(node, tmp_path):
    image = make_qcow2(tmp_path / "image.qcow2", 8 << 20)
    node.create(200, "16M")
    for option in (["--size", "16M"], ["--backend", "file"], ["--encrypt"], ["--allow-single-sled"], ["--key-file", "/k"]):
        result = node.tb4("volume", "import", "200", image, *option, check=False)
        assert result.returncode == 73 and f"{option[0]} is for new ones" in result.stderr
