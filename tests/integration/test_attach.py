"""tb4 attach and detach up to the kernel, which not every machine has: what is asked of the gateway, and what is believed of its
answers. Behind that: tests/vm/test_vm_attach.py."""
import socket
import struct
import threading

import pytest

from support import wire
from support.outcome import refused

GREETING = struct.pack(">QQH", wire.NBD_MAGIC, wire.OPTION_MAGIC, 3)
SIZE = 64 << 20


def reply(kind, data=b"", option=wire.OPT_GO, magic=wire.OPTION_REPLY_MAGIC):
    return struct.pack(">QIII", magic, option, kind, len(data)) + data


def export(size=SIZE):
    return reply(wire.REP_INFO, struct.pack(">HQH", wire.INFO_EXPORT, size, wire.FLAG_HAS_FLAGS | wire.FLAG_CAN_MULTI_CONN))


class Server:
    """Listens as the gateway of VM 200 and sends what it is given, a greeting and replies, whatever it is asked."""

    def __init__(self, node, answer, stays):
        directory = node.run_dir / "200"
        directory.mkdir(parents=True)
        self.greeting, self.replies, self.stays = answer[:len(GREETING)], answer[len(GREETING):], stays
        self.clients = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / "nbd.sock"))
        self.listener.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
                client.sendall(self.greeting)
                if self.replies:
                    client.recv(4096)
                    client.sendall(self.replies)
            except OSError:
                return
            if self.stays:
                self.clients.append(client)
            else:
                client.close()


@pytest.fixture
def attach(node):
    """The outcome of an attach to a server that gives this answer."""
    servers = []

    def run(answer, stays=True):
        node.create(200, "64M")
        servers.append(Server(node, answer, stays))
        return node.tb4("attach", "200", check=False)

    yield run
    for server in servers:
        server.listener.close()


def test_without_a_gateway_nobody_waits(node):
    node.create(200, "64M")
    refused(node.tb4("attach", "200", check=False), 69, "nbd.sock: no gateway answers")


NONSENSE = {
    "not NBD": (b"SSH-2.0-OpenSSH_9.2", "does not speak NBD"),
    "old style": (struct.pack(">QQH", wire.NBD_MAGIC, 0x00420281861253, 0), "does not speak NBD"),
    "not fixed": (struct.pack(">QQH", wire.NBD_MAGIC, wire.OPTION_MAGIC, 0), "does not speak NBD"),
    "another magic": (GREETING + reply(wire.REP_ACK, magic=1), "makes no sense"),
    "another option": (GREETING + reply(wire.REP_ACK, option=6), "makes no sense"),
    "endless text": (GREETING + struct.pack(">QIII", wire.OPTION_REPLY_MAGIC, wire.OPT_GO, wire.ERR_UNKNOWN, 0xffffffff), "makes no sense"),
    "no size": (GREETING + reply(wire.REP_ACK), "does not say how large"),
    "size of nothing": (GREETING + export(0) + reply(wire.REP_ACK), "no size that a device can have"),
    "size beyond all": (GREETING + export(1 << 63) + reply(wire.REP_ACK), "no size that a device can have"),
    "short size": (GREETING + reply(wire.REP_INFO, b"\0\0\0\0") + reply(wire.REP_ACK), "does not say how large"),
    "no end": (GREETING + export() * 100, "does not come to an end"),
}


@pytest.mark.parametrize("answer, said", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_of_a_server_is_refused_in_one_line(attach, answer, said):
    refused(attach(answer), 65, said)


def test_refusal_of_the_gateway_is_shown_without_its_control_characters(attach):
    refused(attach(GREETING + reply(wire.ERR_UNKNOWN, b"vm-200-disk-0: gone\x1b[2J\n")), 69, r"vm-200-disk-0: gone\?\[2J\?$")


def test_server_that_hangs_up(attach):
    result = attach(GREETING + export(), stays=False)
    assert result.returncode != 0 and result.stderr.count("\n") == 1 and "nbd.sock" in result.stderr


def test_dry_run_names_the_device_of_the_scheme_and_asks_nobody(node):
    node.create(217, "1M")
    node.create(300, "1M")
    assert node.tb4("attach", "217", "--dry-run") == "vm-217-disk-0 is to be /dev/nbd17\n"
    assert node.tb4("attach", "300", "--dry-run") == "vm-300-disk-0 is to be /dev/nbd100\n"
    assert node.tb4("attach", "vm-217-disk-0", "--device", "3", "--dry-run") == "vm-217-disk-0 is to be /dev/nbd3\n"
    assert node.tb4_json("attach", "217", "--dry-run") == {
        "devices": [{"name": "vm-217-disk-0", "device": "/dev/nbd17", "size": 1 << 20, "was_attached": False}], "dry_run": True}
    assert node.tb4("detach", "217") == "nothing of VM 217 is attached\n"
    assert node.tb4("detach", "217", "--disk", "3") == "vm-217-disk-3 is not attached\n"
    assert node.tb4_json("detach", "vm-999-disk-0") == {"devices": [], "dry_run": False}
    refused(node.tb4("detach", "nonsense", check=False), 64, "nonsense")


def test_vmid_means_all_volumes_of_the_vm(node):
    node.create(200, "1M")
    node.tb4("volume", "create", 200, "1M", "--disk", "1")
    assert node.tb4("attach", "200", "--dry-run") == "vm-200-disk-0 is to be /dev/nbd0\nvm-200-disk-1 is to be /dev/nbd100\n"
    assert node.tb4("attach", "200", "--disk", "1", "--dry-run") == "vm-200-disk-1 is to be /dev/nbd100\n"
    refused(node.tb4("attach", "200", "--device", "3", check=False), 64, "--device goes with one volume; VM 200 has 2: see --disk")
    refused(node.tb4("attach", "201", check=False), 66, "201")


@pytest.mark.parametrize("words, said", [
    (["--connections", "0"], "--connections 0: not a number from 1 to 16"),
    (["--connections", "17"], "--connections 17: not a number from 1 to 16"),
    (["--device", "x"], "--device x: not a number from 0 to 1048575"),
    (["--device", "1048576"], "--device 1048576: not a number from 0 to 1048575"),
    (["--device", "99999999999999999999"], "not a number from 0 to 1048575"),
    (["--keep", "--dry-run"], "--keep does not go with --dry-run or --json"),
    (["--keep", "--json"], "--keep does not go with --dry-run or --json"),
])
def test_options_that_make_no_sense(node, words, said):
    node.create(200, "1M")
    refused(node.tb4("attach", "200", *words, check=False), 64, said)
