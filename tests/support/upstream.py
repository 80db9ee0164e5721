"""The real project's NBD server. Its port is fixed, so there is one at a time on a machine."""
import base64
import contextlib
import fcntl
import os
import resource
import subprocess

from .node import wait_until

URI = "nbd://127.0.0.1:10809/rustnbd"
MEMORY_LIMIT = 8 << 30


@contextlib.contextmanager
def alone():
    """Nobody else's server runs meanwhile."""
    with open("/tmp/tb4-upstream-server.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def serves():
    return subprocess.run(["nbdinfo", "--size", URI], capture_output=True, check=False).returncode == 0


def start(ports, generation, key=None, log=subprocess.DEVNULL, wait=True, env=None):
    """The process of a server of the downstairs at these ports."""
    targets = [word for port in ports for word in ("--target", f"127.0.0.1:{port}")]
    secret = ["--key", base64.b64encode(key).decode()] if key else []
    process = subprocess.Popen(["crucible-nbd-server", "--gen", str(generation), *targets, *secret], stdout=log, stderr=log,
                               env={**os.environ, **(env or {})},
                               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT)))
    if wait:
        wait_until(serves, "upstream's server serves", 60)
    return process


def ports_of(volume):
    return [sled.port for sled in volume.sleds]
