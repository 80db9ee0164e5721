"""Holes, zeros, reads, healing, replacement and status of libupstairs, by upstairs-io, on three real downstairs."""
import os
import pathlib
import re
import signal
import subprocess

from support.node import run
from test_upstairs import MIB, Region, Volume, either, pytestmark, volume  # noqa: F401: fixtures

BLOCK, EXTENT = 4096, 256 * 4096


def extent_file(region, extent):
    return next(path for path in pathlib.Path(region.directory).rglob(f"{extent:03X}") if path.is_file())


def rot(region, extent):
    """A bit of each block of the extent is another one."""
    with open(extent_file(region, extent), "r+b") as file:
        for block in range(256):
            file.seek(block * BLOCK + 77)
            byte = file.read(1)[0]
            file.seek(block * BLOCK + 77)
            file.write(bytes([byte ^ 4]))


def is_valid(region):
    return subprocess.run(["crucible-downstairs", "verify", "-d", region.directory],
                          capture_output=True, check=False).returncode == 0


def slots(output):
    """What the status says of each slot."""
    return [[line for line in output.splitlines() if line.startswith(f"slot {i}: ")] for i in range(3)]


def test_map_shows_holes_without_reading(either):
    fresh = either.io("map").stdout
    assert fresh == f"0 {BLOCK} data\n{BLOCK} {16 * MIB - BLOCK} hole\n"
    either.io("fill", 4, 2 * MIB)
    assert either.io("map").stdout == f"0 {2 * MIB} data\n{2 * MIB} {14 * MIB} hole\n"
    # a write into an extent hides what is empty beside it, until it is read
    subprocess.run(either.command("write", 5 * MIB), input=b"x" * BLOCK, check=True, timeout=60, capture_output=True)
    assert f"{5 * MIB} {MIB} data\n" in either.io("map").stdout
    read = subprocess.run(either.command("read", 5 * MIB, MIB, "then", "map"), capture_output=True, timeout=60, check=True)
    assert read.stdout[:MIB] == b"x" * BLOCK + bytes(MIB - BLOCK)
    assert read.stdout[MIB:].decode() == (f"0 {2 * MIB} data\n{2 * MIB} {3 * MIB} hole\n{5 * MIB} {BLOCK} data\n"
                                          f"{5 * MIB + BLOCK} {11 * MIB - BLOCK} hole\n")


def test_zeros_are_written_only_where_something_was(either):
    either.io("fill", 4, 2 * MIB)
    done = either.io("zero", MIB, 10 * MIB, "then", "map", "then", "verify", 4, MIB)
    assert done.stdout == f"0 {2 * MIB} data\n{2 * MIB} {14 * MIB} hole\n"
    for start, length in ((MIB, MIB), (2 * MIB, 14 * MIB)):
        assert subprocess.run(either.command("read", start, length), capture_output=True, timeout=60,
                              check=True).stdout == bytes(length)
    either.io("zero", 8 * MIB, MIB, "no-hole", "then", "flush")
    assert f"{8 * MIB} {MIB} data\n" in either.io("map").stdout
    either.assert_equal()


def test_fast_zero_is_refused_where_it_would_not_be_fast(volume):
    volume.io("fill", 4, 2 * MIB)
    assert volume.io("zero", 3 * MIB, 5 * MIB, "fast").returncode == 0
    refused = volume.io("zero", MIB, 5 * MIB, "fast", check=False)
    assert refused.returncode == 1 and "Operation not supported" in refused.stderr
    volume.io("verify", 4, 2 * MIB)


def test_zeros_are_mended_like_any_write(volume):
    """The process is killed with zeros that are not flushed."""
    volume.io("fill", 4, 8 * MIB)
    zeroing = subprocess.Popen(volume.command("zero", 0, 8 * MIB, "then", "map", "then", "idle", 60),
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert zeroing.stdout.readline()  # the zeros are acknowledged
    finally:
        zeroing.kill()
        zeroing.wait()
    assert subprocess.run(volume.command("read", 0, 8 * MIB), capture_output=True, timeout=60,
                          check=True).stdout == bytes(8 * MIB)
    volume.assert_equal()


def test_rot_of_one_copy_is_healed_by_reading(either):
    either.io("fill", 4, 8 * MIB)
    for region in either.regions:
        region.kill()
    for extent in range(4):
        rot(either.regions[1], extent)
    assert not is_valid(either.regions[1])
    for region in either.regions:
        region.start()
    healed = 0
    for _ in range(20):
        # reads in order go to much the same slots each time, random ones do not
        result = either.io("verify", 4, 8 * MIB, "then", "bench", "read", 4, 1, 16 * BLOCK, "then", "status")
        healed += result.stderr.count("is healed by the copy of slot")
        assert "slot 1: " in result.stdout and "0 blocks damaged and 0 healed" in slots(result.stdout)[0][0]
        either.regions[1].kill()
        if is_valid(either.regions[1]):
            break
        either.regions[1].start()
    assert is_valid(either.regions[1])
    assert healed >= 4 * 256 - 1  # the fence writes a block of extent 0 anyway
    either.assert_equal()


def test_rot_of_all_copies_fails_the_read_and_says_so(volume):
    volume.io("fill", 4, 8 * MIB)
    for region in volume.regions:
        region.kill()
        rot(region, 2)
        region.start()
    result = volume.io("verify", 4, 8 * MIB, check=False)
    assert result.returncode == 1 and "Input/output error" in result.stderr and "damaged" in result.stderr
    volume.io("verify", 4, 2 * MIB)


def test_a_stopped_downstairs_holds_up_neither_reads_nor_writes(volume):
    volume.io("fill", 4, 8 * MIB)
    volume.regions[0].process.send_signal(signal.SIGSTOP)
    try:
        output = volume.io("verify", 4, 8 * MIB).stderr
        assert "done" in output
    finally:
        volume.regions[0].process.send_signal(signal.SIGCONT)
    reader = subprocess.Popen(volume.command("bench", "read", 4, 4, BLOCK, "then", "status"), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
    for line in reader.stderr:
        if "active after" in line:
            break
    volume.regions[1].process.send_signal(signal.SIGSTOP)
    try:
        output, errors = reader.communicate(timeout=60)
    finally:
        volume.regions[1].process.send_signal(signal.SIGCONT)
    assert reader.returncode == 0, errors
    assert int(re.search(r"(\d+) reads sent twice", output)[1]) > 0


def test_slot_is_replaced_by_an_empty_region_and_by_no_other(volume, tmp_path):
    volume.io("fill", 4, 8 * MIB)
    used, empty = Region(str(tmp_path / "used"), 16), Region(str(tmp_path / "empty"), 16)
    other = Volume.__new__(Volume)  # what belongs to somebody else
    other.directory, other.generation, other.key = tmp_path / "other", 500, None
    other.directory.mkdir()
    other.regions = [used, Region(str(tmp_path / "other-1"), 16), Region(str(tmp_path / "other-2"), 16)]
    for region in [*other.regions, empty]:
        region.start()
    try:
        other.io("fill", 9, MIB)
        output = volume.io("replace", 1, f"127.0.0.1:{used.port}", "then", "idle", 2, "then", "status").stdout
        assert "not empty" in slots(output)[1][1]
        assert other.io("verify", 9, MIB).returncode == 0
        volume.regions[1].kill()
        volume.regions[1] = empty
        output = volume.io("wait", "then", "status").stdout
        assert all("active, in sync" in slot[0] for slot in slots(output))
        volume.io("verify", 4, 8 * MIB)
        volume.assert_equal()
    finally:
        other.close()
        empty.kill()


def test_slot_is_replaced_while_requests_go_on(either, tmp_path):
    either.io("fill", 4, 8 * MIB)
    fresh = Region(str(tmp_path / "fresh"), 16, bool(either.key))
    fresh.start()
    output = either.io("replace", 2, f"127.0.0.1:{fresh.port}", "then", "fill", 5, 12 * MIB, "then", "wait",
                       "then", "status").stdout
    assert all("active, in sync" in slot[0] for slot in slots(output))
    either.regions[2].kill()
    either.regions[2] = fresh
    either.io("verify", 5, 12 * MIB)
    either.assert_equal()


def test_status_names_what_is_wrong(volume, tmp_path):
    volume.io("fill", 4, 2 * MIB)
    # gone
    volume.regions[0].kill()
    lines = slots(volume.io("idle", 1, "then", "status").stdout)[0]
    assert "absent" in lines[0] and "unreachable: start the downstairs" in lines[1]
    volume.regions[0].start()
    # wiped: the same UUID, nothing in it
    volume.io("wait")
    region = volume.regions[1]
    region.kill()
    identity = re.search(r'"uuid":\s*"([0-9a-f-]+)"', (pathlib.Path(region.directory) / "region.json").read_text())[1]
    os.rename(region.directory, str(tmp_path / "away"))
    run("crucible-downstairs", "create", "-d", region.directory, "-u", identity, "--block-size", BLOCK,
        "--extent-size", 256, "--extent-count", 16)
    region.start()
    result = volume.io("wait", "then", "verify", 4, 2 * MIB, "then", "status")
    assert all("active, in sync" in slot[0] for slot in slots(result.stdout))
    assert "is older than the record says" in slots(result.stdout)[1][0]
    # another region altogether
    volume.regions[2].kill()
    wrong = Region(str(tmp_path / "wrong"), 16)
    wrong.port = volume.regions[2].port
    right, volume.regions[2] = volume.regions[2], wrong
    wrong.start()
    lines = slots(volume.io("idle", 1, "then", "status").stdout)[2]
    assert "failed" in lines[0] and "wrong region: start the downstairs of the right region" in lines[1]
    wrong.kill()
    volume.regions[2] = right
    right.start()
    volume.io("wait")
    volume.assert_equal()


def test_a_downstairs_that_does_not_answer_is_named(volume):
    """As one that spins on an error: it accepts connections and does nothing."""
    volume.io("fill", 4, 2 * MIB)
    volume.regions[2].process.send_signal(signal.SIGSTOP)
    try:
        lines = slots(volume.io("idle", 6, "then", "fill", 5, 2 * MIB, "then", "status").stdout)[2]
        assert "connecting" in lines[0] and "mute: it accepts connections and does not answer" in lines[1]
    finally:
        volume.regions[2].process.send_signal(signal.SIGCONT)
    volume.io("wait", "then", "verify", 5, 2 * MIB)
    volume.assert_equal()
