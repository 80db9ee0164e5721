#!/usr/bin/python3
"""What a guest sees of faults: tb4-gateway and upstream's crucible-nbd-server in the same experiments, three real
crucible-downstairs each, on tmpfs.

  paused     one downstairs is stopped (SIGSTOP) for ten seconds under 4k random writes, depth 16: the longest request
  killed     one downstairs is killed: the longest request
  replay     the same at 500 requests a second, and it is started again two seconds later: the longest request; seconds until
             all three count again (ours: in sync by the record)
  repair     the same at full load, where ours has to copy the region
  full       the file system of one region fills up: the longest request
  two of three  seconds from the start to the first answer while one downstairs is away
  gateway    kill -9 of the server under 4k random writes on a volume of 50 GiB (sparse), its socket held by whoever
             starts it again: the longest pause of a client that reconnects, over many kills (ours only: upstream's
             binds its own port)
  host       the same, and the history is lost with the host: time to the first I/O, the worst request, the mend

Prints Markdown and checks the limits of the project; exit status 1 if one does not hold.

  tests/bench/bench-crucible-faults.py [--only paused,killed,...] [--kills N (40)] [--without-upstream]
"""
import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import upstream  # noqa: E402
from support.fio import fio  # noqa: E402
from support.node import Node, wait_until  # noqa: E402
from support.volume import BLOCK, Volume  # noqa: E402

EXPERIMENTS = ["paused", "killed", "replay", "repair", "full", "two", "gateway", "host"]
GENERATION = iter(range(10, 1000))


class Ours:
    name = "ours"

    def __init__(self, directory, volume):
        (directory / "node").mkdir()
        self.node, self.volume = Node(directory / "node"), volume
        self.node.tb4("volume", "create", 200, volume.size, "--backend", "crucible", *volume.target_options, "--force")
        self.gateway = None

    def start(self, wait=True):
        self.gateway = self.node.start() if wait else self.node.spawn()
        return self

    @property
    def uri(self):
        return self.gateway.uri()

    def is_whole(self):
        return all(one["in_sync"] and one["state"] == "active" for one in self.gateway.volume_status()["crucible"]["slots"])

    def close(self):
        self.node.close()


class Upstream:
    name = "upstream"
    uri = upstream.URI

    def __init__(self, directory, volume):
        self.volume, self.process, self.control = volume, None, directory

    def start(self, wait=True):
        self.process = upstream.start(upstream.ports_of(self.volume), next(GENERATION), wait=wait)
        return self

    def is_whole(self):
        return None  # it tells nobody here

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()


class Bench:
    def __init__(self, directory, peers):
        self.directory, self.peers, self.count, self.mounted = directory, peers, 0, []

    def volume(self, **options):
        self.count += 1
        place = self.directory / str(self.count)
        place.mkdir()
        return place, Volume(place, "upstream", **{"extents": 16, "extent_size": 4096, **options})

    def under_load(self, peer, seconds, act, *options):
        """fio's figures while `act` does its part three seconds after the load has begun."""
        failure = []

        def run():
            try:
                time.sleep(3)
                act()
            except Exception as error:  # pylint: disable=broad-except
                failure.append(error)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            figures = fio(peer.uri, "randwrite", "4k", 16, seconds, "--size=256M", *options)
        except subprocess.CalledProcessError as error:
            figures = {"max": float("nan"), "failed": error.stderr.strip().splitlines()[-1:] or ["fio failed"]}
        thread.join()
        assert not failure, failure
        return figures

    def with_each(self, experiment, **options):
        """{name of the peer: result}"""
        results = {}
        for kind in self.peers:
            place, volume = self.volume(**options)
            peer = kind(place, volume)
            try:
                results[kind.name] = experiment(peer, volume)
            finally:
                peer.close()
                volume.close()
        return results

    # experiments

    def paused(self):
        def experiment(peer, volume):
            peer.start()
            sled = volume.sleds[1].process

            def act():
                sled.send_signal(signal.SIGSTOP)
                time.sleep(10)
                sled.send_signal(signal.SIGCONT)
            return self.under_load(peer, 20, act)["max"] / 1e6
        return self.with_each(experiment)

    def killed(self):
        def experiment(peer, volume):
            peer.start()
            return self.under_load(peer, 8, volume.sleds[1].kill)["max"] / 1e6
        return self.with_each(experiment)

    def returned(self, *options):
        """(longest request, seconds until whole) by peer"""
        def experiment(peer, volume):
            peer.start()
            back = []

            def act():
                volume.sleds[1].kill()
                time.sleep(2)
                volume.sleds[1].start()
                began = time.monotonic()
                if peer.is_whole() is not None:
                    wait_until(peer.is_whole, "whole again", 60)
                    back.append(time.monotonic() - began)
            return self.under_load(peer, 12, act, *options)["max"] / 1e6, back[0] if back else None
        return self.with_each(experiment)

    def full(self):
        """Slot 1's region lies on a file system of 96 MiB."""
        def experiment(peer, volume):
            volume.sleds[1].move_to_small_disk("96m").start()
            peer.start()
            return self.under_load(peer, 20, lambda: None)["max"] / 1e6
        return self.with_each(experiment)

    def two(self):
        def experiment(peer, volume):
            if peer.name == "ours":  # a volume that has been in use
                peer.start()
                assert peer.gateway.stop() == 0
            volume.sleds[2].kill()
            began = time.monotonic()
            peer.start(wait=False)
            while time.monotonic() - began < 15:
                try:
                    handle = nbd.NBD()
                    handle.connect_uri(peer.uri)
                    handle.pread(BLOCK, 0)
                    return time.monotonic() - began
                except nbd.Error:
                    time.sleep(0.01)
            return float("inf")
        return self.with_each(experiment)


class Held:
    """A gateway whose socket is held by us over its starts, as systemd does."""

    def __init__(self, node):
        self.node = node
        self.listener = node.own_socket()
        self.path = self.listener.getsockname()
        self.logs = []

    def start(self):
        self.gateway = self.node.spawn_with([self.listener])
        self.logs.append(self.gateway.log_path)

    @property
    def log(self):
        return "".join(path.read_text() for path in self.logs)

    def kill(self):
        self.gateway.kill()


class Client(threading.Thread):
    """Writes 4k at random places, one after the other, and connects again when it has to. Keeps its longest pauses."""

    def __init__(self, path, size):
        super().__init__(daemon=True)
        self.uri, self.size, self.ends = f"nbd+unix:///?socket={path}", size, False
        self.longest, self.count = 0.0, 0

    def run(self):
        dice, data, handle = random.Random(1), os.urandom(BLOCK), None
        last = time.monotonic()
        while not self.ends:
            try:
                if handle is None:
                    handle = nbd.NBD()
                    handle.connect_uri(self.uri)
                handle.pwrite(data, dice.randrange(self.size // BLOCK) * BLOCK)
                now = time.monotonic()
                self.longest = max(self.longest, now - last)
                last = now
                self.count += 1
            except nbd.Error:
                handle = None
                time.sleep(0.001)

    def take_longest(self):
        longest, self.longest = self.longest, 0.0
        return longest


@contextlib.contextmanager
def large_volume(bench):
    """(the node, its socket, a client that writes) of a volume of 50 GiB."""
    place, volume = bench.volume(extents=800, extent_size=16384)
    ours = Ours(place, volume)
    held = Held(ours.node)
    held.start()
    client = Client(held.path, volume.size)
    client.start()
    try:
        wait_until(lambda: client.count > 200, "the load runs", 60)
        yield ours.node, held, client
    finally:
        client.ends = True
        client.join(5)
        held.kill()
        ours.close()
        volume.close()


def gateway_kills(bench, kills):
    """Pauses in s of a client over kill -9 of the gateway."""
    pauses = []
    with large_volume(bench) as (_, held, client):
        for _ in range(kills):
            client.take_longest()
            before = client.count
            held.kill()
            held.start()
            wait_until(lambda: client.count > before + 100, "it goes on", 60)  # pylint: disable=cell-var-from-loop
            time.sleep(random.uniform(0.05, 0.4))
            pauses.append(client.take_longest())
        assert "made equal" not in held.log and "given up" not in held.log, held.log[-2000:]
    return pauses


def host_loss(bench):
    """(seconds to the first I/O, the worst request in the 5 s after, extents that were dirty, seconds expected of their mend)"""
    with large_volume(bench) as (node, held, client):
        time.sleep(5)
        crucible = node.tb4_json("status", "200", check=False)["gateways"][0]["volumes"][0]["crucible"]
        held.kill()
        for path in (node.run_dir / "200").iterdir():
            if path.name != "nbd.sock":
                path.unlink()
        before, began = client.count, time.monotonic()
        held.start()
        wait_until(lambda: client.count > before, "the first I/O", 120)
        first = time.monotonic() - began
        client.take_longest()
        time.sleep(5)
        return first, client.take_longest(), crucible["dirty_extents"], crucible["recovery_ms"] / 1000


class Limits:
    good = True

    def at_most(self, text, value, limit):
        self.good = self.good and value <= limit
        print(f"{'ok  ' if value <= limit else 'MISS'} {text}: {value:.3f} (at most {limit})")


def row(text, results, unit="s"):
    def show(value):
        return "-" if value is None else f"{value:.3f} {unit}"
    print(f"| {text} | {show(results.get('ours'))} | {show(results.get('upstream'))} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(EXPERIMENTS))
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--without-upstream", action="store_true")
    options = parser.parse_args()
    missing = [name for name in ("crucible-downstairs", "crucible-nbd-server", "fio") if not shutil.which(name)]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}")
    only = options.only.split(",")
    directory = Path(tempfile.mkdtemp(prefix="tb4-faults-", dir="/dev/shm"))
    bench, limits = Bench(directory, [Ours] if options.without_upstream else [Ours, Upstream]), Limits()
    print("| fault | ours | crucible-nbd-server |\n|---|---|---|")
    found = {}
    try:
        with upstream.alone():
            if "paused" in only:
                found["paused"] = bench.paused()
                row("one downstairs paused for 10 s: longest request", found["paused"])
            if "killed" in only:
                found["killed"] = bench.killed()
                row("one downstairs killed: longest request", found["killed"])
            for name, text, more in (("replay", "500 requests a second", ["--rate_iops=500"]), ("repair", "full load", [])):
                if name in only:
                    found[name] = bench.returned(*more)
                    row(f"killed and started again, {text}: longest request",
                        {peer: result[0] for peer, result in found[name].items()})
                    row("the same: whole after", {peer: result[1] for peer, result in found[name].items()})
            if "full" in only:
                found["full"] = bench.full()
                row("file system of one region full: longest request", found["full"])
            if "two" in only:
                found["two"] = bench.two()
                row("two of three at the start: first I/O after", found["two"])
        if "gateway" in only:
            pauses = found["gateway"] = sorted(gateway_kills(bench, options.kills))
            row(f"kill -9 of the server, 50 GiB, socket held: longest pause, median of {len(pauses)}",
                {"ours": statistics.median(pauses)})
            row("the same, 99th percentile", {"ours": pauses[min(len(pauses) - 1, int(len(pauses) * 0.99))]})
        if "host" in only:
            first, worst, dirty, budget = found["host"] = host_loss(bench)
            row(f"host lost with {dirty} extents of 50 GiB dirty: first I/O after", {"ours": first})
            row("the same: what was expected of the mend", {"ours": budget})
            row("the same: longest request in the 5 s after", {"ours": worst})
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print()
    for name, text, limit in (("paused", "paused", 4), ("full", "full", 4), ("two", "two of three at the start", 3.5)):
        if name in found:
            limits.at_most(text, found[name]["ours"], limit)
    if "killed" in found:
        limits.at_most("killed", found["killed"]["ours"], 0.1)
    if "replay" in found:
        limits.at_most("whole again after a replay", found["replay"]["ours"][1], 3)
    if "gateway" in found:
        limits.at_most("kill -9, 99th percentile", found["gateway"][min(len(found["gateway"]) - 1,
                                                                        int(len(found["gateway"]) * 0.99))], 0.3)
    if "host" in found:
        limits.at_most("host lost: first I/O", found["host"][0], 30)
    return 0 if limits.good else 1


sys.exit(main())
