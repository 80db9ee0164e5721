"""The control socket, byte by byte: what is malformed costs its own connection and nobody else."""
import fcntl
import json
import os
import random
import re
import socket
import struct
import subprocess
import threading
import time

import pytest

STATUS = b'{"version":1,"command":"status"}\n'


class Control:
    """One connection to a gateway's control socket."""

    def __init__(self, gateway, timeout=30):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(gateway.directory / "control.sock"))
        self.sock.settimeout(timeout)
        self.rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def line(self):
        """The next line without its end; None at the end of the connection."""
        while b"\n" not in self.rest:
            try:
                part = self.sock.recv(65536)
            except ConnectionResetError:
                part = b""
            if not part:
                assert self.rest == b"", self.rest
                return None
            self.rest += part
        line, self.rest = self.rest.split(b"\n", 1)
        return line

    def answer(self):
        line = self.line()
        assert line is not None, "closed without an answer"
        answer = json.loads(line)
        assert answer["version"] == 1
        return answer

    def refusal(self):
        answer = self.answer()
        assert set(answer) == {"version", "ok", "error", "exit_status"} and answer["ok"] is False
        assert answer["error"] and "\n" not in answer["error"]
        return answer

    def is_closed(self):
        return self.line() is None


@pytest.fixture(autouse=True)
def nbd_is_undisturbed(gateway):
    """Whatever a test does to the control socket, an NBD client notices nothing and the gateway goes on."""
    with gateway.connect() as client:
        client.write(0, b"before" * 512)
        yield
        assert client.read(0, 3072) == b"before" * 512
        client.write(4096, b"after!" * 512)
        client.flush()
    with Control(gateway) as control:
        control.send(STATUS)
        assert control.answer()["state"] in ("serving", "fenced")
    assert gateway.stop() == 0
    assert "Sanitizer" not in gateway.log


@pytest.mark.parametrize("line, text", [
    (b"", "not a JSON object"), (b"hello", "not a JSON object"), (b"[]", "not a JSON object"), (b"1", "not a JSON object"),
    (b"null", "not a JSON object"), (b'"status"', "not a JSON object"), (b"{", "not a JSON object"),
    (b'{"version":1,"command":"status"', "not a JSON object"),
    (b'{"version":1,"command":"status"}}', "not a JSON object"),
    (b'{"version":1,"command":"status"} {}', "not a JSON object"),
    (b'{"version":1,"command":"sta\xfftus"}', "not a JSON object"),
    (b'{"version":1,"command":"status\x00"}', "not a JSON object"),
    (b"\x00", "not a JSON object"), (b"\xff\xfe\xfd", "not a JSON object"),
    (b'{"version":NaN}', "not a JSON object|version"), (b'{"version":1,}', "not a JSON object"),
    (b'{"version":01,"command":"status"}', "not a JSON object"),
    (b'{"a":' * 9 + b"1" + b"}" * 9, "not a JSON object"), (b"[" * 30000, "not a JSON object"),
    (b'{"version":1,"command":"status","x":' + b"[" * 20 + b"]" * 20 + b"}", "not a JSON object"),
    (b"{}", "version is missing or not 1"), (b'{"command":"status"}', "version is missing or not 1"),
    (b'{"version":2,"command":"status"}', "version is missing or not 1"),
    (b'{"version":"1","command":"status"}', "version is missing or not 1"),
    (b'{"version":-1,"command":"status"}', "version is missing or not 1"),
    (b'{"version":1.5,"command":"status"}', "version is missing or not 1"),
    (b'{"version":18446744073709551617,"command":"status"}', "version is missing or not 1|not a JSON object"),
    (b'{"version":1}', "command is missing"), (b'{"version":1,"command":5}', "command is missing"),
    (b'{"version":1,"command":null}', "command is missing"),
    (b'{"version":1,"command":"sta\\u0000tus"}', "command is missing"),
], ids=lambda value: "" if isinstance(value, str) else repr(value[:50]))
def test_what_is_no_request_gets_one_answer_and_the_end(gateway, line, text):
    with Control(gateway) as control:
        control.send(line + b"\n")
        refusal = control.refusal()
        assert re.fullmatch(f"(?:{text}).*", refusal["error"]) and refusal["exit_status"] == 64
        assert control.is_closed()


@pytest.mark.parametrize("command", ["", "nonsense", "x" * 60000, "status ", "STATUS", "\\u001b[31m", "\\\\"],
                         ids=lambda command: command[:10])
def test_unknown_command_is_refused_and_the_connection_goes_on(gateway, command):
    with Control(gateway) as control:
        control.send(b'{"version":1,"command":"' + command.encode() + b'"}\n')
        refusal = control.refusal()
        assert refusal["error"].startswith("unknown command") and len(refusal["error"]) < 200
        assert refusal["exit_status"] == 64
        control.send(STATUS)
        assert control.answer()["ok"] is True


@pytest.mark.parametrize("request_fields", [
    {}, {"volume": "vm-200-disk-0"}, {"size": 1 << 20}, {"volume": "vm-201-disk-0", "size": 128 << 20},
    {"volume": "", "size": 128 << 20}, {"volume": None, "size": 128 << 20}, {"volume": 5, "size": 128 << 20},
    {"volume": "vm-200-disk-0", "size": "128M"}, {"volume": "vm-200-disk-0", "size": -512},
    {"volume": "vm-200-disk-0", "size": 1.5}, {"volume": "vm-200-disk-0", "size": (128 << 20) + 1},
    {"volume": "vm-200-disk-0", "size": 512}, {"volume": "vm-200-disk-0", "size": 0},
    {"volume": "vm-200-disk-0", "size": (1 << 64) - 512},
], ids=lambda fields: json.dumps(fields))
def test_wrong_resize_is_refused_and_the_connection_goes_on(node, gateway, request_fields):
    before = (node.volume_dir / "vm-200-disk-0.conf").read_bytes()
    with Control(gateway) as control:
        control.send(json.dumps({"version": 1, "command": "resize", **request_fields}).encode() + b"\n")
        control.refusal()
        control.send(STATUS)
        assert control.answer()["volumes"][0]["size"] == 64 << 20
    assert (node.volume_dir / "vm-200-disk-0.conf").read_bytes() == before
    assert node.image().stat().st_size == 64 << 20


def test_resize_to_more_than_64_bits_is_refused_and_changes_nothing(node, gateway):
    """To json-c from 0.18 on it is no JSON, so that the connection ends."""
    with Control(gateway) as control:
        control.send(b'{"version":1,"command":"resize","volume":"vm-200-disk-0","size":%d}\n' % (1 << 70))
        control.refusal()
    assert gateway.volume_status()["size"] == node.image().stat().st_size == 64 << 20


def test_unknown_fields_are_ignored(gateway):
    with Control(gateway) as control:
        control.send(b'{"later":{"a":[1,2]},"version":1,"command":"status","version ":2}\n')
        assert control.answer()["ok"] is True


def test_white_space_around_a_request_is_allowed_inside_the_line(gateway):
    with Control(gateway) as control:
        control.send(b'  {\t"version" : 1 , "command" : "status" }\n')
        assert control.answer()["ok"] is True


@pytest.mark.parametrize("extra", [0, 1, 1 << 20], ids=["64 KiB", "and one byte", "and 1 MiB"])
def test_line_that_is_too_long_gets_one_answer_and_the_end(gateway, extra):
    with Control(gateway) as control:
        try:
            control.send(b"x" * ((64 << 10) + extra))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it need not take all of it
        assert control.refusal()["error"] == "line too long"
        assert control.is_closed()


def test_longest_line_is_taken(gateway):
    with Control(gateway) as control:
        filler = b" " * ((64 << 10) - len(STATUS))
        control.send(filler + STATUS)
        assert control.answer()["ok"] is True


def test_request_may_come_byte_by_byte(gateway):
    with Control(gateway) as control:
        for byte in STATUS:
            control.send(bytes([byte]))
            time.sleep(0.001)
        assert control.answer()["ok"] is True


@pytest.mark.parametrize("count", [2, 100])
def test_requests_sent_together_are_answered_in_order(gateway, count):
    with Control(gateway) as control:
        control.send(b"".join(b'{"version":1,"command":"%d"}\n' % i for i in range(count)))
        assert [control.refusal()["error"] for _ in range(count)] == [f"unknown command {i}" for i in range(count)]


def test_requests_behind_a_bad_line_are_not_executed(node, gateway):
    with Control(gateway) as control:
        control.send(b"nonsense\n" + b'{"version":1,"command":"resize","volume":"vm-200-disk-0","size":134217728}\n' * 200)
        assert control.refusal()["error"] == "not a JSON object"
        assert control.is_closed()
    for _ in range(20):
        assert gateway.volume_status()["size"] == node.image().stat().st_size == 64 << 20
        time.sleep(0.01)


def test_half_a_request_and_the_end_is_forgotten(gateway):
    for cut in (0, 1, len(STATUS) // 2, len(STATUS) - 1):
        with Control(gateway) as control:
            control.send(STATUS[:cut])
            control.sock.shutdown(socket.SHUT_WR)
            assert control.is_closed()


def test_clients_that_leave_before_their_answer_cost_nothing(gateway):
    for i in range(50):
        control = Control(gateway)
        control.send((STATUS if i % 2 else b'{"version":1,"command":"metrics"}\n') * (1 + i % 3))
        if i % 5 == 0:
            control.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        control.sock.close()


def test_client_that_leaves_during_its_resize_costs_nothing(node, gateway):
    for size in range(65, 75):
        control = Control(gateway)
        control.send(b'{"version":1,"command":"resize","volume":"vm-200-disk-0","size":%d}\n' % (size << 20))
        control.sock.close()
    deadline = time.monotonic() + 20
    while node.tb4_json("volume", "info", "200")["size"] < 65 << 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_second_resize_at_the_same_time_is_refused_or_done(node, gateway):
    """Never mixed: what is shown, what the file says and what the image has is one size."""
    controls = [Control(gateway) for _ in range(8)]
    for i, control in enumerate(controls):
        control.send(b'{"version":1,"command":"resize","volume":"vm-200-disk-0","size":%d}\n' % ((65 + i) << 20))
    answers = [control.answer() for control in controls]
    for control in controls:
        control.sock.close()
    done = [answer["size"] for answer in answers if answer["ok"]]
    assert done and all("changed already" in answer["error"] or "must be larger" in answer["error"]
                        for answer in answers if not answer["ok"])
    assert gateway.volume_status()["size"] == max(done) == node.image().stat().st_size
    assert node.tb4_json("volume", "info", "200")["size"] == max(done)


def test_pipelined_resizes_are_done_one_after_the_other(node, gateway):
    with Control(gateway) as control:
        control.send(b"".join(b'{"version":1,"command":"resize","volume":"vm-200-disk-0","size":%d}\n' %
                              (size << 20) for size in range(65, 75)))
        assert [control.answer().get("size") for _ in range(10)] == [size << 20 for size in range(65, 75)]
    assert node.image().stat().st_size == 74 << 20


def test_the_oldest_of_too_many_silent_clients_goes(gateway):
    controls = [Control(gateway) for _ in range(40)]
    with Control(gateway) as control:
        control.send(STATUS)
        assert control.answer()["ok"] is True
    assert controls[0].is_closed()
    controls[-1].send(STATUS)
    assert controls[-1].answer()["ok"] is True
    for control in controls:
        control.sock.close()


def test_a_client_that_waits_for_its_resize_neither_goes_nor_keeps_silent_ones(node, gateway):
    before = len(os.listdir(f"/proc/{gateway.pid}/fd"))
    with open(node.volume_dir / ".lock") as lock, Control(gateway) as waiting:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting.send(b'{"version":1,"command":"resize","volume":"vm-200-disk-0","size":134217728}\n')
        time.sleep(0.2)
        controls = [Control(gateway) for _ in range(100)]
        assert controls[0].is_closed()
        assert len(os.listdir(f"/proc/{gateway.pid}/fd")) <= before + 20
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.answer()["size"] == 128 << 20
    for control in controls:
        control.sock.close()


def test_many_clients_at_once_are_all_answered(gateway):
    answers = []

    def ask():
        for _ in range(20):
            with Control(gateway) as control:
                control.send(STATUS)
                answers.append(control.answer()["ok"])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 160


def test_client_that_takes_no_answers_is_not_read_from(gateway):
    """Or the answers that it does not take would fill the memory."""
    with Control(gateway, timeout=3) as control:
        with pytest.raises((TimeoutError, BrokenPipeError, ConnectionResetError)):
            for _ in range(1000):
                control.send(b'{"version":1,"command":"metrics"}\n' * 100)


def test_silent_and_slow_clients_are_dropped_after_the_time_limit(gateway):
    """One says nothing, one says a byte now and then; 10 s for each."""
    silent, slow = Control(gateway), Control(gateway)
    began = time.monotonic()
    sent = 0
    while time.monotonic() < began + 60:
        try:
            slow.send(STATUS[sent:sent + 1] if sent < 10 else b" ")
            sent += 1
        except (BrokenPipeError, ConnectionResetError):
            break
        time.sleep(0.5)
    else:
        raise AssertionError("the slow client is still there")
    assert silent.is_closed()
    for control in (silent, slow):
        control.sock.close()


def test_random_bytes_never_hurt(gateway):
    dice = random.Random(5)
    for _ in range(100):
        with Control(gateway) as control:
            data = bytearray(STATUS * dice.randrange(1, 4))
            for _ in range(dice.randrange(1, 8)):
                data[dice.randrange(len(data))] = dice.randrange(256)
            try:
                control.send(bytes(data) + b"\nthe end\n")
                while (line := control.line()) is not None:
                    assert json.loads(line)["version"] == 1
            except (BrokenPipeError, ConnectionResetError):
                pass


def test_only_root_and_the_gateways_user_may_connect(gateway):
    path = gateway.directory / "control.sock"
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    path.chmod(0o666)  # even then
    gateway.node.run_dir.chmod(0o755)
    script = (f"import os,socket\nos.setuid(65534)\ns=socket.socket(socket.AF_UNIX)\ns.settimeout(20)\n"
              f"s.connect({str(path)!r})\nprint('connected')\n"
              f"try:\n s.sendall({STATUS!r})\n print(s.recv(100))\n"
              "except (BrokenPipeError, ConnectionResetError):\n print(b'')\n")
    result = subprocess.run(["/usr/bin/python3", "-c", script], capture_output=True, text=True, timeout=60,
                            check=False)
    assert result.stdout == "connected\nb''\n", result.stderr


def test_sockets_are_private_and_gone_after_the_stop(node, gateway):
    for name in ("nbd.sock", "control.sock"):
        assert oct((gateway.directory / name).stat().st_mode & 0o777) == "0o600"
    assert sorted(os.listdir(gateway.directory)) == ["control.sock", "lock", "nbd.sock", "role"]
