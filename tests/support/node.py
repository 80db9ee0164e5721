"""A node of the cluster for one test: its own configuration, directories and gateways."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from .wire import Client

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("TB4_BUILD", ROOT / "build"))
PROGRAMS = BUILD / "gateway"
TOOLS = BUILD / "tests" / "tools"


def needs(*programs):
    """Skips a test that cannot run without a program, and says which."""
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def wait_until(condition, what, timeout=30):
    """Waits for a condition; `what` is what a failure says was missing."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.01)
    raise AssertionError(f"not after {timeout} s: {what}")


def fill(directory):
    """Leaves no room on a file system."""
    with open(directory / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return directory / "filler"


class Gateway:
    """A running tb4-gateway."""

    def __init__(self, node, vmid, process, log):
        self.node, self.vmid, self.process, self.log_path = node, vmid, process, log
        self.directory = node.run_dir / str(vmid)
        self.socket = str(self.directory / "nbd.sock")

    @property
    def pid(self):
        return self.process.pid

    @property
    def log(self):
        return self.log_path.read_text(errors="surrogateescape")

    def uri(self, export=""):
        return f"nbd+unix:///{export}?socket={self.socket}"

    def client(self, **options):
        return Client(self.socket, **options)

    def connect(self, name="", infos=(3,)):
        """A raw client that is in the transmission phase, with simple replies."""
        return self.client().greet().go(name, infos)

    def session(self, mode="simple", name="", infos=(3,), allocation=False):
        """As connect(), with "simple", "structured" or "extended" replies."""
        client = self.client().greet()
        if mode == "structured":
            client.use_structured()
        elif mode == "extended":
            client.use_extended()
        if allocation:
            client.use_allocation(name)
        return client.go(name, infos)

    def memory(self, kind="Pss"):
        """Bytes of memory, as the kernel counts them: Pss, Rss, Pss_Anon, ..."""
        with open(f"/proc/{self.pid}/smaps_rollup") as lines:
            for line in lines:
                if line.startswith(kind + ":"):
                    return int(line.split()[1]) << 10
        raise KeyError(kind)

    def is_running(self):
        return self.process.poll() is None

    def children(self):
        with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as children:
            return [int(pid) for pid in children.read().split()]

    def status(self):
        return self.node.tb4_json("status", str(self.vmid), check=False)["gateways"][0]

    def volume_status(self, name=None):
        for volume in self.status()["volumes"]:
            if name in (None, volume["name"]):
                return volume
        raise KeyError(name)

    def wait_for(self, state, timeout=20):
        """Waits until the gateway is in a state, such as "serving" or "fenced"."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the gateway ended with {self.process.returncode}: {self.log}")
            if self.status()["state"] == state:
                return self
            time.sleep(0.01)
        raise AssertionError(f"not {state} after {timeout} s: {self.log}")

    def wait_for_log(self, pattern, timeout=20):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if re.search(pattern, self.log):
                return
            time.sleep(0.01)
        raise AssertionError(f"no line like {pattern!r}: {self.log}")

    def stop(self, timeout=40):
        """Orderly stop. Returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()


class Node:
    """Directories, tb4.conf and programs. Several nodes may share volume_dir, claim_dir, data_dir."""

    def __init__(self, directory, name="node-a", share_with=None, settings="", data_dir=None):
        self.directory = Path(directory)
        self.name = name
        self.gateways = []
        # short: the path of a unix socket has at most 107 bytes
        self.run_dir = Path(tempfile.mkdtemp(prefix="tb4-", dir="/tmp"))
        base = share_with.directory if share_with else self.directory
        self.volume_dir = base / "volumes"
        self.claim_dir = base / "claims"
        self.data_dir = Path(data_dir) if data_dir else base / "data"
        self.config = self.directory / f"{name}.conf"
        self.settings = settings
        self.write_config()

    def write_config(self, settings=None):
        if settings is not None:
            self.settings = settings
        self.config.write_text(
            f"[paths]\nrun_dir = {self.run_dir}\nvolume_dir = {self.volume_dir}\n"
            f"claim_dir = {self.claim_dir}\ndata_dir = {self.data_dir}\n"
            f"[node]\nname = {self.name}\n{self.settings}\n")

    # programs

    def tb4(self, *arguments, check=True, input=None, env=None, text=True, wrap=()):
        """Runs tb4. With check, it must succeed and its standard output is returned."""
        command = [*wrap, str(PROGRAMS / "tb4"), "--config", str(self.config), *map(str, arguments)]
        result = subprocess.run(command, input=input, capture_output=True, text=text, timeout=120,
                                env={**os.environ, **(env or {})}, check=False)
        if not check:
            return result
        assert result.returncode == 0, (command, result.returncode, result.stdout, result.stderr)
        return result.stdout

    def tb4_json(self, *arguments, check=True):
        result = self.tb4(*arguments, "--json", check=False)
        if check:
            assert result.returncode == 0, (arguments, result.stdout, result.stderr)
        return json.loads(result.stdout)

    def create(self, vmid=200, size="64M", *arguments):
        self.tb4("volume", "create", vmid, size, *arguments)
        return f"vm-{vmid}-disk-0"

    def image(self, name="vm-200-disk-0"):
        return self.data_dir / f"{name}.raw"

    def change_file(self, vmid=200, **values):
        """Gives settings of the file of a VM's disk 0 other values."""
        path = self.volume_dir / f"vm-{vmid}-disk-0.conf"
        text = path.read_text()
        for name, value in values.items():
            text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.M)
            assert count == 1
        path.write_text(text)

    def add_to_file(self, vmid=200, **values):
        """Settings that are not in it yet, in the section of the backend, which is the last one."""
        path = self.volume_dir / f"vm-{vmid}-disk-0.conf"
        path.write_text(path.read_text() + "".join(f"{name} = {value}\n" for name, value in values.items()))

    def record(self, name="vm-200-disk-0"):
        claims = self.tb4_json("claim", "show", name)["claims"]
        return claims[0] if claims else None

    def spawn(self, vmid=200, *arguments, program=None, env=None, wrap=(), **options):
        """Starts a gateway and returns at once."""
        log = self.directory / f"{self.name}-{vmid}-{len(self.gateways)}.log"
        command = [*wrap, str(program or PROGRAMS / "tb4-gateway"), "--config", str(self.config),
                   *arguments, str(vmid)]
        with open(log, "wb") as stderr:
            process = subprocess.Popen(command, stderr=stderr, env={**os.environ, **(env or {})},
                                       **{"stdin": subprocess.DEVNULL, **options})
        gateway = Gateway(self, vmid, process, log)
        self.gateways.append(gateway)
        return gateway

    def spawn_with(self, sockets, vmid=200, **options):
        """As systemd starts it: with listening sockets, as descriptors from 3 on, LISTEN_FDS and LISTEN_PID."""
        def hand_over():
            copies = [os.dup(sock.fileno()) for sock in sockets]  # none of them lies where another belongs
            copies = [os.dup2(copy, 100 + number) for number, copy in enumerate(copies)]
            for number, copy in enumerate(copies):
                os.dup2(copy, 3 + number)
        return self.spawn(vmid, wrap=("sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh"), preexec_fn=hand_over,
                          pass_fds=tuple(range(3, 3 + len(sockets))), env={"LISTEN_FDS": str(len(sockets))}, **options)

    def own_socket(self, vmid=200):
        """The VM's unix socket, held by us as systemd would."""
        directory = self.run_dir / str(vmid)
        directory.mkdir(exist_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(directory / "nbd.sock"))
        sock.listen(128)
        return sock

    def start(self, vmid=200, *arguments, state="serving", **options):
        """Starts a gateway and waits until it serves."""
        return self.spawn(vmid, *arguments, **options).wait_for(state)

    def run_to_end(self, vmid=200, *arguments, **options):
        """Starts a gateway that is expected to end by itself: (exit status, log)."""
        gateway = self.spawn(vmid, *arguments, **options)
        return gateway.process.wait(30), gateway.log

    def close(self):
        for gateway in self.gateways:
            if gateway.process.poll() is None:
                for child in gateway.children():  # what strace runs would outlive it
                    os.kill(child, signal.SIGKILL)
                gateway.process.kill()
                gateway.process.wait()
        shutil.rmtree(self.run_dir, ignore_errors=True)


def run(*command, timeout=120, check=True, **options):
    """A public client. Its standard output; with check, it must succeed."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                            timeout=timeout, check=False, **options)
    if check:
        assert result.returncode == 0, (command, result.returncode, result.stdout, result.stderr)
        return result.stdout
    return result
