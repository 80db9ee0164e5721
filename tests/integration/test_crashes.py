"""kill -9 between any two system calls, and an error from any of them: nothing is lost, nothing blocks."""
import json
import os
import re
import time

import pytest

from support import inject
from support.node import Node
from support.outcome import node_tree, without_locks

pytestmark = pytest.mark.skipif(not inject.is_there(), reason="not installed: strace")

MIB = 1 << 20
LIMIT = 200  # more calls than any of these programs makes


def data_of(node):
    return node.image().read_bytes()[:4096] if node.image().exists() else None


class Scene:
    """One node with one volume in a certain state, and what must stay true of it."""

    def __init__(self, directory, state):
        self.node = Node(directory)
        self.used = 0  # the highest generation that anybody may have used
        if state == "no volume":
            return
        self.node.create(200, "1M")
        self.node.image().write_bytes(b"D" * 4096 + bytes(MIB - 4096))
        if state == "never claimed":
            return
        gateway = self.node.start()
        self.note(gateway)
        if state == "released":
            gateway.stop()
        elif state == "dead owner":
            gateway.kill()
        elif state == "release cut short":
            gateway.kill()
            role = gateway.directory / "role"
            text = role.read_bytes()
            self.node.tb4("claim", "release", "200")
            role.parent.mkdir(exist_ok=True)
            role.write_bytes(text)

    def note(self, gateway):
        """Remembers the generation of a gateway, also of one that was killed right after it began."""
        for generation in re.findall(r"generation (\d+)", gateway.log):
            self.used = max(self.used, int(generation))

    def check_record(self):
        """It is readable: the old one or the new one. Returns it, or None."""
        result = self.node.tb4("claim", "show", "vm-200-disk-0", "--json", check=False)
        if result.returncode == 66:  # there is no such volume
            return None
        assert result.returncode == 0, result
        claims = json.loads(result.stdout)["claims"]
        return claims[0] if claims else None

    def check_start(self):
        """A next start serves, the data are there, its generation is above all before, its stop is clean."""
        record = self.check_record()
        gateway = self.node.start()
        generation = gateway.volume_status()["generation"]
        assert generation > self.used, (generation, self.used)
        if record and record["released"]:
            assert generation > record["generation_last"]
        self.note(gateway)
        with gateway.connect() as client:
            assert client.read(0, 4096) in (b"D" * 4096, bytes(4096))
            client.write(8192, b"w" * 4096)
        assert gateway.stop() == 0, gateway.log
        assert os.listdir(self.node.run_dir) == []

    def check_end(self):
        """The volume can be deleted, and nothing is left of it."""
        self.node.tb4("volume", "delete", "200", "--yes")
        assert without_locks(node_tree(self.node)) == {}


@pytest.fixture
def scenes(tmp_path):
    """Makes scenes that end with the test."""
    made = []

    def make(state):
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(Scene(directory, state))
        return made[-1]

    yield make
    for scene in made:
        scene.node.close()


def wait_until_it_serves_or_ends(gateway):
    """True if it serves. The process is strace's, whose child has a pid of its own."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if gateway.process.poll() is not None:
            return False
        if re.search(r"serving \d+ of \d+", gateway.log):
            return True
        time.sleep(0.003)
    raise AssertionError(f"it neither serves nor ends: {gateway.log}")


def stop_traced(gateway, number):
    """Sends a signal to the gateway, not to strace. The exit status, also if it was killed before that."""
    pid = gateway.status().get("pid")
    if pid:
        os.kill(pid, number)
    return gateway.process.wait(40)


STARTS = ["never claimed", "released", "dead owner", "release cut short"]


@pytest.mark.parametrize("state", STARTS)
def test_gateway_killed_at_any_call_of_its_start_loses_nothing(scenes, state):
    first = scenes(state)
    log = first.node.directory / "trace"
    counted = first.node.spawn(200, wrap=inject.counting(inject.paths_of(first.node), log), env=inject.ENVIRONMENT)
    assert wait_until_it_serves_or_ends(counted)
    stop_traced(counted, 9)
    points = inject.points(log)
    assert len(points) >= 15
    for call, nth in points:
        scene = scenes(state)
        words = inject.strace(inject.paths_of(scene.node), "signal=KILL", nth, call)
        gateway = scene.node.spawn(200, wrap=words, env=inject.ENVIRONMENT)
        if wait_until_it_serves_or_ends(gateway):
            stop_traced(gateway, 9)
        scene.note(gateway)
        try:
            scene.check_start()
            scene.check_end()
        except AssertionError as error:
            raise AssertionError(f"killed at {call} {nth}: {error}") from error


def test_gateway_killed_at_any_call_of_its_stop_loses_nothing(scenes):
    first = scenes("dead owner")
    log = first.node.directory / "trace"
    counted = first.node.spawn(200, wrap=inject.counting(inject.paths_of(first.node), log), env=inject.ENVIRONMENT)
    assert wait_until_it_serves_or_ends(counted)
    assert stop_traced(counted, 15) == 0
    # openat depends on when inotify reports; between two others it changes nothing but an empty .new file
    points = [(call, nth) for call, nth in inject.points(log, behind="SIGTERM") if call != "openat"]
    assert len(points) >= 8
    for call, nth in [*points, ("fsync", "of the image")]:
        scene = scenes("dead owner")
        words = inject.strace(inject.paths_of(scene.node), "signal=KILL", nth, call)
        if nth == "of the image":  # on a thread of its own, which counts for itself
            words = inject.strace([str(scene.node.image())], "signal=KILL", 1, call)
        gateway = scene.node.spawn(200, wrap=words, env=inject.ENVIRONMENT)
        assert wait_until_it_serves_or_ends(gateway)
        scene.note(gateway)
        assert stop_traced(gateway, 15) == -9, f"{call} {nth} did not happen"
        try:
            scene.check_start()
            scene.check_end()
        except AssertionError as error:
            raise AssertionError(f"killed at {call} {nth} of the stop: {error}") from error


def kill_sweep(scenes, state, command, check, paths=None, calls=inject.CHANGES):
    """Runs a command once for each of its calls, killed at that call. How many there were."""
    first = scenes(state)
    log = first.node.directory / "trace"
    first.node.tb4(*command, wrap=inject.counting(paths(first.node) if paths else inject.paths_of(first.node), log, calls),
                   env=inject.ENVIRONMENT)
    points = inject.points(log)
    for call, nth in points:
        scene = scenes(state)
        words = inject.strace(paths(scene.node) if paths else inject.paths_of(scene.node), "signal=KILL", nth, call)
        result = scene.node.tb4(*command, wrap=words, env=inject.ENVIRONMENT, check=False)
        assert result.returncode == -9, f"{call} {nth} did not happen: {result}"
        try:
            check(scene)
        except AssertionError as error:
            raise AssertionError(f"tb4 {' '.join(command)} killed at {call} {nth}: {error}") from error
    return len(points)


def check_volume(scene):
    scene.check_start()
    scene.check_end()


def check_after_claim_command(scene):
    """What an operator does next works: the same command again, then a start."""
    scene.check_record()
    scene.node.tb4("claim", "release", "200")
    check_volume(scene)


@pytest.mark.parametrize("state", ["never claimed", "released", "dead owner"])
def test_claim_force_killed_at_any_call_loses_nothing(scenes, state):
    assert kill_sweep(scenes, state, ["claim", "force", "200", "--yes"], check_after_claim_command) >= 12


def test_claim_release_killed_at_any_call_loses_nothing(scenes):
    assert kill_sweep(scenes, "dead owner", ["claim", "release", "200"], check_volume) >= 12


@pytest.mark.parametrize("worker", [False, True], ids=["loop", "worker"])
def test_resize_killed_at_any_call_loses_nothing(scenes, worker):
    def check(scene):
        node = scene.node
        if scene.check_record() and not node.record()["released"]:
            node.tb4("claim", "release", "200")
        size = node.tb4_json("volume", "info", "200")["size"]
        assert size in (MIB, 2 * MIB) and node.image().stat().st_size >= size
        node.tb4("volume", "resize", "200", "2M")
        assert node.image().read_bytes() == b"D" * 4096 + bytes(2 * MIB - 4096)
        check_volume(scene)

    command = ["volume", "resize", "200", "2M"]
    if worker:  # grows and syncs the image
        killed = kill_sweep(scenes, "released", command, check, lambda node: [str(node.image())], "ftruncate,fsync")
        assert killed >= 2
    else:
        assert kill_sweep(scenes, "released", command, check) >= 30


def test_create_killed_at_any_call_can_be_repeated(scenes):
    def check(scene):
        node = scene.node
        result = node.tb4("volume", "create", "200", "1M", check=False)
        exists = (node.volume_dir / "vm-200-disk-0.conf").exists()
        assert exists and result.returncode in (0, 73), result
        assert node.tb4("check").startswith("no faults")
        check_volume(scene)

    assert kill_sweep(scenes, "no volume", ["volume", "create", "200", "1M"], check) >= 8


def delete_if_there(node):
    if (node.volume_dir / "vm-200-disk-0.conf").exists():
        node.tb4("claim", "release", "200")
        node.tb4("volume", "delete", "200", "--yes")


@pytest.mark.parametrize("state", ["never claimed", "released"])
def test_delete_killed_at_any_call_can_be_repeated(scenes, state):
    def check(scene):
        node = scene.node
        delete_if_there(node)
        node.create(200, "1M")
        scene.used = 0  # another volume of that name
        check_volume(scene)

    assert kill_sweep(scenes, state, ["volume", "delete", "200", "--yes"], check) >= 12


def test_delete_killed_at_any_call_leaves_nothing_once_it_is_repeated(scenes):
    def check(scene):
        node = scene.node
        delete_if_there(node)
        left = without_locks(node_tree(node))
        left.pop(str(node.run_dir / "200" / "lock"), None)
        assert left == {}

    kill_sweep(scenes, "released", ["volume", "delete", "200", "--yes"], check)


def test_import_killed_at_any_call_can_be_repeated(scenes, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"D" * 65536)

    def check(scene):
        node = scene.node
        if (node.volume_dir / "vm-200-disk-0.conf").exists():
            node.tb4("claim", "release", "200")
            node.tb4("volume", "import", "200", source, "--overwrite")
        else:
            node.tb4("volume", "import", "200", source)
        assert node.image().read_bytes() == b"D" * 65536
        check_volume(scene)

    assert kill_sweep(scenes, "no volume", ["volume", "import", "200", str(source)], check) >= 20


# errors

ERRORS = ["ENOSPC", "EIO", "ENOMEM"]
CALLS = ["openat", "write", "pwrite64", "fsync", "rename", "ftruncate", "mkdir", "flock", "unlink", "fcntl"]


def was_injected(log):
    return "(INJECTED)" in log.read_text()


@pytest.mark.parametrize("state", ["never claimed", "dead owner"])
@pytest.mark.parametrize("call", CALLS + ["bind", "listen", "io_uring_setup"])
def test_gateway_whose_start_meets_an_error_says_so_and_loses_nothing(scenes, call, state):
    """One clear line and the end, or it serves regardless."""
    for nth in range(1, LIMIT):
        scene = scenes(state)
        node, log = scene.node, scene.node.directory / "trace"
        error = ERRORS[nth % len(ERRORS)]
        words = inject.strace(inject.paths_of(node) if call != "io_uring_setup" else [], f"error={error}", nth, call,
                              log)
        gateway = node.spawn(200, wrap=words, env=inject.ENVIRONMENT)
        serves = wait_until_it_serves_or_ends(gateway)
        scene.note(gateway)
        text = gateway.log
        status = stop_traced(gateway, 15) if serves else gateway.process.returncode
        injected = was_injected(log)
        if not serves:
            lines = text.splitlines()
            assert injected and 64 <= status <= 78 and len(lines) == 1, (call, nth, error, status, text)
            assert re.match(r"tb4-gateway\[200\]: .*\S: .*", lines[0]), text
        try:
            scene.check_start()
        except AssertionError as fault:
            raise AssertionError(f"{error} at {call} {nth}: {text}: {fault}") from fault
        if not injected:
            assert status == 0, text
            break
    assert nth < LIMIT - 1


COMMANDS = {
    "create": ("no volume", ["volume", "create", "200", "1M"]),
    "resize": ("released", ["volume", "resize", "200", "2M"]),
    "delete": ("released", ["volume", "delete", "200", "--yes"]),
    "release": ("dead owner", ["claim", "release", "200"]),
    "force": ("dead owner", ["claim", "force", "200", "--yes"]),
}


@pytest.mark.parametrize("what", COMMANDS)
@pytest.mark.parametrize("call", ["openat", "write", "fsync", "rename", "ftruncate", "mkdir", "flock", "unlink"])
def test_command_that_meets_an_error_says_so_in_one_line_and_can_be_repeated(scenes, what, call):
    state, command = COMMANDS[what]
    for nth in range(1, LIMIT):
        scene = scenes(state)
        node, log = scene.node, scene.node.directory / "trace"
        error = ERRORS[nth % len(ERRORS)]
        before = without_locks(node_tree(node))
        result = node.tb4(*command, wrap=inject.strace(inject.paths_of(node), f"error={error}", nth, call, log),
                          env=inject.ENVIRONMENT, check=False)
        injected = was_injected(log)
        where = f"{error} at {call} {nth}: {result}"
        if result.returncode != 0:
            assert injected and 64 <= result.returncode <= 78 and result.stdout == "", where
            assert re.fullmatch(r"tb4: .*\S: .*\n", result.stderr), where
            if what == "create":
                assert without_locks(node_tree(node)) == before, where
            again = node.tb4(*command, check=False)
            assert again.returncode == 0 or (what == "delete" and again.returncode == 66), f"{where}; then {again}"
        if what == "delete":
            assert [path for path in without_locks(node_tree(node)) if not path.startswith(str(node.run_dir))] == [], where
            node.create(200, "1M")
            scene.used = 0
        if what != "force":  # whose next start is test_claims.py's
            scene.check_start()
        if not injected:
            break
    assert nth < LIMIT - 1
