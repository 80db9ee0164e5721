"""The upstairs core in the simulator: a short run of seeds; each trace of design section 6 and some more; and that the
trace fails when the rule that it proves is taken out.

Longer runs by hand: tb4-sim --seeds FROM COUNT; all mutants by hand: mutants/run.py, whose results are in mutants/README.md.
"""
import pathlib
import subprocess
import sys

import pytest

from support.node import BUILD

SIM = BUILD / 'tests/sim/tb4-sim'
MUTANTS = pathlib.Path(__file__).resolve().parent / 'mutants'

# by trace: a rule of which it is the proof
PROOFS = {
    'a': 'replay-in-original-order',
    'b': 'name-while-replaying',
    'c': 'any-slot-is-a-source',
    'd': 'any-slot-is-a-source',
    'e': 'no-generation-check',
    'f': 'no-stamped-check',
    'g': 'one-copy',
    'h': 'repair-flushes-all',
    'i': 'heal-without-range',
    'j': 'reads-of-open-writes',
    'k': 'any-slot-is-a-source',
    'l': 'activation-goes-on',
    'leaving': 'leave-without-record',
    'leaving-unknown': 'unknown-is-failure',
    'leaving-superseded': 'record-superseded-ignored',
    'zombie': 'same-upstairs-id',
    'overwritten': 'unwritten-is-zeros',
    'written-in-repair': 'repair-without-requests',
    'repair-cut-short': 'repair-keeps-its-place',
    'torn-and-repaired': 'repair-highest-trusted',
    'joining': 'named-after-store',
    'joining-unknown': 'acknowledge-while-joining',
    'flush-on-one': 'flush-with-one',
    'lied': 'lies-in-history-only',
    'lied-and-killed': 'lies-not-in-history',
    'lied-beside-power-loss': 'no-history',
    'lied-in-a-mend': 'mend-error-forgiven',
    'lied-in-a-write': 'write-error-forgiven',
    'torn': 'torn-source-trusted',
    'torn-unseen': 'no-mend-of-highest-stamp',
    'torn-behind': 'highest-stamp-of-all',
    'torn-behind-a-mend': 'mend-looks-at-highest-stamp',
    'torn-unseen-behind-a-mend': 'mends-hide-stamps',
    'rotten-in-three-places': 'read-as-a-whole-only',
    'scrub': 'scrub-takes-all-for-good',
    'unsynced': 'mend-syncs-nothing',
    'unwritten': 'unwritten-data-trusted',
    'wiped-again': 'must-show-not-raised',
    'wiped-and-mended': 'wiped-mended-unrecorded',
    'one-left': 'resume-needs-two',
    'replaced-in-start': 'region-not-yet-stored',
}


def run(*arguments):
    return subprocess.run([SIM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)


@pytest.mark.plain
@pytest.mark.timeout(700)
def test_seeds():
    done = run('--seeds', '1', '5000')
    assert done.returncode == 0, done.stdout


@pytest.mark.timeout(700)
def test_seeds_with_sanitizers():
    """Where it is built with them; other seeds than above."""
    done = run('--seeds', '1000000', '300')
    assert done.returncode == 0, done.stdout


def test_every_trace_has_its_proof():
    assert sorted(run('--traces').stdout.split()) == sorted(PROOFS)


@pytest.mark.parametrize('name', PROOFS)
def test_trace(name):
    done = run('--trace', name)
    assert done.returncode == 0, done.stdout


@pytest.mark.plain
@pytest.mark.timeout(700)
@pytest.mark.parametrize('name', PROOFS)
def test_trace_fails_without_its_rule(name):
    command = [sys.executable, MUTANTS / 'run.py', '--build', BUILD, '--trace', name, PROOFS[name]]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    assert done.returncode == 0, done.stdout


def test_a_seed_always_runs_the_same():
    first, second = (run('--seed', '7', '--verbose').stdout for _ in range(2))
    assert first == second and first.count('\n') > 100
