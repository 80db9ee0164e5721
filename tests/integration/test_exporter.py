"""tb4-exporter: one scrape has all gateways of the node, and none of them, nor a client, can hold it up or bring it down."""
import os
import re
import signal
import socket
import subprocess

import pytest

from support.exporter import Exporter
from support.metrics import FAMILIES, parse_metrics, value
from support.node import PROGRAMS
from support.outcome import refused


@pytest.fixture
def make_exporter(node):
    made = []

    def make(**options):
        made.append(Exporter(node, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
        assert "Sanitizer" not in one.log


@pytest.fixture
def exporter(make_exporter):
    return make_exporter()


def up(samples):
    return {dict(labels)["vmid"]: count for (name, labels), count in samples.items() if name == "tb4_up"}


def without_time(samples):
    return {key: count for key, count in samples.items() if key[0] != "tb4_uptime_seconds"}


def test_a_scrape_is_what_tb4_metrics_prints_of_all_vms(node, exporter):
    assert exporter.scrape() == ({("tb4_gateways", ()): 0}, FAMILIES)
    for vmid in (300, 200):
        node.create(vmid, "1M")
        node.start(vmid)
    with node.gateways[1].connect() as client:
        client.write(0, bytes(4096))
        samples, types = exporter.scrape()
        same, _ = parse_metrics(node.tb4("metrics"))
    assert types == FAMILIES and without_time(samples) == without_time(same)
    assert value(samples, "tb4_requests_total", command="write") == 1 and samples[("tb4_gateways", ())] == 2


def test_gateways_that_hang_or_were_killed_are_down_and_the_others_are_told(node, exporter):
    for vmid in (200, 201, 202, 203):
        node.create(vmid, "1M")
        node.start(vmid)
    hung, killed, stopped, _ = node.gateways
    os.kill(hung.pid, signal.SIGSTOP)
    killed.kill()
    stopped.stop()
    waiting = []
    try:
        for _ in range(2):  # the second time with a full queue
            samples, _ = exporter.scrape()
            assert up(samples) == {"200": 0, "201": 0, "203": 1}
            assert {dict(labels)["vmid"] for name, labels in samples if name == "tb4_volume_state"} == {"203"}
            while True:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                try:
                    waiting[-1].connect(str(hung.directory / "control.sock"))
                except BlockingIOError:
                    break
    finally:
        for client in waiting:
            client.close()
        os.kill(hung.pid, signal.SIGCONT)
    hung.wait_for("serving")
    assert up(exporter.scrape()[0])["200"] == 1


def test_a_gateway_cannot_speak_for_another_nor_break_the_text(node, exporter):
    node.create(201, "1M")
    node.start(201)
    (node.run_dir / "200").mkdir()
    answers = [b'{"version":1,"ok":true,"vmid":201,"nbd":{},"volumes":[{"name":"x\\"} 1\\ny"}]}\n', b"nonsense\n",
               b'{"version":1,"ok":false,"error":"no"}\n', b"x" * 100000, b""]
    for answer in answers:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(node.run_dir / "200" / "control.sock"))
            listener.listen()
            with socket.create_connection((exporter.host, exporter.port)) as client:
                client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                with listener.accept()[0] as asked:
                    asked.recv(65536)
                    asked.sendall(answer)
                text = b""
                while part := client.recv(65536):
                    text += part
        os.unlink(node.run_dir / "200" / "control.sock")
        samples, _ = parse_metrics(text.decode().split("\r\n\r\n", 1)[1])
        assert up(samples)["201"] == 1 and set(up(samples)) == {"200", "201"}


def test_methods_and_paths(node, exporter):
    status, headers, body = exporter.ask("HEAD")
    assert status == 200 and int(headers["Content-Length"]) > 100 and body == ""
    status, headers, body = exporter.ask(path="/")
    assert status == 200 and headers["Content-Type"].startswith("text/html") and 'href="/metrics"' in body
    for path in ("/metrics/", "/favicon.ico", "//metrics", "/../etc/passwd", "/%2fmetrics", "/" + "a" * 8000):
        assert exporter.ask(path=path)[0] == 404, path
    for method, data in (("POST", b"x" * 100000), ("PUT", b""), ("DELETE", None), ("OPTIONS", None), ("TRACE", None)):
        status, headers, _ = exporter.ask(method, body=data)
        assert status == 405 and headers["Allow"] == "GET, HEAD", method
    assert exporter.ask("GET", body=b"a body")[0] == 200
    assert exporter.process.poll() is None


def test_bad_clients_cost_only_themselves(node, exporter):
    for junk in (b"\0" * 1000, b"GET\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000,
                 b"GET /" + b"a" * 1000000, b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"\x16\x03\x01\x02\x00"):
        with socket.create_connection((exporter.host, exporter.port), timeout=60) as client:
            try:
                client.sendall(junk)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
            except OSError:  # it was dropped
                pass
    idle = [socket.create_connection((exporter.host, exporter.port), timeout=60) for _ in range(60)]
    for client in idle:
        client.close()
    exporter.scrape()
    assert exporter.log.count("\n") < 60


def test_ipv6(make_exporter):
    assert make_exporter(host="::1").scrape()[0] == {("tb4_gateways", ()): 0}


def test_ready_is_told_and_signals_end_it_in_order(make_exporter, tmp_path):
    path = f"/tmp/tb4-exporter-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(path)
        supervisor.settimeout(30)
        try:
            exporter = make_exporter(env={"NOTIFY_SOCKET": path})
            assert supervisor.recv(4096).decode().startswith("READY=1\nSTATUS=Serving http://127.0.0.1:")
            exporter.process.send_signal(signal.SIGTERM)
            assert exporter.process.wait(30) == 0 and supervisor.recv(4096) == b"STOPPING=1"
        finally:
            os.unlink(path)


def run(node, *arguments):
    return subprocess.run([str(PROGRAMS / "tb4-exporter"), "--config", str(node.config), *arguments], capture_output=True,
                          text=True, timeout=60, check=False)


def test_what_keeps_it_from_starting_is_one_line(node, exporter):
    refused(run(node), 73, rf"port {exporter.port} on 127.0.0.1 is taken by pid {exporter.process.pid} \(tb4-exporter\)", "tb4-exporter")
    refused(run(node, "200"), 64, "takes no arguments", "tb4-exporter")
    refused(run(node, "--colour"), 64, "unknown option", "tb4-exporter")
    for listen in ("localhost:9199", "9199", "127.0.0.1", "::1:9199", "127.0.0.1:0", "127.0.0.1:65536"):
        node.write_config(f"[nbd]\nlisten = 127.0.0.1\n[exporter]\nlisten = {listen}\n")
        refused(run(node), 78, "not ADDRESS:PORT with a numeric address", "tb4-exporter")
        found = node.tb4("check", check=False)
        line = len(node.config.read_text().rstrip().splitlines())
        assert found.returncode == 78 and re.match(rf"{node.config}:{line}: listen = ", found.stdout), found
    node.write_config("[exporter]\nlisten =\nbogus = 1\n")
    assert run(node).stderr.count("\n") == 2
