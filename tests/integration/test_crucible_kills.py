"""Short runs of crucible-cycles.py and crucible-takeovers.py; their long ones are by hand."""
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.volume import both

HERE = Path(__file__).parent


def run(script, *words):
    result = subprocess.run(["/usr/bin/python3", HERE / script, *map(str, words)], capture_output=True, text=True, timeout=280,
                            check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed, words", [(1, []), (2, []), (3, []), (4, ["encrypted"])])
@both
def test_kills_of_gateway_and_downstairs_under_load_lose_nothing(kind, seed, words):
    """Sixty cycles on each kind of downstairs."""
    assert re.match(r"15 cycles, \d+ kills .*, \d{4,} operations, 0 violations", run("crucible-cycles.py", 15, seed, kind, *words))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
@both
def test_loser_of_a_take_over_writes_nothing_and_loses_nothing(kind, seed):
    assert re.match(r"10 take-overs: 5 live, 5 paused; \d\d+ blocks with acknowledged writes, 0 lost, 0 written later",
                    run("crucible-takeovers.py", 10, seed, kind))


@pytest.mark.skipif(not shutil.which("crucible-nbd-server"), reason="not installed: crucible-nbd-server")
@pytest.mark.timeout(300)
def test_upstreams_server_as_rival_in_both_directions():
    assert "4 take-overs: 2 rival, 2 defeated" in run("crucible-takeovers.py", 4, 5, "upstream", "rival", "defeated")
