"""Every single allocation of a start, of a session and of commands fails once: no crash, no hang, no wrong data.

Only against the plain build: the sanitizers bring an allocator of their own. tools/fail-alloc.c does it.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from support import wire
from support.node import TOOLS, Node, needs
from support.outcome import node_tree, without_locks
from support.tls import Certificates, tcp_client, upgrade

pytestmark = pytest.mark.plain

LIBRARY = TOOLS / "fail-alloc.so"
LIMIT = 3000  # more allocations than any of these makes
PARTS = 4     # tests of one sweep, so that they run side by side

# Libraries that do not survive a failed allocation: how the process ends then, and where.
NOT_OURS = {
    ("libuv.so.1", -signal.SIGABRT): "uv__io_start, thread pool: abort() without memory",
    ("libjson-c.so.5", -signal.SIGSEGV): "json_tokener_parse_ex: strlen of a key that strdup could not copy",
    ("libgnutls.so.30", -signal.SIGABRT): "the numbers of a handshake, by GNU MP: abort() without memory",
    ("libgnutls.so.30", -signal.SIGSEGV): "a certificate, by libtasn1: a node that calloc could not make",
}


class Failing:
    """Environment and log of one run whose nth allocation fails."""

    def __init__(self, directory, nth, count=1, trigger=None):
        self.log = directory / "allocations"
        self.log.unlink(missing_ok=True)
        self.env = {"LD_PRELOAD": str(LIBRARY), "TB4_FAIL_AT": str(nth), "TB4_FAIL_COUNT": str(count),
                    "TB4_FAIL_LOG": str(self.log)}
        if trigger:
            self.env["TB4_FAIL_TRIGGER"] = str(trigger)

    def failed(self):
        """The files that the allocation that failed came through, from the allocator on; None if none failed."""
        lines = [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return next((words[2:] for words in lines if words[0] != "counted"), None)

    def failed_count(self):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sum(not line.startswith("counted") for line in lines)

    def is_hidden(self):
        """json-c leaves out what it has no memory for and says nothing: a record seems damaged then."""
        return self.caller() == "libjson-c.so.5"

    def caller(self):
        """The library that our code had called when the allocation failed, or our program itself."""
        files = self.failed() or []
        ours = next((i for i, name in enumerate(files) if name.startswith("tb4")), len(files))
        return files[ours - 1] if ours > 0 else None

    def crash_is_not_ours(self, status):
        """May the process have been ended by this signal? The library next to our code answers for it."""
        return (self.caller(), status) in NOT_OURS


def counted(run, directory):
    """How many allocations a run makes."""
    failing = Failing(directory, 0)
    run(failing.env)
    return int(re.search(r"counted (\d+)", failing.log.read_text())[1])


def wait_until_it_serves_or_ends(gateway):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if gateway.process.poll() is not None:
            return False
        if "serving 1 of 1" in gateway.log:
            return True
        time.sleep(0.001)
    raise AssertionError(f"it neither serves nor ends: {gateway.log}")


def stop(gateway):
    try:
        return gateway.stop(20)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it does not stop: {gateway.log}") from None


class Volume:
    """A node with one volume, and what must hold of it after each run."""

    def __init__(self, directory):
        directory.mkdir()
        self.node = Node(directory)
        self.node.create(200, "1M")
        self.used = 0

    def reset(self, dead_owner):
        """A claim that is released, or one whose owner was killed."""
        gateway = self.node.start()
        gateway.kill() if dead_owner else gateway.stop()
        self.node.gateways.clear()

    def check(self, gateway):
        """Record and role file are whole; the next start serves under a higher generation."""
        for generation in re.findall(r"generation (\d+)", gateway.log):
            self.used = max(self.used, int(generation))
        record = self.node.record()
        assert record["node"] == "node-a" and len(record["claim_id"]) == len(record["boot_id"]) == 36, record
        again = self.node.start()
        generation = again.volume_status()["generation"]
        assert generation > self.used
        self.used = generation
        assert again.stop() == 0
        assert os.listdir(self.node.run_dir) == []


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("state", ["released", "dead owner"])
def test_gateway_whose_start_or_stop_lacks_memory_loses_nothing(tmp_path, state, part):
    volume = Volume(tmp_path / "node")
    node = volume.node
    try:
        for nth in range(1 + part, LIMIT, PARTS):
            volume.reset(state == "dead owner")
            failing = Failing(tmp_path, nth)
            gateway = node.spawn(env=failing.env)
            serves = wait_until_it_serves_or_ends(gateway)
            status = stop(gateway) if serves else gateway.process.returncode
            failed = failing.failed()
            where = f"allocation {nth}, {failed}: status {status}: {gateway.log}"
            if status < 0:
                assert failing.crash_is_not_ours(status), where
            elif failed is None:
                assert status == 0, where
            else:
                assert status in (0, 70, 74, 75, 78) or failing.is_hidden() or (
                    status == 65 and "memory" in gateway.log), where
                assert status == 0 or gateway.log.startswith("tb4-gateway[200]: "), where
                assert failing.is_hidden() or not re.search("damaged|wrong value", gateway.log), where
            try:
                volume.check(gateway)
            except AssertionError as error:
                raise AssertionError(f"{where}: then {error}") from error
            if failed is None:
                return
        raise AssertionError("it never survives")
    finally:
        node.close()


def session(gateway, image_size):
    """What clients do, each of which may fail for want of memory: {offset: what may be there}."""
    may_be = {}
    try:
        with gateway.client(timeout=10).greet().use_structured().use_allocation().go() as client:
            for i in range(4):
                data = bytes([65 + i]) * 4096
                may_be[i * 4096] = {data, bytes(4096)}
                if client.request(wire.CMD_WRITE, i * 4096, 4096, payload=data).error == 0:
                    may_be[i * 4096] = {data}
            may_be[65536] = {b"L" * 131072, bytes(131072)}
            if client.request(wire.CMD_WRITE, 65536, 131072, payload=b"L" * 131072).error == 0:
                may_be[65536] = {b"L" * 131072}
            reply = client.request(wire.CMD_READ, 0, 4096)
            assert reply.error or reply.data in may_be[0], "wrong data"
            reply = client.request(wire.CMD_READ, 0, image_size)
            if not reply.error:
                for offset, values in may_be.items():
                    assert reply.data[offset:offset + len(next(iter(values)))] in values, "wrong data"
            for kind in (wire.CMD_FLUSH, wire.CMD_TRIM, wire.CMD_WRITE_ZEROES, wire.CMD_CACHE, wire.CMD_BLOCK_STATUS):
                client.request(kind, 0 if kind == wire.CMD_FLUSH else 512 << 10,
                               0 if kind == wire.CMD_FLUSH else 4096)
    except (wire.Closed, BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
        pass
    return may_be


def ask(gateway, command):
    """The answer of the control socket, or what there is of it."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(5)
        try:
            control.connect(str(gateway.directory / "control.sock"))
            control.sendall(b'{"version":1,"command":"%s"}\n' % command.encode())
            while not answer.endswith(b"\n"):
                part = control.recv(65536)
                if not part:
                    break
                answer += part
        except OSError:
            pass
    return answer


def check_contents(gateway, may_be):
    """A new client finds what was acknowledged, and can go on."""
    with gateway.connect() as client:
        for offset, values in may_be.items():
            assert client.read(offset, len(next(iter(values)))) in values, f"wrong data at {offset}"
        client.write(768 << 10, b"after..." * 512)
        client.flush()


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("part", range(PARTS))
def test_gateway_that_lacks_memory_for_a_moment_serves_on(tmp_path, part, count):
    volume = Volume(tmp_path / "node")
    node, trigger = volume.node, tmp_path / "trigger"
    step = PARTS if count == 1 else PARTS * 7
    try:
        for nth in range(1 + part, LIMIT, step):
            trigger.unlink(missing_ok=True)
            with open(node.image(), "r+b") as image:
                image.truncate(0)
                image.truncate(1 << 20)
            failing = Failing(tmp_path, nth, count, trigger)
            gateway = node.start(env=failing.env)
            trigger.touch()
            may_be = session(gateway, 1 << 20)
            for command in ("status", "metrics"):
                ask(gateway, command)
            if failing.failed() is None:
                assert stop(gateway) in (0, 74)  # it may be during the stop that it lacks memory
                return
            for _ in range(count):  # until the moment is over
                if failing.failed_count() < count and gateway.process.poll() is None:
                    session(gateway, 1 << 20)
                    ask(gateway, "status")
            where = f"allocation {nth}, {failing.failed()}: {gateway.log}"
            try:
                check_contents(gateway, may_be)
            except (wire.Closed, OSError) as error:
                status = gateway.process.wait(20)
                assert failing.crash_is_not_ours(status), f"{where}: {status}: {error}"
                gateway = node.start()
                check_contents(gateway, may_be)
            assert b'"serving"' in ask(gateway, "status"), f"{where}: the control socket is deaf"
            assert stop(gateway) in (0, 74), where
            volume.check(gateway)
            node.gateways.clear()
        raise AssertionError("it never survives")
    finally:
        node.close()


COMMANDS = {
    "create": ["volume", "create", "201", "1M", "--json"],
    "list": ["volume", "list"],
    "list as json": ["volume", "list", "--json"],
    "info": ["volume", "info", "200"],
    "info as json": ["volume", "info", "200", "--json"],
    "resize": ["volume", "resize", "200", "2M"],
    "delete": ["volume", "delete", "200", "--yes"],
    "import": ["volume", "import", "200", "SOURCE"],
    "export": ["volume", "export", "200", "TARGET", "--force"],
    "show": ["claim", "show"],
    "show as json": ["claim", "show", "--json"],
    "force": ["claim", "force", "200", "--yes"],
    "ports": ["ports", "200", "--json"],
    "status": ["status"],
    "status as json": ["status", "--json"],
    "metrics": ["metrics"],
    "check": ["check"],
    "check as json": ["check", "--json"],
}
READING = {"list", "list as json", "info", "info as json", "show", "show as json", "ports", "status", "status as json",
           "metrics", "check", "check as json"}


def same_but_for_ids(text):
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{9,}", "N", text)


@pytest.mark.parametrize("what", COMMANDS)
def test_command_that_lacks_memory_is_done_whole_or_says_so(tmp_path, what):
    """Status 0 means: all that it says is there, and all that it did is done."""
    (tmp_path / "source").write_bytes(b"S" * 65536)
    command = [str(tmp_path / word.lower()) if word in ("SOURCE", "TARGET") else word for word in COMMANDS[what]]
    volume = Volume(tmp_path / "node")
    node = volume.node
    node.start().stop()
    texts = {path: path.read_bytes() for path in (node.volume_dir / "vm-200-disk-0.conf",
                                                  node.claim_dir / "vm-200-disk-0.json")}

    def restore():
        for directory in (node.volume_dir, node.claim_dir, node.data_dir):
            for path in directory.iterdir():
                path.unlink()
        for path, text in texts.items():
            path.write_bytes(text)
        for entry in node.run_dir.iterdir():
            shutil.rmtree(entry)
        with open(node.image(), "wb") as image:
            image.truncate(1 << 20)

    def files():
        """Everything but records, whose ids differ."""
        return {path: entry[2:] if not path.endswith(".json") else None
                for path, entry in without_locks(node_tree(node)).items()}

    try:
        restore()
        reference = node.tb4(*command)
        done = files()
        for nth in range(1, LIMIT):
            restore()
            before = files()
            failing = Failing(tmp_path, nth)
            result = node.tb4(*command, env=failing.env, check=False)
            failed = failing.failed()
            where = f"allocation {nth}, {failed}: {result}"
            if result.returncode < 0:
                assert failing.crash_is_not_ours(result.returncode), where
                continue
            if result.returncode == 0 and failing.is_hidden():
                pass  # what it says may lack something, but it has done all
            elif result.returncode == 0:
                assert same_but_for_ids(result.stdout) == same_but_for_ids(reference) or (
                    "out of memory" in result.stdout), where
            else:
                assert result.returncode in (1, 65, 70, 74, 75, 78) or failing.is_hidden(), where
                assert failing.is_hidden() or not re.search("damaged|wrong value", result.stderr), where
                assert result.returncode == 1 or failing.is_hidden() or re.search(
                    "memory|boot id", result.stderr + result.stdout), where
            if what in READING:
                assert files() == before, where
            elif result.returncode == 0:
                assert files() == done, (where, set(files().items()) ^ set(done.items()))
            elif what == "create":  # undone, or done and only the answer is missing
                assert files() in (before, done), where
            else:
                assert node.tb4("claim", "show", check=False).returncode == 0, where
            if failed is None:
                assert result.returncode == 0
                return
        raise AssertionError("it never survives")
    finally:
        node.close()


def test_json_of_a_command_that_lacks_memory_is_never_half(node):
    """Whatever else happens, what stands on standard output with status 0 can be parsed."""
    node.create(200, "1M")
    node.start()
    for nth in range(1, LIMIT):
        failing = Failing(node.directory, nth)
        result = node.tb4("status", "--json", env=failing.env, check=False)
        if result.returncode in (0, 1):
            shown = json.loads(result.stdout)
            assert failing.is_hidden() or shown["gateways"][0]["vmid"] == 200, (nth, failing.failed(), result.stdout)
        if failing.failed() is None:
            return


TLS_LIMIT, TLS_STEP = 1600, 29  # as many as a session makes, nearly all of them within GnuTLS


@needs("faketime", "openssl")
def test_a_client_by_tls_that_memory_lacks_for_costs_only_itself(tmp_path):
    """Each 29th allocation from the first byte of a session by TLS to its end."""
    certificates = Certificates(tmp_path / "tls")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "node").mkdir()
    node = Node(tmp_path / "node", settings="[nbd]\nlisten = 127.0.0.1\n" + certificates.settings())
    node.create(300, "1M")
    volume = node.volume_dir / "vm-300-disk-0.conf"
    volume.write_text(re.sub(r"nbd = \d+", f"nbd = {port}", volume.read_text()))
    trigger = tmp_path / "trigger"

    def visit():
        with upgrade(tcp_client(port, timeout=10), certificates.context()) as client:
            client.use_structured().go("vm-300-disk-0")
            client.write(0, b"t" * 69632)
            return client.read(0, 69632)

    try:
        for nth in range(1, TLS_LIMIT, TLS_STEP):
            trigger.unlink(missing_ok=True)
            failing = Failing(tmp_path, nth, 1, trigger)
            gateway = node.start(300, env=failing.env)
            trigger.touch()
            for _ in range(2):  # a session does not always make as many
                try:
                    visit()
                except (wire.Closed, OSError, AssertionError):  # a reply may be an error
                    pass
            where = f"allocation {nth}, {failing.failed()}: {gateway.log}"
            try:
                again = visit()
            except (wire.Closed, OSError):  # it has crashed
                status = gateway.process.wait(20)
                assert failing.crash_is_not_ours(status), f"{where}: {status}"
                node.start(300)
                again = visit()
            assert again == b"t" * 69632, where
            assert stop(node.gateways[-1]) in (0, 74), where
            assert failing.failed(), where
            node.gateways.clear()
    finally:
        node.close()
