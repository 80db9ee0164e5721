"""libupstairs, by tests/tools/upstairs-io, on three real crucible-downstairs."""
import contextlib
import random
import resource
import shutil
import socket
import subprocess
import uuid

import pytest

from support import upstream
from support.downstairs import free_port
from support.node import TOOLS, run, wait_until
from support.volume import assert_equal_by_upstream

pytestmark = pytest.mark.skipif(not shutil.which("crucible-downstairs"),
                                reason="not installed: crucible-downstairs (build it from its own repository)")
MIB = 1 << 20


class Region:
    """One region and the program that serves it."""

    def __init__(self, directory, extents, encrypted=False):
        self.directory, self.port, self.process = directory, free_port(), None
        run("crucible-downstairs", "create", "-d", directory, "-u", uuid.uuid4(), "--block-size", 4096,
            "--extent-size", 256, "--extent-count", extents, *(["--encrypted"] if encrypted else []))

    def start(self):
        def limit():  # a downstairs that meets an error grows without end
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        with open(f"{self.directory}.log", "ab") as log:
            self.process = subprocess.Popen(
                ["crucible-downstairs", "run", "-p", str(self.port), "-d", self.directory, "-a", "127.0.0.1"],
                stdout=log, stderr=log, preexec_fn=limit)
        wait_until(self.answers, "the downstairs listens")

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        self.process.kill()
        self.process.wait()


class Volume:
    def __init__(self, directory, extents=16, key=None):
        self.directory, self.generation, self.key = directory, 0, key
        self.regions = [Region(str(directory / f"region-{i}"), extents, bool(key)) for i in range(3)]
        if key:
            (directory / "key").write_bytes(key)
        for region in self.regions:
            region.start()

    def command(self, *words):
        self.generation += 1
        targets = [word for region in self.regions for word in ("--target", f"127.0.0.1:{region.port}")]
        return [str(TOOLS / "upstairs-io"), *targets, "--generation", str(self.generation),
                "--record", str(self.directory / "record"),
                *(["--key", str(self.directory / "key")] if self.key else []), *map(str, words)]

    def io(self, *words, check=True):
        result = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60, check=False)
        if check:
            assert result.returncode == 0, result
        return result

    def record(self):
        return (self.directory / "record").read_text().split()

    def close(self):
        for region in self.regions:
            region.kill()

    def assert_equal(self):
        self.close()
        assert_equal_by_upstream([region.directory for region in self.regions], 16)


@pytest.fixture
def volume(tmp_path):
    made = Volume(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=[None, bytes(range(32))], ids=["plain", "encrypted"])
def either(tmp_path, request):
    """A volume, with encryption and without."""
    made = Volume(tmp_path, key=request.param)
    yield made
    made.close()


@contextlib.contextmanager
def upstream_server(volume):
    """The NBD server of the real project on the same regions."""
    volume.generation += 1
    with open(volume.directory / "server.log", "wb") as log:
        process = upstream.start([region.port for region in volume.regions], volume.generation, volume.key, log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def alone():
    if not shutil.which("crucible-nbd-server"):
        pytest.skip("not installed: crucible-nbd-server")
    with upstream.alone():
        yield


def test_what_was_written_is_read_by_the_next_start(either):
    either.io("fill", 7, 8 * MIB)
    either.io("verify", 7, 8 * MIB)
    either.io("fill", 8, 4 * MIB)
    either.io("verify", 8, 4 * MIB)
    either.assert_equal()


def test_upstream_reads_what_we_wrote(either, alone, tmp_path):
    either.io("fill", 9, 16 * MIB)
    ours = subprocess.run(either.command("read", 0, 16 * MIB), capture_output=True, timeout=60, check=True).stdout
    with upstream_server(either):
        run("nbdcopy", "--connections=1", "--requests=1", upstream.URI, tmp_path / "theirs")
    assert (tmp_path / "theirs").read_bytes() == ours


def test_we_read_what_upstream_wrote(either, alone, tmp_path):
    picture = random.Random(4).randbytes(16 * MIB)
    (tmp_path / "picture").write_bytes(picture)
    with upstream_server(either):
        run("nbdcopy", "--connections=1", "--requests=1", "--flush", tmp_path / "picture", upstream.URI)
    # the record of these regions: their server has flushed all of it on all three
    ours = subprocess.run(either.command("read", 0, 16 * MIB), capture_output=True, timeout=60, check=True).stdout
    assert ours == picture


def test_wrong_key_is_refused(tmp_path):
    volume = Volume(tmp_path, key=bytes(32))
    try:
        volume.io("fill", 3, MIB)
        (tmp_path / "key").write_bytes(bytes(31) + b"x")
        result = volume.io("verify", 3, MIB, check=False)
        assert result.returncode == 1 and "the key is another one" in result.stderr
    finally:
        volume.close()


def test_never_written_blocks_are_zeros(either):
    either.io("fill", 1, MIB)
    command = either.command("read", 2 * MIB, 65536)
    assert subprocess.run(command, capture_output=True, timeout=60, check=True).stdout == bytes(65536)


def test_first_start_writes_the_record_and_needs_all_three(volume):
    volume.regions[1].kill()
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(volume.command("status"), capture_output=True, timeout=5, check=True)
    volume.regions[1].start()
    assert volume.io("status").stdout.count("active") == 3
    released, stamped, *in_sync = volume.record()[:5]
    assert (released, in_sync) == ("1", ["1", "1", "1"]) and int(stamped) == volume.generation


def test_two_of_three_are_enough_for_a_later_start(volume):
    volume.io("fill", 3, 2 * MIB)
    volume.regions[0].kill()
    assert volume.io("verify", 3, 2 * MIB).returncode == 0
    assert volume.record()[2:5] == ["0", "1", "1"]


def test_slot_that_was_away_is_copied_while_requests_go_on(volume):
    volume.io("fill", 3, 6 * MIB)
    volume.regions[2].kill()
    volume.io("fill", 4, 5 * MIB)
    assert volume.record()[2:5] == ["1", "1", "0"]
    volume.regions[2].start()
    assert "is copied from slot 1" in volume.io("wait").stderr
    assert volume.record()[2:5] == ["1", "1", "1"]
    volume.regions[0].kill()  # the copy must be good enough to be read
    volume.io("verify", 4, 5 * MIB)
    volume.regions[0].start()
    volume.io("wait")
    volume.assert_equal()


def test_generation_that_is_too_low_is_fenced(volume):
    volume.generation = 10
    volume.io("fill", 3, MIB)
    volume.generation = 4
    result = volume.io("verify", 3, MIB, check=False)
    assert result.returncode == 1 and "shows generation 11, ours is 5" in result.stderr


def test_slot_that_is_killed_under_load_leaves_and_what_was_written_is_there(volume):
    writer = subprocess.Popen(volume.command("fill", 5, 16 * MIB), stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (volume.directory / "record").exists(), "the volume to be active")
    volume.regions[2].kill()
    assert "done" in writer.communicate(timeout=60)[1] and writer.returncode == 0
    volume.io("verify", 5, 16 * MIB)


def test_region_of_another_volume_is_refused(volume, tmp_path):
    volume.io("fill", 3, MIB)
    volume.regions[1].kill()
    other = Region(str(tmp_path / "other"), 16)
    other.port = volume.regions[1].port
    volume.regions[1] = other
    other.start()
    result = volume.io("verify", 3, MIB)
    assert "another region than the one that belongs to this slot" in result.stderr
