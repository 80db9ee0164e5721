"""Each fuzz target for some seconds, from the seeds and the kept corpus. The long runs are by hand: run.sh."""
import os
import subprocess
from pathlib import Path

import pytest

from support.node import ROOT

BUILD = Path(os.environ.get("TB4_FUZZ_BUILD", ROOT / "build" / "clang"))
TARGETS = sorted(path.stem.removeprefix("fuzz-") for path in Path(__file__).parent.glob("fuzz-*.c"))
SECONDS = 10


@pytest.mark.plain
@pytest.mark.timeout(300)
@pytest.mark.skipif(not (BUILD / "tests" / "fuzz").exists(), reason="no build by clang, which has libFuzzer")
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found_in_a_short_run(target):
    result = subprocess.run(["sh", ROOT / "tests" / "fuzz" / "run.sh", str(SECONDS), target],
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert f"{target}: " in result.stdout and "0 findings" in result.stdout
