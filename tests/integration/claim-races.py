#!/usr/bin/python3
"""Races of two gateways for one volume: exactly one may win, and the other must say so in one line.

usage: claim-races.py COUNT [KIND...]        (TB4_BUILD chooses the build)

The kinds, by default all, take turns:
  same     two starts with one run_dir
  nodes    two nodes that share volume_dir, claim_dir and data_dir start at once
  resume   two starts with one run_dir after kill -9 of the last winner
  force    the other node takes the volume by force and starts while the owner's node starts too

Prints one line of figures. Exit status 0 if nothing was wrong.
"""
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.node import Node  # noqa: E402

KINDS = ("same", "nodes", "resume", "force")


def settle(gateways):
    """Waits until each has ended, serves or is fenced: their states."""
    states = [None] * len(gateways)
    deadline = time.monotonic() + 60
    while None in states and time.monotonic() < deadline:
        for i, gateway in enumerate(gateways):
            if states[i] is None:
                if gateway.process.poll() is not None:
                    states[i] = "refused"
                elif "serving 1 of 1" in gateway.log:
                    states[i] = "serving"
                elif "is refused from now on" in gateway.log:
                    states[i] = "fenced"
        time.sleep(0.002)
    return states


def check(gateways, kind):
    """None, or what is wrong with the outcome of a race."""
    states = settle(gateways)
    if kind == "force":  # the owner may have been first and then be fenced
        time.sleep(0.02)
    states = [gateway.status()["state"] if state == "serving" else state
              for gateway, state in zip(gateways, states)]
    if states.count("serving") != 1:
        return f"{states}"
    for gateway, state in zip(gateways, states):
        lines = gateway.log.splitlines()
        if state == "refused" and (len(lines) != 1 or gateway.process.returncode not in (75, 77)):
            return f"refused with status {gateway.process.returncode}: {str(lines)[:400]}"
    winner = gateways[states.index("serving")]
    volume = winner.status()["volumes"][0]
    record = winner.node.record()
    if record["released"] or record["claim_id"] != volume["claim_id"] or record["node"] != winner.node.name:
        return f"the record is not the winner's: {record}, {volume}"
    with winner.connect() as client:
        client.write(0, b"w" * 512)
    return None


def race(kind, one, other):
    """One race. Returns (what is wrong or None, generation of the winner)."""
    second = one if kind in ("same", "resume") else other
    if kind == "force":
        other.tb4("claim", "force", "200", "--yes")
    gateways = [node.spawn(200) for node in random.sample([one, second], 2)]
    wrong = check(gateways, kind)
    generation = 0
    for gateway in gateways:
        if gateway.process.poll() is None:
            generation = gateway.status()["volumes"][0].get("generation", 0) or generation
            if kind == "resume":
                gateway.kill()
            else:
                gateway.stop()
    return wrong, generation


def prepare(kind, one, other):
    """Back to: the volume is node-a's, and nobody runs."""
    if one.tb4_json("volume", "info", "200")["host"] != one.name:
        one.tb4("claim", "force", "200", "--yes")
    if kind != "resume":
        one.tb4("claim", "release", "200")
    for node in (one, other):
        node.gateways.clear()


def main():
    count, kinds = int(sys.argv[1]), sys.argv[2:] or KINDS
    assert set(kinds) <= set(KINDS), kinds
    directory = tempfile.mkdtemp(prefix="tb4-races-")
    Path(directory, "a").mkdir()
    Path(directory, "b").mkdir()
    one = Node(Path(directory, "a"), "node-a")
    other = Node(Path(directory, "b"), "node-b", share_with=one)
    began, wrong, last, done = time.monotonic(), 0, 0, Counter()
    try:
        one.create(200, "1M")
        for i in range(count):
            kind = kinds[i % len(kinds)]
            prepare(kind, one, other)
            fault, generation = race(kind, one, other)
            if not fault and generation <= last:
                fault = f"generation {generation} after {last}"
            last = max(last, generation)
            done[kind] += 1
            if fault:
                wrong += 1
                print(f"race {i} ({kind}): {fault}", file=sys.stderr)
    finally:
        one.close()
        other.close()
        shutil.rmtree(directory, ignore_errors=True)
    figures = ", ".join(f"{number} {kind}" for kind, number in done.items())
    print(f"{count} races: {figures}; {count - wrong} with one winner, {wrong} wrong, "
          f"{time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
