"""A volume on three downstairs for one test, ours or upstream's, and upstairs-io as its client."""
import re
import shutil
import signal
import subprocess

import pytest

from .downstairs import OWN, UPSTREAM, UPSTREAM_MISSING, OwnDownstairs, UpstreamDownstairs
from .node import TOOLS, run, wait_until

UPSTAIRS_IO = TOOLS / "upstairs-io"
KINDS = {"own": OwnDownstairs, "upstream": UpstreamDownstairs}
BLOCK = 4096
EXTENTS = 64  # of a volume of 64 MiB
MIB = 1 << 20
KEY = bytes(range(32))
UPSTREAM_PARAM = pytest.param("upstream", marks=pytest.mark.skipif(not UPSTREAM, reason=UPSTREAM_MISSING))
both = pytest.mark.parametrize("kind", ["own", UPSTREAM_PARAM])
QUICK = ["--wait-for-named", "1000"]  # a slot that does not listen does not come
WRONG = 3  # exit status of upstairs-io: something was read that must not be


class Client:
    """A running upstairs-io."""

    def __init__(self, command, log_path, **options):
        self.log_path = log_path
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True,
                                            **{"stdin": subprocess.DEVNULL, **options})

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, pattern, timeout=30, count=1):
        """Until so many lines match, or AssertionError as soon as the client has ended."""
        def has_come():
            is_over = self.process.poll() is not None
            found = re.findall(pattern, self.log)
            assert len(found) >= count or not is_over, f"it ended: {self.log[-2000:]}"
            return len(found) >= count
        wait_until(has_come, f"{count} of {pattern!r} in {self.log_path}", timeout)
        return self

    def wait_until_serving(self):
        return self.wait_for_log("serving")

    def is_running(self):
        return self.process.poll() is None

    def stop(self):
        """The load of `check` ends, everything is read back."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def end(self, timeout=100):
        """(exit status, standard output, log)"""
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output, self.log

    def expect_good(self, timeout=100):
        status, output, log = self.end(timeout)
        assert status == 0, (status, output, log[-3000:])
        return output

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def memory(self):
        """Bytes of memory that are its own."""
        with open(f"/proc/{self.process.pid}/smaps_rollup", encoding="ascii") as lines:
            return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


def assert_equal_by_upstream(directories, extents):
    """Upstream's tools find three equal, clean regions, and each valid."""
    dump = run(UPSTREAM, "dump", *[word for directory in directories for word in ("-d", directory)])
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", line).split() for line in dump.splitlines()]
    rows = [row for row in rows if len(row) >= 11 and row[0].isdigit()]
    assert len(rows) == extents, dump
    for row in rows:
        assert len(set(row[2:5])) == 1 and len(set(row[5:8])) == 1 and row[8:11] == ["F", "F", "F"], row
    for directory in directories:
        run(UPSTREAM, "verify", "-d", directory)


class Volume:
    """Three regions and the processes that serve them. `targets` are where a client connects, and may be relays."""

    def __init__(self, directory, kind, extents=16, extent_size=256, key=None, start=True):
        self.directory, self.kind, self.key, self.generation = directory, kind, key, 0
        self.extents, self.extent_size = extents, extent_size
        self.clients, self.started = [], 0
        self.sleds = [KINDS[kind](directory / f"region-{i}", block_size=BLOCK, extent_size=extent_size,
                                  extent_count=extents, encrypted=bool(key)) for i in range(3)]
        self.targets = [sled.address for sled in self.sleds]
        self.options = QUICK
        if key:
            (directory / "key").write_bytes(key)
            (directory / "key").chmod(0o600)  # the gateway insists
        for sled in self.sleds if start else []:
            sled.start()

    @property
    def size(self):
        return self.extents * self.extent_size * BLOCK

    @property
    def target_options(self):
        return [word for host, port in self.targets for word in ("--target", f"{host}:{port}")]

    @property
    def record_path(self):
        return self.directory / "record"

    def record(self):
        """(released, stamped, [in sync])"""
        words = self.record_path.read_text().split()
        return words[0] == "1", int(words[1]), [word == "1" for word in words[2:5]]

    def in_sync(self):
        return self.record()[2] if self.record_path.exists() else None

    # clients

    def command(self, *words, generation=None, record=None):
        """Of a start under the next generation."""
        if generation is None:
            self.generation += 1
            generation = self.generation
        return [str(word) for word in (
            UPSTAIRS_IO, *self.target_options, "--generation", generation, "--record", record or self.record_path,
            *(["--key", self.directory / "key"] if self.key else []), *self.options, *words)]

    def io(self, *words, check=True, timeout=100, **options):
        """Runs to the end; with check, it must succeed."""
        result = subprocess.run(self.command(*words, **options), capture_output=True, text=True, timeout=timeout,
                                check=False)
        assert not check or result.returncode == 0, (words, result.returncode, result.stdout, result.stderr[-3000:])
        return result

    def spawn(self, *words, generation=None, record=None, **options):
        self.started += 1
        log = self.directory / f"client-{self.started}.log"
        self.clients.append(Client(self.command(*words, generation=generation, record=record), log, **options))
        return self.clients[-1]

    def check_command(self, seconds, seed=1, depth=8):
        return "check", self.directory / "blocks", seed, depth, seconds

    def load(self, seconds=600, seed=1, depth=8, **options):
        """A load that is checked, until Client.stop()."""
        return self.spawn(*self.check_command(seconds, seed, depth), **options).wait_until_serving()

    def check(self, seconds=0, seed=1, depth=8, **options):
        """Loads, and reads every block back."""
        return self.io(*self.check_command(seconds, seed, depth), **options)

    # states

    def wait_for_in_sync(self, *wanted, timeout=60):
        wait_until(lambda: self.in_sync() == [bool(flag) for flag in wanted], f"in sync: {wanted}", timeout)

    def make_whole(self):
        """All three slots are active, then everything is released."""
        self.io("wait")
        assert self.record()[0] and self.in_sync() == [True] * 3

    def close(self):
        for client in self.clients:
            if client.is_running():
                client.kill()
        for sled in self.sleds:
            sled.close()

    def assert_alive(self):
        assert all(sled.is_running() for sled in self.sleds), "a downstairs has ended"

    def dump(self):
        """Of the regions, whose processes must not run: our tool's lines, one for each extent and a last one."""
        directories = [word for sled in self.sleds for word in ("--dir", sled.directory)]
        return run(OWN, "dump", "--data", *directories, check=False).stdout

    def assert_equal(self):
        """Three copies: their data are equal as they are, if all are in sync; and after an orderly start and end so is
        everything else, and clean and valid, as the tools of both projects find. Stops the downstairs."""
        self.assert_alive()
        if self.in_sync() == [True] * 3:
            for sled in self.sleds:
                sled.kill()
            assert " block " not in self.dump(), self.dump()
            for sled in self.sleds:
                sled.start()
        self.make_whole()
        self.assert_alive()
        for sled in self.sleds:
            sled.kill()
        dump = self.dump()
        assert f"{self.extents} extents, 0 differ" in dump and "dirty" not in dump, dump
        for sled in self.sleds:
            run(OWN, "verify", "--dir", sled.directory)
        if UPSTREAM:
            self._ask_upstreams_tools()

    def _ask_upstreams_tools(self):
        assert_equal_by_upstream([sled.directory for sled in self.sleds], self.extents)
        raw = shutil.which("crucible-verify-raw")
        for sled in self.sleds:
            for extent in range(self.extents) if raw else []:
                run(raw, sled.extent_path(extent))

