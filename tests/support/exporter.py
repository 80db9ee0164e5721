"""A running tb4-exporter of a node."""
import http.client
import os
import subprocess

from .metrics import parse_metrics
from .node import PROGRAMS, wait_until
from .ports import take_port


class Exporter:
    def __init__(self, node, host="127.0.0.1", env=None):
        self.host, self.port = host, take_port(range(24000, 26000))
        address = f"[{host}]" if ":" in host else host
        node.write_config(f"[exporter]\nlisten = {address}:{self.port}\n")
        self.log_path = node.directory / f"exporter-{self.port}.log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([str(PROGRAMS / "tb4-exporter"), "--config", str(node.config)], stderr=log,
                                            stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
        wait_until(lambda: "serving http" in self.log or self.process.poll() is not None, "the exporter listens")
        assert self.process.poll() is None, self.log

    @property
    def log(self):
        return self.log_path.read_text()

    def connect(self):
        return http.client.HTTPConnection(self.host, self.port, timeout=60)

    def ask(self, method="GET", path="/metrics", body=None):
        """(status, headers, body)"""
        connection = self.connect()
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def scrape(self):
        """What Prometheus gets: see parse_metrics()."""
        status, headers, text = self.ask()
        assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parse_metrics(text)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
