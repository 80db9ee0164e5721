"""Downstairs processes for tests: our tb4-test-downstairs, and upstream's if it is installed.

Both lay out a directory alike and behave alike, so one test can run against either. Upstream's is
looked for in CRUCIBLE_DOWNSTAIRS, then on the PATH.
"""
import http.client
import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import time
import uuid

from .crucible import Upstairs, wait_for_port
from .node import BUILD, wait_until
from .ports import is_free, take_port

OWN = BUILD / "tests" / "downstairs" / "tb4-test-downstairs"
UPSTREAM = os.environ.get("CRUCIBLE_DOWNSTAIRS") or shutil.which("crucible-downstairs")
UPSTREAM_MISSING = "upstream's crucible-downstairs is neither on the PATH nor named by CRUCIBLE_DOWNSTAIRS"
REPAIR_PORT_OFFSET = 4000
BLOCK = 512
MEMORY_LIMIT = 8000000 << 10  # a wedged upstream downstairs would take all there is


def fill(value, blocks=1):
    """The data of so many blocks of the default size, each full of a value of its own."""
    return b"".join(bytes([value + i]) * BLOCK for i in range(blocks))


def free_port():
    """One whose repair port is free too. Below the ports that the kernel gives to clients."""
    return take_port(range(24100, 28000), lambda port: is_free(port) and is_free(port + REPAIR_PORT_OFFSET))


class Downstairs:
    """One region, and the process that serves it."""

    kind = None
    arguments = ()  # of the process, beside the usual ones

    def __init__(self, directory, block_size=BLOCK, extent_size=4, extent_count=3, encrypted=False, read_only=False):
        self.directory = directory
        self.block_size, self.extent_size, self.extent_count = block_size, extent_size, extent_count
        self.encrypted, self.read_only = encrypted, read_only
        self.uuid = uuid.uuid4()
        self.port = free_port()
        self.address = ("127.0.0.1", self.port)
        self.repair_address = ("127.0.0.1", self.port + REPAIR_PORT_OFFSET)
        self.process = None
        self.is_mounted = False
        self.upstairs = []
        self.create()

    def create(self):
        subprocess.run(self.create_command(), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wipe(self):
        """kill -9, and an empty region with the same identity in its place."""
        if self.process:
            self.kill()
        shutil.rmtree(self.directory)
        self.create()
        return self

    def move_to_small_disk(self, size):
        """kill -9, and the region moves to a file system of its own, of that size as mount(8) takes it."""
        if self.process:
            self.kill()
        kept = f"{self.directory}.kept"
        self.directory.rename(kept)
        self.directory.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", self.directory], check=True)
        self.is_mounted = True
        subprocess.run(["cp", "-a", "--sparse=always", f"{kept}/.", self.directory], check=True)
        return self

    def create_command(self):
        raise NotImplementedError

    def run_command(self):
        raise NotImplementedError

    def spawn(self):
        """Starts the process and does not wait."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.run_command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "RUST_BACKTRACE": "0"}, preexec_fn=self.limit_memory)
        return self

    def limit_memory(self):
        pass

    def start(self):
        self.spawn()
        for address in (self.repair_address, self.address):
            wait_for_port(address, self.is_running)
        return self

    @property
    def log_path(self):
        return f"{self.directory}.log"

    def is_running(self):
        return self.process.poll() is None

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()
        return self

    def restart(self, read_only=False):
        self.kill()
        self.read_only = read_only
        return self.start()

    def wait(self, timeout=30):
        """The exit status, negative if it is a signal."""
        return self.process.wait(timeout)

    def connect(self, **options):
        options.setdefault("read_only", self.read_only)
        options.setdefault("encrypted", self.encrypted)
        self.upstairs.append(Upstairs(self.address, **options))
        return self.upstairs[-1]

    def run(self, **options):
        """An upstairs that is through the negotiation."""
        return self.connect(**options).run()

    def run_soon(self, **options):
        """As run(), where the predecessor's end may not have been seen yet."""
        def attempt():
            upstairs = self.connect(**options)
            return upstairs if upstairs.promote() else None
        upstairs = wait_until(attempt, "a promotion")
        upstairs.region()
        upstairs.first_versions = upstairs.versions()
        return upstairs

    def stored_versions(self, extent):
        """(generation, flush number, dirty) from the extent's file."""
        dirty, generation, flush_number = struct.unpack("<?QQ", self.extent_path(extent).read_bytes()[-32:][:17])
        return generation, flush_number, dirty

    def versions(self):
        """As the next upstairs sees them."""
        with self.connect(generation=1 << 40) as upstairs:
            versions = upstairs.run().first_versions
        return versions

    def get(self, path, timeout=10):
        """(status, body) from the repair port."""
        connection = http.client.HTTPConnection(*self.repair_address, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def extent_path(self, extent):
        return self.directory / f"{extent >> 24:02X}" / f"{extent >> 12 & 0xfff:03X}" / f"{extent & 0xfff:03X}"

    def flip(self, block):
        """Flips a bit of a block's data in the file."""
        with open(self.extent_path(block // self.extent_size), "r+b") as file:
            at = block % self.extent_size * self.block_size
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))

    def close(self):
        for upstairs in self.upstairs:
            upstairs.close()
        if self.process:
            self.kill()
        if self.is_mounted:
            subprocess.run(["umount", "-l", self.directory], check=True)


class OwnDownstairs(Downstairs):
    kind = "own"

    def create_command(self):
        return [OWN, "create", "--dir", self.directory, "--block-size", str(self.block_size), "--extent-size",
                str(self.extent_size), "--extent-count", str(self.extent_count), "--uuid", str(self.uuid),
                *(["--encrypted"] if self.encrypted else [])]

    def run_command(self):
        return [OWN, "run", "--dir", self.directory, "--port", str(self.port), "--control", self.control_path,
                *(["--read-only"] if self.read_only else []), *self.arguments]

    @property
    def control_path(self):
        return f"/tmp/tb4-downstairs-{self.port}.sock"

    def control(self, command):
        """Gives a command of faults.h; the answer must not be an error."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(self.control_path)
            connection.sendall(command.encode() + b"\n")
            with connection.makefile() as answers:
                answer = answers.readline().strip()
        assert not answer.startswith("error"), f"{command}: {answer}"
        return answer

    def status(self):
        return json.loads(self.control("status"))

    def close(self):
        super().close()
        if os.path.exists(self.control_path):
            os.unlink(self.control_path)


class UpstreamDownstairs(Downstairs):
    kind = "upstream"

    def create_command(self):
        return [UPSTREAM, "create", "-d", self.directory, "-u", str(self.uuid), "--block-size", str(self.block_size),
                "--extent-size", str(self.extent_size), "--extent-count", str(self.extent_count),
                *(["--encrypted"] if self.encrypted else [])]

    def run_command(self):
        return [UPSTREAM, "run", "-d", self.directory, "-p", str(self.port), "-a", "127.0.0.1",
                "--mode", "ro" if self.read_only else "rw", *self.arguments]

    def limit_memory(self):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))

    def spawn(self):
        # its log is long, and a wedged one writes 50 MB/s
        self.process = subprocess.Popen(
            self.run_command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "RUST_BACKTRACE": "0"}, preexec_fn=self.limit_memory)
        return self


def pause(seconds=0.1):
    """For what a downstairs does after a connection has ended: nothing tells when."""
    time.sleep(seconds)
