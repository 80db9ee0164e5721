#!/usr/bin/python3
"""A guest over restarts of its gateway, planned ones and kill -9: no error, and how long it waits (R3, R4, R5).

usage: restart-cycles.py COUNT [SEED [file|own|upstream]]        (TB4_BUILD chooses the build)

QEMU's own NBD client (qemu-storage-daemon with reconnect-delay, as a VM's disk has it) is between the load and the gateway;
the gateway's socket is held over its restarts, as systemd does. nbd-history writes and reads with several requests in flight and
checks every byte. The volume is a file on tmpfs, or lies on three downstairs, ours or upstream's. Beside it one request of 4 KiB after the other is timed: the longest around a restart is the stall of
it. Planned restarts (SIGTERM, started again when it has ended) and kills (started again after 100 ms, as RestartSec says)
take turns.

Prints one line of figures. Exit status 0 if the guest saw no error and no wrong byte.
"""
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import wire  # noqa: E402
from support.node import TOOLS, Node, wait_until  # noqa: E402
from support.volume import Volume  # noqa: E402

RESTART_SEC = 0.1
NAME = "vm-200-disk-0"


def start_qemu(gateway_socket, socket_path):
    """QEMU's client of the gateway, and a server of its own for the load."""
    return subprocess.Popen(
        ["qemu-storage-daemon", "--blockdev",
         f"driver=nbd,node-name=disk,server.type=unix,server.path={gateway_socket},export={NAME},reconnect-delay=60",
         "--nbd-server", f"addr.type=unix,addr.path={socket_path},max-connections=16", "--export",
         "type=nbd,id=disk,node-name=disk,name=disk,writable=on"], stderr=subprocess.PIPE)


class Probe(threading.Thread):
    """One read after the other. take() gives the longest since the last call, in seconds."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.client = wire.Client(path, timeout=100).greet().go("disk")
        self.longest, self.began, self.count, self.error, self.ends = 0.0, time.monotonic(), 0, None, False

    def run(self):
        try:
            while not self.ends:
                self.began = time.monotonic()
                self.client.read(0, 4096)
                self.longest = max(self.longest, time.monotonic() - self.began)
                self.count += 1
        except (AssertionError, OSError, wire.Closed) as error:
            self.error = error or repr(error)

    def take(self):
        before = self.count
        wait_until(lambda: self.error or self.count > before + 1, "the guest goes on", 60)
        assert self.error is None, self.error
        longest, self.longest = self.longest, 0.0
        return longest


def restart(node, listener, gateway, is_planned):
    if is_planned:
        assert gateway.stop() == 0, gateway.log
    else:
        gateway.kill()
        time.sleep(RESTART_SEC)
    node.gateways.clear()
    return node.spawn_with([listener])


def figures(stalls):
    """p50, p99 and the longest, in ms."""
    ordered = sorted(1000 * stall for stall in stalls)
    return f"{statistics.median(ordered):.0f}/{ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]:.0f}/{ordered[-1]:.0f} ms"


def main():
    count = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    kind = sys.argv[3] if len(sys.argv) > 3 else "file"
    dice = random.Random(seed)
    directory = Path(tempfile.mkdtemp(prefix="tb4-restarts-"))
    memory = tempfile.mkdtemp(prefix="tb4-restarts-", dir="/dev/shm")
    node, volume, processes = Node(directory, data_dir=memory), None, []
    stalls, began = {True: [], False: []}, time.monotonic()
    guest, stop_file = str(node.run_dir / "guest.sock"), directory / "stop"
    try:
        if kind == "file":
            node.create(200, "32M")
        else:
            volume = Volume(Path(memory), kind, extents=32)
            node.tb4("volume", "create", 200, volume.size, "--backend", "crucible", *volume.target_options)
        listener = node.own_socket()
        gateway = node.spawn_with([listener]).wait_for("serving")
        processes.append(start_qemu(gateway.socket, guest))
        wait_until(lambda: os.path.exists(guest), "QEMU listens")
        processes.append(subprocess.Popen(
            [TOOLS / "nbd-history", "--region", "8M", "--max", "32K", "--connections", "2", "--depth", "8", "--seed", str(seed),
             "--stop-file", stop_file, guest, "disk"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        probe = Probe(guest)
        probe.start()
        probe.take()
        for number in range(count):
            is_planned = number % 2 == 0
            gateway = restart(node, listener, gateway, is_planned)
            stalls[is_planned].append(probe.take())
            time.sleep(dice.uniform(0.02, 0.3))
        stop_file.touch()
        out, err = processes[1].communicate(timeout=100)
        assert processes[1].returncode == 0 and " 0 violations" in out and " 0 reconnects" in out, out + err
        probe.ends = True
        probe.join(60)
        assert probe.error is None, probe.error
    except AssertionError as error:
        print(f"seed {seed}: {error}", file=sys.stderr)
        return 1
    finally:
        for process in processes:
            process.kill()
            process.wait()
        node.close()
        if volume:
            volume.close()
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)
    print(f"{count} restarts, 0 errors, {re.match('[0-9]+', out)[0]} operations, stall (p50/p99/max) planned {figures(stalls[True])}, "
          f"kill -9 {figures(stalls[False])}, seed {seed}, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
