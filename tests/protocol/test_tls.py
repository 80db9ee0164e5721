"""NBD by TLS: public clients are served by certificate and by key, the wrong ones are refused in one clear line and cost
nobody else anything, and nothing that was said in clear text is believed behind STARTTLS."""
import random
import re
import socket
import ssl
import struct
import sys
import threading
import time

import pytest

from support import wire
from support.node import Node, needs, run, wait_until
from support.tls import PSK_KEY, PSK_NAME, Certificates, tcp_client, upgrade
from support.wire import Closed

pytestmark = needs("faketime", "openssl")
SIZE = 64 << 20
ENDS = (Closed, ConnectionError, ssl.SSLError)


def port_of(vmid):
    return 10809 + vmid - 200


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("tls") / "ca")


def start(make_node, certificates, vmid, settings="", data_dir=None, begin=Node.start, **tls):
    node = make_node(settings="[nbd]\nlisten = 127.0.0.1\n" + settings + certificates.settings(**tls), data_dir=data_dir)
    node.create(vmid, SIZE)
    gateway = begin(node, vmid)
    gateway.port, gateway.disk = port_of(vmid), f"vm-{vmid}-disk-0"
    gateway.node.certificates = certificates
    return gateway


@pytest.fixture
def secure(make_node, certificates, tcp_vmid, memory_dir):
    """A gateway with one volume of 64 MiB, by TLS on 127.0.0.1."""
    return start(make_node, certificates, tcp_vmid, data_dir=memory_dir)


def enter(gateway, name="alice", mode="simple"):
    """A raw client in transmission, by TLS."""
    client = upgrade(tcp_client(gateway.port), gateway.node.certificates.context(name))
    if mode == "structured":
        client.use_structured()
    elif mode == "extended":
        client.use_extended()
    return client.go(gateway.disk)


def lines_about(gateway, pattern):
    return [line for line in gateway.log.splitlines() if re.search(pattern, line)]


# Public clients

def uri(gateway, user="", **parameters):
    query = "&".join(f"{name.replace('_', '-')}={value}" for name, value in parameters.items())
    return f"nbds://{user}{'@' if user else ''}localhost:{gateway.port}/{gateway.disk}?{query}"


def test_libnbd_and_its_tools(secure, certificates, tmp_path):
    data = random.Random(1).randbytes(SIZE)
    image, back = tmp_path / "image", tmp_path / "back"
    image.write_bytes(data)
    by_certificate = uri(secure, tls_certificates=certificates.of("alice"))
    by_key = uri(secure, PSK_NAME, tls_psk_file=certificates.psk)
    for address in (by_certificate, by_key):
        assert "with TLS" in run("nbdinfo", address)
    run("nbdcopy", image, by_certificate)
    assert secure.node.image(secure.disk).read_bytes() == data
    run("nbdcopy", by_key, back)
    assert back.read_bytes() == data


def test_qemu_by_certificate_and_by_key(secure, certificates, tmp_path):
    image = tmp_path / "image"
    image.write_bytes(random.Random(2).randbytes(SIZE))
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "keys.psk").write_bytes(certificates.psk.read_bytes())
    kinds = {"x509": f"tls-creds-x509,id=tls,endpoint=client,dir={certificates.of('bob')},verify-peer=on",
             "psk": f"tls-creds-psk,id=tls,endpoint=client,dir={keys},username={PSK_NAME}"}
    where = (f"driver=nbd,host=localhost,port={secure.port},export={secure.disk},tls-creds=tls,"
             "tls-hostname=localhost")
    for number, credentials in enumerate(kinds.values()):
        run("qemu-img", "convert", "-n", "--object", credentials, "--image-opts", "--target-image-opts",
            f"driver=raw,file.driver=file,file.filename={image}", "driver=raw,file." + where.replace(",", ",file."))
        out = run("qemu-io", "--object", credentials, "--image-opts", where, "-c", f"read -v {number}M 16",
                  "-c", f"write -P {0x41 + number} {number}M 1M", "-c", f"read -P {0x41 + number} {number}M 1M",
                  "-c", "flush")
        assert "failed" not in out
    assert secure.node.image(secure.disk).read_bytes()[1 << 20:2 << 20] == b"B" * (1 << 20)


@pytest.mark.parametrize("mode", ["simple", "structured", "extended"])
def test_every_length_arrives_whole_and_in_order(secure, mode):
    rng = random.Random(3)
    with enter(secure, mode=mode) as client:
        expected = bytearray(SIZE)
        for length in (512, 4096, 16383, 16384, 16385, 65536, 1 << 20, 32 << 20, 777777):
            offset = rng.randrange(SIZE - length)
            data = rng.randbytes(length)
            client.write(offset, data)
            expected[offset:offset + length] = data
        for length in (1, 4096, 16384 - 16, 16385, 1 << 20, 32 << 20):
            offset = rng.randrange(SIZE - length)
            assert client.read(offset, length) == expected[offset:offset + length]
        sent = {client.send_request(wire.CMD_READ, number * 65536, 20000): number for number in range(200)}
        for cookie, reply in client.read_replies(200).items():
            at = sent[cookie] * 65536
            assert reply.data == expected[at:at + 20000]


def test_requests_that_wait_inside_a_record_are_answered(secure):
    """Behind a large write only a small window is read, so the rest of a record lies where no event tells of it."""
    with enter(secure) as client:
        sender = threading.Thread(target=lambda: client.send(b"".join(batch)))
        batch, count = [], 0
        for _ in range(20):
            for kind, length in [(wire.CMD_WRITE, 100000)] + [(wire.CMD_READ, 512)] * 450:
                count += 1
                client.pending[count] = (kind, 0, length)
                batch.append(struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, kind, count, 0, length)
                             + b"w" * (length if kind == wire.CMD_WRITE else 0))
        sender.start()
        replies = client.read_replies(count)
        sender.join()
    assert {reply.error for reply in replies.values()} == {0}


def test_status_says_who_is_there_and_how(secure):
    with enter(secure) as client, secure.connect(secure.disk) as local:
        [seen] = secure.status()["nbd"]["tls_clients"]
        assert re.fullmatch(r"127\.0\.0\.1:\d+ \(alice\)", seen["peer"])
        assert seen["volume"] == secure.disk and seen["version"] == "TLS1.3" and not seen["in_kernel"]
        assert "AES" in seen["cipher"] or "CHACHA" in seen["cipher"]
        assert "(alice): " + secure.disk + ", TLS1.3" in secure.node.tb4("status", str(secure.vmid))
        assert client.read(0, 512) == local.read(0, 512)


# Names

def test_only_the_named_see_a_volume(make_node, certificates, tcp_vmid, memory_dir):
    node = make_node(settings="[nbd]\nlisten = 127.0.0.1\n" + certificates.settings(), data_dir=memory_dir)
    names = {0: "alice.example, somebody", 1: "BOB", 2: f"nobody,{PSK_NAME}", 3: None}
    for disk, text in names.items():
        node.create(tcp_vmid, "1M", "--disk", disk)
        path = node.volume_dir / f"vm-{tcp_vmid}-disk-{disk}.conf"
        if text:
            path.write_text(path.read_text().replace("[volume]\n", f"[volume]\ntls_names = {text}\n"))
    gateway = node.start(tcp_vmid)
    nbd = pytest.importorskip("nbd")
    for name, visible in {"alice": {0, 3}, "bob": {1, 3}, PSK_NAME: {2, 3}}.items():
        handle = nbd.NBD()
        handle.set_opt_mode(True)
        handle.set_tls(nbd.TLS_REQUIRE)
        if name == PSK_NAME:
            handle.set_tls_psk_file(str(certificates.psk))
            handle.set_tls_username(PSK_NAME)
        else:
            handle.set_tls_certificates(str(certificates.of(name)))
        handle.connect_tcp("localhost", str(port_of(tcp_vmid)))
        seen = set()
        handle.opt_list(lambda export, _: seen.add(export) and 0)
        assert seen == {f"vm-{tcp_vmid}-disk-{disk}" for disk in visible}
        for disk in (0, 1, 2):
            handle.set_export_name(f"vm-{tcp_vmid}-disk-{disk}")
            if disk in visible:
                handle.opt_info()
                continue
            for attempt in (handle.opt_info, handle.opt_go):
                with pytest.raises(nbd.Error, match="ENOENT|No such file"):
                    attempt()
            assert lines_about(gateway, rf"\({name}\): no export \"vm-{tcp_vmid}-disk-{disk}\" here for it: "
                                        "its name is not among tls_names")
        handle.set_export_name("")  # the first disk, on the unix socket
        with pytest.raises(nbd.Error):
            handle.opt_go()
        handle.set_export_name(f"vm-{tcp_vmid}-disk-3")
        handle.opt_go()
        assert handle.pread(512, 0) == bytes(512)
        handle.shutdown()
    with gateway.connect("") as local:  # names are for TLS only
        assert local.size == 1 << 20
    with upgrade(tcp_client(port_of(tcp_vmid)), certificates.context("bob")) as client:
        client.send_option(wire.OPT_EXPORT_NAME, f"vm-{tcp_vmid}-disk-0".encode())
        with pytest.raises(ENDS):
            client.recv(1)


# The wrong clients, each one line

def speak(certificates, name="alice", version=ssl.TLSVersion.TLSv1_3):
    def attempt(client):
        upgrade(client, certificates.context(name, version)).option(wire.OPT_LIST)
    return attempt


def by_key(name, key):
    def attempt(client):
        port = client.sock.getpeername()[1]
        run("timeout", "20", sys.executable, "-c", f"""
import nbd
handle = nbd.NBD()
open("keys", "w").write("{name}:{key}")
handle.set_tls(nbd.TLS_REQUIRE); handle.set_tls_psk_file("keys"); handle.set_tls_username("{name}")
handle.connect_tcp("localhost", "{port}")""".strip(), check=False)
        raise Closed
    return attempt


def in_clear(*sent):
    def attempt(client):
        for data in sent:
            client.send(data)
        while True:
            client.recv(1)
    return attempt


def option(kind, data=b""):
    return struct.pack(">QII", wire.OPTION_MAGIC, kind, len(data)) + data


def starttls_then(data):
    def attempt(client):
        assert client.option(wire.OPT_STARTTLS)[0] == wire.REP_ACK
        client.send(data)
        while True:
            client.recv(1)
    return attempt


WRONG = {
    "no certificate": (lambda c: speak(c, None), "TLS: it shows no certificate"),
    "of another authority": (lambda c: speak(c, "stranger/alice"), "TLS: its certificate is not signed by our authority"),
    "expired": (lambda c: speak(c, "old"), "TLS: its certificate has expired"),
    "TLS 1.2": (lambda c: speak(c, "alice", ssl.TLSVersion.TLSv1_2), "TLS: it does not speak TLS 1.3, or has no cipher"),
    "clear text behind STARTTLS": (lambda c: starttls_then(option(wire.OPT_LIST) * 10),
                                   "TLS: it sends something else than TLS"),
    "nonsense behind STARTTLS": (lambda c: starttls_then(b"GET / HTTP/1.0\r\n\r\n" * 9),
                                 "TLS: it sends something else than TLS"),
    "injected with STARTTLS": (lambda c: in_clear(option(wire.OPT_STARTTLS) + option(wire.OPT_STRUCTURED_REPLY)),
                               "clear text behind STARTTLS"),
    "half an option injected": (lambda c: in_clear(option(wire.OPT_STARTTLS) + b"I"), "clear text behind STARTTLS"),
    "name of an export in clear text": (lambda c: in_clear(option(wire.OPT_EXPORT_NAME, b"")),
                                        "plain text on a TLS port"),
    "name without a key": (lambda c: by_key("dave", PSK_KEY), "TLS: the PSK file does not have its name"),
    "wrong key": (lambda c: by_key(PSK_NAME, "ab" * 32), "TLS: its key is not the one that the PSK file has"),
    "gone in the handshake": (lambda c: lambda client: (client.option(wire.OPT_STARTTLS), client.send(b"\x16\x03\x01"),
                                                       client.close(), client.recv(1)),
                              None),
}


def test_each_wrong_client_is_refused_in_one_clear_line(secure, certificates, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with enter(secure) as witness:
        for what, (make, expected) in WRONG.items():
            before = len(secure.log.splitlines())
            client = tcp_client(secure.port)
            own = client.sock.getsockname()[1]
            with pytest.raises((*ENDS, OSError)):
                make(certificates)(client)
            client.close()
            wait_until(lambda: secure.status()["nbd"]["handshakes"] == 0, f"{what}: it is gone")
            new = secure.log.splitlines()[before:]
            if expected:
                assert len(new) == 1 and expected in new[0] and new[0].endswith("dropped"), (what, new)
                assert "psk" in what or "key" in what or f"127.0.0.1:{own}" in new[0], (what, new)
            assert witness.read(0, 512) == bytes(512)


def test_options_in_clear_text_are_refused_and_the_session_may_still_begin_tls(secure, certificates):
    with tcp_client(secure.port) as client:
        go = client.info_data(secure.disk, ())
        for kind, data in ((wire.OPT_LIST, b""), (wire.OPT_STRUCTURED_REPLY, b""), (wire.OPT_EXTENDED_HEADERS, b""),
                           (wire.OPT_INFO, go), (wire.OPT_GO, go), (99, b"?"),
                           (wire.OPT_SET_META_CONTEXT, client.meta_data(secure.disk, ["base:allocation"]))):
            assert client.option(kind, data)[0] == wire.ERR_TLS_REQD
        assert client.option(wire.OPT_STARTTLS, b"x")[0] == wire.ERR_INVALID
        upgrade(client, certificates.context())
        assert client.option(wire.OPT_STARTTLS)[0] == wire.ERR_INVALID
        assert client.go(secure.disk).read(0, 512) == bytes(512)
    assert len(lines_about(secure, "plain text on a TLS port: refused")) == 1
    with tcp_client(secure.port) as client:
        assert client.option(wire.OPT_ABORT)[0] == wire.REP_ACK


def test_tls_instead_of_nbd_is_told_apart(secure, certificates):
    """On a TLS port, and on the unix socket, which has none."""
    for client in (secure.client(), wire.Client(address=("127.0.0.1", secure.port))):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            client.recv(18)
            certificates.context().wrap_socket(client.sock, server_hostname="localhost")
        client.close()
    assert len(lines_about(secure, "begins with TLS instead of NBD")) == 2


def test_tls_where_there_is_none(secure):
    with secure.client().greet() as client:
        assert client.option(wire.OPT_STARTTLS)[0] == wire.ERR_POLICY
        assert client.go(secure.disk).read(0, 512) == bytes(512)
    assert len(lines_about(secure, "asks for TLS where there is none: refused")) == 1


def test_clients_see_who_the_gateway_is(secure, certificates):
    """One that expects another name, or another authority, goes; the gateway says why."""
    foreign = ssl.create_default_context()
    foreign.load_cert_chain(certificates.of("alice") / "client-cert.pem", certificates.of("alice") / "client-key.pem")
    for context, host in ((foreign, "localhost"), (certificates.context(), "another.example")):
        with tcp_client(secure.port) as client, pytest.raises(ssl.SSLCertVerificationError):
            assert client.option(wire.OPT_STARTTLS)[0] == wire.REP_ACK
            context.wrap_socket(client.sock, server_hostname=host)
    wait_until(lambda: len(lines_about(secure, "TLS: (ended by the client: |it does not go on: ).*: dropped")) == 2, "a line for each")


# What was said in clear text

def test_nothing_negotiated_in_clear_text_is_kept(make_node, certificates, tcp_vmid, memory_dir):
    """Even where a relay has been allowed to speak for the client: the replies to what it said are dropped, too."""
    gateway = start(make_node, certificates, tcp_vmid, data_dir=memory_dir)
    with tcp_client(gateway.port) as client:
        for kind in (wire.OPT_STRUCTURED_REPLY, wire.OPT_EXTENDED_HEADERS):
            assert client.option(kind)[0] == wire.ERR_TLS_REQD
        upgrade(client, certificates.context())
        meta = client.meta_data(gateway.disk, ["base:allocation"])
        assert client.option(wire.OPT_SET_META_CONTEXT, meta)[0] == wire.ERR_INVALID  # no structured replies
        client.go(gateway.disk)
        assert not client.flags & (wire.FLAG_SEND_DF | wire.FLAG_BLOCK_STATUS_PAYLOAD)
        assert client.read(0, 512) == bytes(512)  # a simple reply, or the client asserts


def test_the_acknowledgement_leaves_in_clear_text_and_last(secure, certificates):
    """Behind many replies that wait in the same buffer."""
    with tcp_client(secure.port) as client:
        client.send(option(wire.OPT_LIST) * 2000 + option(wire.OPT_STARTTLS))
        for _ in range(2000):
            assert client.read_option_reply()[:2] == (wire.OPT_LIST, wire.ERR_TLS_REQD)
        assert client.read_option_reply()[:2] == (wire.OPT_STARTTLS, wire.REP_ACK)
        client.sock = certificates.context().wrap_socket(client.sock, server_hostname="localhost")
        assert client.go(secure.disk).read(0, 512) == bytes(512)


# Limits

def half_handshake(port, rng):
    """A client in the middle of TLS: some bytes of a true first message."""
    client = tcp_client(port)
    assert client.option(wire.OPT_STARTTLS)[0] == wire.REP_ACK
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    hello = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    data = outgoing.read()
    client.send(data[:rng.choice((0, 1, 5, 100, len(data)))])
    return client


def test_half_handshakes_are_bounded_and_end_in_time(make_node, certificates, tcp_vmid, memory_dir):
    gateway = start(make_node, certificates, tcp_vmid, "max_handshakes = 8\nhandshake_timeout = 2\n", memory_dir)
    rng = random.Random(5)
    with enter(gateway) as witness:
        halves = [half_handshake(gateway.port, rng) for _ in range(60)]
        assert gateway.status()["nbd"]["handshakes"] <= 8
        with enter(gateway, "bob") as honest:
            assert honest.read(0, 512) == bytes(512)
        wait_until(lambda: gateway.status()["nbd"]["handshakes"] == 0, "the rest is dropped")
        assert lines_about(gateway, "no export chosen within 2 s: dropped")
        assert lines_about(gateway, "the oldest of 8 in the handshake: dropped")
        assert witness.read(0, 512) == bytes(512)
        for client in halves:
            client.close()


@pytest.mark.plain
def test_memory_is_bounded_and_comes_back(make_node, certificates, tcp_vmid, memory_dir):
    gateway = start(make_node, certificates, tcp_vmid, data_dir=memory_dir)
    rng = random.Random(6)
    with enter(gateway) as client:
        client.read(0, 32 << 20)

    def load():
        halves = [half_handshake(gateway.port, rng) for _ in range(70)]
        clients = [enter(gateway) for _ in range(20)]
        for client in clients:
            assert client.read(0, 1 << 20) == bytes(1 << 20)
        for client in [*halves, *clients]:
            client.close()
        wait_until(lambda: gateway.status()["nbd"]["connections"] == 0, "all are gone")

    load()
    before = gateway.memory("Pss_Anon")
    for _ in range(3):
        load()
    assert gateway.memory("Pss_Anon") < before + (4 << 20)


# Ends

def test_orderly_stop_answers_what_is_in_flight_and_says_goodbye(make_node, certificates, tcp_vmid, memory_dir, faults):
    gateway = start(make_node, certificates, tcp_vmid, data_dir=memory_dir, begin=faults.start)
    with enter(gateway) as client, enter(gateway, "bob") as idle:
        faults.set("write delay 3000 3000", "read late 3000 3000")  # long enough for a busy machine
        sent = [client.send_request(wire.CMD_WRITE, number << 20, 1 << 20, 0, bytes([number]) * (1 << 20))
                for number in range(8)]
        sent.append(client.send_request(wire.CMD_READ, 32 << 20, 1 << 20))
        wait_until(lambda: gateway.volume_status()["in_flight"] == 9, "all are in flight")
        assert gateway.stop() == 0
        assert sorted(client.read_replies(9)) == sent
        assert client.sock.recv(1) == b"" and idle.sock.recv(1) == b""  # close_notify: otherwise an SSLEOFError
    image = gateway.node.image(gateway.disk).read_bytes()
    assert image[:8 << 20] == b"".join(bytes([number]) * (1 << 20) for number in range(8))


def test_a_connection_cut_in_the_middle_costs_only_itself(secure, certificates):
    """By RST while requests and replies are under way, and once more with each kind of end."""
    rng = random.Random(7)
    with enter(secure, "bob") as witness:
        for number in range(30):
            client = enter(secure)
            for _ in range(8):
                client.send_request(wire.CMD_READ, 0, 1 << 20)
            client.send_request(wire.CMD_WRITE, 4 << 20, 4 << 20, 0, rng.randbytes(1 << 20))  # not the whole of it
            if number % 3:
                client.recv(rng.randrange(1, 100000))
            if number % 2:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            witness.write(0, bytes([number]) * 4096)
            assert witness.read(0, 4096) == bytes([number]) * 4096
        assert witness.read(4 << 20, 1 << 20) == bytes(1 << 20)
        wait_until(lambda: secure.status()["nbd"]["connections"] == 1, "the others are gone")


def test_damaged_records_end_the_connection(secure, certificates):
    """Bytes changed on the way are never data."""
    with enter(secure, "bob") as witness:
        raw = tcp_client(secure.port)
        assert raw.option(wire.OPT_STARTTLS)[0] == wire.REP_ACK
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = certificates.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.send(outgoing.read())
                incoming.write(raw.sock.recv(65536))
        raw.send(outgoing.read())
        tls.write(option(wire.OPT_LIST))
        record = bytearray(outgoing.read())
        record[-3] ^= 1
        raw.send(bytes(record))
        secure.wait_for_log("TLS: a record has been damaged: dropped")
        assert witness.read(0, 512) == bytes(512)
        raw.close()


def test_a_client_that_takes_no_replies_holds_up_nobody(secure):
    data = random.Random(8).randbytes(32 << 20)
    with enter(secure) as stuck, enter(secure, "bob") as other:
        other.write(0, data)
        sent = {stuck.send_request(wire.CMD_READ, number << 18, (1 << 20) + number): number for number in range(60)}
        time.sleep(0.3)
        for number in range(20):
            other.write(48 << 20, bytes([number]) * 4096)
        for cookie, reply in stuck.read_replies(60).items():
            at = sent[cookie] << 18
            assert reply.data == data[at:at + (1 << 20) + sent[cookie]]


# Settings

def test_a_certificate_alone_and_keys_alone(make_node, certificates, tcp_vmid, memory_dir):
    gateway = start(make_node, certificates, tcp_vmid, data_dir=memory_dir, psk=False)
    with enter(gateway) as client:
        assert client.read(0, 512) == bytes(512)
    assert run("nbdinfo", "--size", uri(gateway, PSK_NAME, tls_psk_file=certificates.psk), check=False).returncode != 0
    gateway.wait_for_log("TLS: it (shows no certificate|is gone before the handshake is finished)")
    gateway.stop()
    gateway.node.write_config("[nbd]\nlisten = 127.0.0.1\n" + certificates.settings(certificate=False))
    gateway.node.start(tcp_vmid)
    assert run("nbdinfo", "--size", uri(gateway, PSK_NAME, tls_psk_file=certificates.psk)) == f"{SIZE}\n"
    assert run("nbdinfo", "--size", uri(gateway, tls_certificates=certificates.of("alice")), check=False).returncode != 0


def test_a_revoked_certificate_is_refused(make_node, certificates, tcp_vmid, memory_dir, tmp_path):
    authority = certificates.directory
    (tmp_path / "openssl.cnf").write_text(
        f"[ca]\ndefault_ca = it\n[it]\ndatabase = {tmp_path}/index\ndefault_md = sha256\ndefault_crl_days = 30\n")
    (tmp_path / "index").write_text("")
    by = ("openssl", "ca", "-config", tmp_path / "openssl.cnf", "-cert", authority / "ca-cert.pem", "-keyfile",
          authority / "ca-key.pem")
    run(*by, "-revoke", authority / "bob" / "server-cert.pem")
    run(*by, "-gencrl", "-out", tmp_path / "crl.pem")
    node = make_node(settings="[nbd]\nlisten = 127.0.0.1\n" + certificates.settings() + f"revoked = {tmp_path}/crl.pem\n",
                     data_dir=memory_dir)
    node.create(tcp_vmid, "1M")
    gateway = node.start(tcp_vmid)
    gateway.port, gateway.disk, gateway.node.certificates = port_of(tcp_vmid), f"vm-{tcp_vmid}-disk-0", certificates
    with enter(gateway, "alice") as client:
        assert client.size == 1 << 20
    with pytest.raises(ENDS):
        enter(gateway, "bob")
    gateway.wait_for_log("TLS: its certificate has been revoked: dropped")


def test_reload_takes_new_certificates_and_names(make_node, tcp_vmid, memory_dir, tmp_path):
    """For clients that come; whoever is there stays. What cannot be used changes nothing."""
    own = Certificates(tmp_path / "ca")
    gateway = start(make_node, own, tcp_vmid, data_dir=memory_dir)
    node, path = gateway.node, gateway.node.volume_dir / f"{gateway.disk}.conf"
    with enter(gateway) as kept:
        first = kept.sock.getpeercert(True)
        node.tb4("cert", "node", "gateway", "--dir", own.directory, "--address", "localhost,127.0.0.1", "--force")
        assert node.tb4_json("reload", tcp_vmid)["changed"] == ["[tls]"]
        with enter(gateway) as fresh:
            assert fresh.sock.getpeercert(True) != first
        path.write_text(path.read_text().replace("[volume]\n", "[volume]\ntls_names = bob\n"))
        assert node.tb4_json("reload", tcp_vmid)["changed"] == ["[tls]", gateway.disk]
        with pytest.raises(AssertionError):
            enter(gateway, "alice")
        with enter(gateway, "bob"):
            pass
        (own.of("gateway") / "server-cert.pem").write_text("nothing\n")
        result = node.tb4("reload", tcp_vmid, check=False)
        assert result.returncode == 78 and "[tls] certificate = " in result.stderr, result.stderr
        with enter(gateway, "bob"):
            kept.write(0, b"k" * 512)
            assert kept.read(0, 512) == b"k" * 512
    assert gateway.stop() == 0


def test_with_tls_the_port_may_lie_beyond_loopback(make_node, certificates, tcp_vmid, memory_dir):
    node = make_node(settings="[nbd]\nlisten = 0.0.0.0\n" + certificates.settings(), data_dir=memory_dir)
    node.create(tcp_vmid, "1M")
    gateway = node.start(tcp_vmid)
    gateway.port, gateway.disk, gateway.node.certificates = port_of(tcp_vmid), f"vm-{tcp_vmid}-disk-0", certificates
    with enter(gateway) as client:
        assert client.size == 1 << 20
    assert "no faults" in node.tb4("check")


def test_faults_of_the_settings_are_one_line_each(make_node, certificates, tmp_path, tcp_vmid):
    gateway = certificates.of("gateway")
    files = {name: f"{gateway}/{file}" for name, file in (
        ("authority", "ca-cert.pem"), ("certificate", "server-cert.pem"), ("key", "server-key.pem"))}
    open_key, empty, bad_keys = tmp_path / "open", tmp_path / "empty", tmp_path / "bad"
    open_key.write_bytes((gateway / "server-key.pem").read_bytes())
    open_key.chmod(0o640)
    empty.write_text("")
    empty.chmod(0o600)
    faults = [
        ({**files, "key": open_key}, "others may read it: chmod 600"),
        ({**files, "key": tmp_path / "none"}, "no such file"),
        ({**files, "key": certificates.of("alice") / "server-key.pem"}, "key = "),
        ({**files, "authority": empty}, "authority = "),
        ({**files, "certificate": empty}, "certificate = "),
        ({"authority": files["authority"]}, "needs all of authority, certificate and key"),
        ({"psk_file": empty}, "no key in it"),
    ]
    for number, text in enumerate(("carol", "carol:", "carol:xyz", ":" + PSK_KEY, "carol:abcd", "carol:" + PSK_KEY + "0",
                                   f"{PSK_NAME}:{PSK_KEY}\ncarol:" + "ab" * 65)):
        path = bad_keys.with_suffix(f".{number}")
        path.write_text(text)
        path.chmod(0o600)
        faults.append(({"psk_file": path}, f"line {2 if number == 6 else 1} is not NAME:HEXKEY"))
    node = make_node()
    node.create(tcp_vmid, "1M")
    for settings, expected in faults:
        node.write_config("[nbd]\nlisten = 127.0.0.1\n[tls]\n" + "".join(
            f"{name} = {value}\n" for name, value in settings.items()))
        status, log = node.run_to_end(tcp_vmid)
        assert status != 0 and log.count("\n") == 1 and expected in log, (settings, log)
        checked = node.tb4("check", check=False)
        assert checked.returncode == 78 and expected in checked.stdout, (settings, checked.stdout)


def test_without_a_port_the_certificate_is_nobodys_business(make_node, tcp_vmid):
    """What is wrong with TLS does not stop a VM that uses the unix socket."""
    node = make_node(settings="[tls]\npsk_file = /nowhere\n")
    node.create(tcp_vmid, "1M")
    with node.start(tcp_vmid).connect() as client:
        assert client.read(0, 512) == bytes(512)
