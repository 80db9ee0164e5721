"""How clients get in: unix socket with the peer's user, TCP on loopback, standard input and output,
sockets handed over by systemd."""
import os
import socket
import stat
import struct
import subprocess

import pytest

from support import wire
from support.node import PROGRAMS, needs, wait_until
from support.wire import Client, Closed

GATEWAY = PROGRAMS / "tb4-gateway"
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


def try_as(user, path):
    """Connects as another user: what the server said first, in a child process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(20)
                sock.connect(path)
                os.write(writing, b"greeted" if len(sock.recv(18)) == 18 else b"closed")
        except OSError as error:
            os.write(writing, os.strerror(error.errno).encode() if error.errno else b"?")
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        return answer.read()


def open_directories(node):
    """Temporary directories are private; who may connect shall be the gateway's decision alone."""
    for directory in (node.run_dir, node.run_dir / "200"):
        os.chmod(directory, 0o755)


def started(make_node, settings="", vmid=200, **options):
    node = make_node(settings=settings)
    node.create(vmid, "1M")
    return node.start(vmid, **options)


# Unix socket

def test_socket_is_for_its_owner_only(make_node):
    gateway = started(make_node)
    assert stat.S_IMODE(os.stat(gateway.socket).st_mode) == 0o600
    if os.geteuid() == 0:
        open_directories(gateway.node)
        assert try_as(NOBODY, gateway.socket) == "Permission denied"


@as_root
def test_user_that_is_not_allowed_is_refused_by_who_it_is(make_node):
    gateway = started(make_node, "[nbd]\nallow_users = 12345")
    open_directories(gateway.node)
    assert try_as(NOBODY, gateway.socket) == "closed"
    gateway.wait_for_log(rf"pid \d+ uid {NOBODY}: not allowed to connect: refused")
    assert gateway.status()["nbd"]["refused"] == 1


@as_root
@pytest.mark.parametrize("users", [str(NOBODY), "nobody", "12345, nobody", f"12345 {NOBODY}"])
def test_allowed_user_is_served(make_node, users):
    gateway = started(make_node, f"[nbd]\nallow_users = {users}")
    open_directories(gateway.node)
    assert try_as(NOBODY, gateway.socket) == "greeted"
    assert try_as(12344, gateway.socket) == "closed"
    with gateway.connect() as client:  # root always may
        assert client.size == 1 << 20


@as_root
@needs("setpriv")
def test_gateway_of_another_user_serves_that_user_and_root(make_node):
    node = make_node()
    node.create(200, "1M")
    for directory in (node.run_dir, node.volume_dir, node.data_dir):
        os.chown(directory, NOBODY, NOBODY)
    node.claim_dir.mkdir(exist_ok=True)
    for path in [node.claim_dir, node.image(), *node.volume_dir.iterdir(), *node.claim_dir.iterdir()]:
        os.chown(path, NOBODY, NOBODY)
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    probe = subprocess.run([*as_nobody, "cat", str(node.config)], capture_output=True, check=False)
    if probe.returncode != 0:
        for parent in list(node.config.parents)[:-1]:
            os.chmod(parent, os.stat(parent).st_mode | 0o055)
    gateway = node.spawn(200, wrap=as_nobody)
    wait_until(lambda: os.path.exists(gateway.socket), "it listens")
    assert try_as(NOBODY, gateway.socket) == "greeted"
    with gateway.connect() as client:
        assert client.size == 1 << 20


def test_stale_socket_of_a_killed_gateway_is_replaced(make_node):
    gateway = started(make_node)
    gateway.kill()
    assert os.path.exists(gateway.socket)
    with gateway.node.start(200).connect() as client:
        assert client.read(0, 512) == bytes(512)


def test_second_gateway_for_the_same_vm_refuses_and_the_first_goes_on(make_node):
    gateway = started(make_node)
    with gateway.connect() as client:
        client.write(0, b"1" * 512)
        status, log = gateway.node.run_to_end(200)
        assert status == 75
        assert len(log.splitlines()) == 1
        assert client.read(0, 512) == b"1" * 512
    with gateway.connect() as newcomer:
        assert newcomer.read(0, 512) == b"1" * 512


def test_socket_is_gone_after_an_orderly_stop(make_node):
    gateway = started(make_node)
    assert gateway.stop() == 0
    assert not os.path.exists(gateway.socket)


# TCP

@pytest.mark.parametrize("address, family", [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_tcp_on_loopback(make_node, tcp_vmid, address, family):
    with socket.socket(family) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            pytest.skip(f"needs {address}: {error}")
    port = 10809 + tcp_vmid - 200
    gateway = started(make_node, f"[nbd]\nlisten = {address}", tcp_vmid)
    remote = Client(sock=socket.create_connection((address, port))).greet().go()
    with remote as client, gateway.connect() as local:
        client.write(0, b"tcp!" * 1024)
        assert client.read(0, 1 << 20) == b"tcp!" * 1024 + bytes((1 << 20) - 4096)
        assert local.read(0, 4096) == b"tcp!" * 1024
    gateway.wait_for("serving")
    with Client(sock=socket.create_connection((address, port))) as bad:
        bad.greet(0xFFFF)
        assert bad.is_closed()
    gateway.wait_for_log(r"client \[?" + address.replace(".", r"\."))


def test_tcp_port_that_is_taken_is_named(make_node, tcp_vmid):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 10809 + tcp_vmid - 200))
        holder.listen()
        node = make_node(settings="[nbd]\nlisten = 127.0.0.1")
        node.create(tcp_vmid, "1M")
        status, log = node.run_to_end(tcp_vmid)
    assert status == 73
    assert f"port {10809 + tcp_vmid - 200} on 127.0.0.1 is taken by " in log and f"{os.getpid()}" in log


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "localhost", "127.0.0.1:10809"])
def test_tcp_beyond_loopback_is_refused(make_node, address):
    node = make_node(settings=f"[nbd]\nlisten = {address}")
    node.create(200, "1M")
    status, log = node.run_to_end(200)
    assert status != 0 and f"listen = {address}" in log


def test_tcp_client_that_vanishes_in_the_middle(make_node, tcp_vmid):
    gateway = started(make_node, "[nbd]\nlisten = 127.0.0.1", tcp_vmid)
    address = ("127.0.0.1", 10809 + tcp_vmid - 200)
    for _ in range(10):
        client = Client(sock=socket.create_connection(address)).greet().go()
        for _ in range(20):
            client.send_request(wire.CMD_READ, 0, 1 << 20)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # by RST
    wait_until(lambda: gateway.status()["nbd"]["connections"] == 0, "all are gone")
    with Client(sock=socket.create_connection(address)).greet().go() as client:
        assert client.read(0, 512) == bytes(512)


# Standard input and output

def stdio_command(node):
    return [str(GATEWAY), "--config", str(node.config), "--stdio", "200"]


@pytest.fixture
def stdio_node(node):
    node.create(200, "1M")
    return node


def start_on_a_socket(node):
    ours, theirs = socket.socketpair()
    with theirs:
        return ours, subprocess.Popen(stdio_command(node), stdin=theirs, stdout=theirs,
                                      stderr=subprocess.DEVNULL)


def run_on_pipes(node, data):
    return subprocess.run(stdio_command(node), input=data, capture_output=True, timeout=60, check=False)


def test_stdio_on_a_socket(stdio_node):
    ours, process = start_on_a_socket(stdio_node)
    with Client(sock=ours).greet().go() as client:
        client.write(0, b"stdio..." * 64)
        assert client.read(0, 512) == b"stdio..." * 64
        client.disconnect()
    assert process.wait(30) == 0
    assert stdio_node.record()["released"]
    assert stdio_node.image().read_bytes()[:512] == b"stdio..." * 64


def test_stdio_ends_when_its_client_hangs_up(stdio_node):
    ours, process = start_on_a_socket(stdio_node)
    with Client(sock=ours).greet().go() as client:
        client.write(0, b"x" * 512)
    assert process.wait(30) == 0
    assert stdio_node.record()["released"]


def pipe_session(requests):
    """Everything that a client says, when it does not listen."""
    data = struct.pack(">I", 3)
    go = struct.pack(">IH", 0, 0)
    data += struct.pack(">QII", wire.OPTION_MAGIC, wire.OPT_GO, len(go)) + go
    for cookie, (kind, offset, length, payload) in enumerate(requests, 1):
        data += struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, kind, cookie, offset, length) + payload
    return data


class PipeEnd:
    """Looks like a socket that only receives, for wire.Client."""

    def __init__(self, data):
        self.data = data

    def settimeout(self, _):
        pass

    def recv(self, length):
        taken, self.data = self.data[:length], self.data[length:]
        return taken


def test_stdio_on_pipes_answers_what_came_before_the_end_of_input(stdio_node):
    """A pipe whose writer is done is no client that has hung up: it still listens."""
    requests = [(wire.CMD_WRITE, number * 512, 512, bytes([number]) * 512) for number in range(100)]
    requests += [(wire.CMD_FLUSH, 0, 0, b""), (wire.CMD_READ, 0, 512 << 10, b"")]
    result = run_on_pipes(stdio_node, pipe_session(requests))
    assert result.returncode == 0, result.stderr
    client = Client(sock=PipeEnd(result.stdout)).greet(None)
    while client.read_option_reply()[1] != wire.REP_ACK:
        pass
    client.pending = {cookie: request[:3] for cookie, request in enumerate(requests, 1)}
    replies = client.read_replies(len(requests))
    assert {reply.error for reply in replies.values()} == {0}
    assert len(replies[len(requests)].data) == 512 << 10
    with pytest.raises(Closed):
        client.recv(1)
    assert stdio_node.image().read_bytes()[:51200] == b"".join(request[3] for request in requests)


def test_stdio_whose_reader_is_gone_ends(stdio_node):
    process = subprocess.Popen(stdio_command(stdio_node), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    process.stdout.close()
    try:
        process.stdin.write(pipe_session([(wire.CMD_READ, 0, 1 << 20, b"")] * 20))
        process.stdin.flush()
    except BrokenPipeError:
        pass
    assert process.wait(30) == 0
    try:
        process.stdin.close()
    except BrokenPipeError:
        pass


@pytest.mark.parametrize("data", [b"", b"\0\0", b"GET / HTTP/1.1\r\n\r\n" * 10],
                         ids=["nothing", "half the flags", "nonsense"])
def test_stdio_with_nothing_or_nonsense_ends(stdio_node, data):
    result = run_on_pipes(stdio_node, data)
    assert result.returncode == 0
    assert b"Sanitizer" not in result.stderr
    assert stdio_node.record()["released"]


@pytest.mark.parametrize("files", ["both", "input", "output"])
def test_stdio_on_a_file_is_refused_in_one_line(stdio_node, tmp_path, files):
    (tmp_path / "file").write_bytes(b"x")
    ours, theirs = socket.socketpair()
    with open(tmp_path / "file", "r+b") as file, ours, theirs:
        result = subprocess.run(stdio_command(stdio_node), stdin=theirs if files == "output" else file,
                                stdout=theirs if files == "input" else file, stderr=subprocess.PIPE,
                                timeout=60, check=False, text=True)
    assert result.returncode == 64
    assert len(result.stderr.splitlines()) == 1 and "standard input and output must be" in result.stderr


def test_stdio_makes_no_socket(stdio_node):
    ours, process = start_on_a_socket(stdio_node)
    with Client(sock=ours).greet().go():
        assert not (stdio_node.run_dir / "200" / "nbd.sock").exists()
    assert process.wait(30) == 0


def test_libnbd_starts_a_gateway_as_a_command(stdio_node):
    nbd = pytest.importorskip("nbd")
    handle = nbd.NBD()
    handle.connect_command(stdio_command(stdio_node))
    handle.pwrite(b"n" * 512, 0, nbd.CMD_FLAG_FUA)
    assert handle.pread(512, 0) == b"n" * 512
    handle.shutdown()
    del handle
    wait_until(lambda: stdio_node.record()["released"], "it has stopped in order")


# Sockets of systemd

def listening(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(16)
    return sock


def start_with(node, sockets):
    return node.spawn_with(sockets).wait_for("serving")


@pytest.mark.parametrize("count", [1, 3, 20])
def test_inherited_sockets_are_served(node, count):
    node.create(200, "1M")
    paths = [node.run_dir / f"in-{number}" for number in range(count)]
    sockets = [listening(path) for path in paths]
    gateway = start_with(node, sockets)
    for path in [*paths, gateway.socket]:
        with Client(str(path)).greet().go() as client:
            client.write(0, str(path).encode().ljust(512, b"."))
            assert client.read(0, 512).startswith(str(path).encode())
    assert gateway.stop() == 0
    for path, sock in zip(paths, sockets):
        assert path.exists()  # systemd's, not ours
        sock.close()


def test_own_socket_may_be_inherited_and_outlives_the_gateway(node):
    """Clients of the next gateway wait in its queue."""
    node.create(200, "1M")
    (node.run_dir / "200").mkdir()
    with listening(node.run_dir / "200" / "nbd.sock") as sock:
        gateway = start_with(node, [sock])
        with gateway.connect() as client:
            client.write(0, b"1" * 512)
            assert gateway.stop() == 0
            assert client.is_closed()
        waiting = Client(gateway.socket)  # connected, not accepted
        second = start_with(node, [sock])
        with waiting.greet().go() as client:
            assert client.read(0, 512) == b"1" * 512
        assert second.stop() == 0
        assert os.path.exists(gateway.socket)


def test_inherited_tcp_socket(node):
    node.create(200, "1M")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(16)
        start_with(node, [sock])
        with Client(sock=socket.create_connection(sock.getsockname())).greet().go() as client:
            assert client.size == 1 << 20


def test_inherited_tcp_socket_beyond_loopback_is_refused(node):
    """Without TLS it is as wrong as `listen` with that address."""
    node.create(200, "1M")
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        sock.listen(16)
        with pytest.raises(AssertionError, match="TLS"):
            start_with(node, [sock])


@pytest.mark.parametrize("make", [
    lambda: socket.socket(socket.AF_UNIX), lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    lambda: open("/dev/null", "rb")], ids=["not listening", "datagrams", "no socket"])
def test_inherited_descriptor_that_is_no_listening_socket_is_refused(node, make):
    node.create(200, "1M")
    with make() as descriptor:
        with pytest.raises(AssertionError, match="descriptor 3 is no listening stream socket"):
            start_with(node, [descriptor])


def test_libnbd_starts_a_gateway_by_socket_activation(node):
    nbd = pytest.importorskip("nbd")
    node.create(200, "1M")
    handle = nbd.NBD()
    if not hasattr(handle, "connect_systemd_socket_activation"):
        pytest.skip("needs a libnbd with connect_systemd_socket_activation")
    handle.connect_systemd_socket_activation([str(GATEWAY), "--config", str(node.config), "200"])
    handle.pwrite(b"a" * 4096, 0)
    handle.flush()
    assert handle.pread(4096, 0) == b"a" * 4096
    handle.shutdown()
    del handle


@needs("systemd-socket-activate")
def test_systemd_activates_a_gateway_on_the_first_client(node):
    node.create(200, "1M")
    paths = [node.run_dir / name for name in ("a", "b")]
    gateway = node.spawn(200, wrap=("systemd-socket-activate", *(f"--listen={path}" for path in paths)))
    wait_until(lambda: all(path.exists() for path in paths), "systemd listens")
    for path in paths:
        with Client(str(path)).greet().go() as client:
            assert client.read(0, 512) == bytes(512)
    assert gateway.stop() == 0
