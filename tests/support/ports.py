"""Ports for servers of tests and benches."""
import collections
import random
import socket

# Ports whose server is down for a moment stay ours: the client of another test that took one of them meanwhile would
# find a stranger's server at the next connection.
KEPT = 200
_kept = collections.deque(maxlen=KEPT)


def is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def take_port(ports, is_usable=is_free):
    """One of the range that no other test on this machine takes, until this process has taken KEPT more or has ended."""
    while True:
        port = random.choice(ports)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0tb4-test-port-{port}")
        except OSError:
            continue
        _kept.append(claim)
        if is_usable(port):
            return port
