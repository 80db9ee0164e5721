"""The upstairs core in the simulator: a short run of seeds, and each trace of design section 6.

Longer runs by hand: tb4-sim --seeds FROM COUNT; what the simulator can find: mutants/run.py.
"""
import subprocess

import pytest

from support.node import BUILD

SIM = BUILD / 'tests/sim/tb4-sim'


def run(*arguments):
    return subprocess.run([SIM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=110)


@pytest.mark.plain
def test_seeds():
    done = run('--seeds', '1', '5000')
    assert done.returncode == 0, done.stdout


def test_seeds_with_sanitizers():
    """Where it is built with them; other seeds than above."""
    done = run('--seeds', '1000000', '300')
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('name', list('abcdefghijkl'))
def test_trace(name):
    done = run('--trace', name)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout


def test_a_seed_always_runs_the_same():
    first, second = (run('--seed', '7', '--verbose').stdout for _ in range(2))
    assert first == second and first.count('\n') > 100
