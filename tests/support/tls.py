"""Certificates and clients for tests of NBD by TLS."""
import ssl
from pathlib import Path

from . import wire
from .node import PROGRAMS, run
from .wire import Client

PSK_NAME, PSK_KEY = "carol", "c0ffee" * 10 + "c0ff"


def tb4_cert(config, *arguments):
    return run(PROGRAMS / "tb4", "--config", config, "cert", *arguments)


class Certificates:
    """gateway, alice, bob: of one authority. stranger/alice: of another one. old: out of date. keys.psk."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir()
        config = self.directory / "tb4.conf"
        config.write_text(f"[paths]\nclaim_dir = {directory}\n[node]\nname = node-a\n")
        tb4_cert(config, "init", "--dir", self.directory)
        tb4_cert(config, "node", "gateway", "--dir", self.directory, "--address", "localhost,127.0.0.1,::1")
        tb4_cert(config, "node", "alice", "--dir", self.directory, "--address", "alice.example")
        tb4_cert(config, "node", "bob", "--dir", self.directory)
        stranger = self.directory / "stranger"
        tb4_cert(config, "init", "--dir", stranger)
        tb4_cert(config, "node", "alice", "--dir", stranger)
        old = self.directory / "old"
        old.mkdir()
        run("faketime", "2020-01-01", "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-subj", "/CN=old", "-days", "30", "-CA", self.directory / "ca-cert.pem", "-CAkey",
            self.directory / "ca-key.pem", "-addext", "extendedKeyUsage=clientAuth", "-keyout", old / "client-key.pem",
            "-out", old / "client-cert.pem")
        self.psk = self.directory / "keys.psk"
        self.psk.write_text(f"# name and key\n{PSK_NAME}:{PSK_KEY}\n")
        self.psk.chmod(0o600)

    def of(self, name):
        return self.directory / name

    def settings(self, psk=True, certificate=True):
        """[tls] of tb4.conf."""
        gateway = self.of("gateway")
        lines = ["[tls]"]
        if certificate:
            lines += [f"authority = {gateway}/ca-cert.pem", f"certificate = {gateway}/server-cert.pem",
                      f"key = {gateway}/server-key.pem"]
        if psk:
            lines.append(f"psk_file = {self.psk}")
        return "\n".join(lines) + "\n"

    def context(self, name="alice", version=ssl.TLSVersion.TLSv1_3):
        """A client's side for Python's ssl (OpenSSL). Without a name it shows no certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.of("gateway") / "ca-cert.pem")
        context.minimum_version = context.maximum_version = version
        if name:
            context.load_cert_chain(self.of(name) / "client-cert.pem", self.of(name) / "client-key.pem")
        return context


def tcp_client(port, **options):
    """In the option phase, in clear text."""
    return Client(address=("127.0.0.1", port), **options).greet()


def upgrade(client, context):
    """STARTTLS. The end of a connection is an error unless TLS has said goodbye."""
    assert client.option(wire.OPT_STARTTLS)[0] == wire.REP_ACK
    client.sock = context.wrap_socket(client.sock, server_hostname="localhost", suppress_ragged_eofs=False)
    return client
