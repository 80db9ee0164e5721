"""A virtual machine with a real systemd, udev and kernel: a Debian of this machine's release, emulated. It runs programs of the
build without sanitizers, as an emulated processor is some twenty times slower.

A script runs in it as root, in the directory that both share. What it prints comes back, its exit status decides.
"""
import os
import re
import shutil
import subprocess
from functools import lru_cache

import pytest

from .downstairs import OWN, UPSTREAM
from .node import PROGRAMS, ROOT

SCRIPTS = ROOT / "tests" / "vm"
CACHE = ROOT / "build" / "vm"
INSTALLED = [PROGRAMS / name for name in ("tb4-gateway", "tb4", "tb4-exporter")]
TOOLS_NEEDED = ["debootstrap", "busybox", "cpio", "depmod", "mke2fs", "xz", "qemu-system-x86_64", "qemu-img"]
# before each script: stops at the first error, and says where
PROLOGUE = """set -eEuo pipefail
trap 'echo "failed: line $LINENO: $BASH_COMMAND" >&2' ERR
export PATH=/share/bin:$PATH
until_true() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@"; do [ $SECONDS -lt $end ] || { echo "not in time: $*" >&2; return 1; }; sleep 0.2; done
}
is_well() { tb4 status "$1" >status.log 2>&1 && grep -q ' serving ' status.log; }
"""


def missing():
    """What a machine lacks to make and run one; empty: nothing."""
    lacking = [tool for tool in TOOLS_NEEDED if not shutil.which(tool)]
    is_there = (CACHE / "stamp").exists()
    has_room = is_there or shutil.disk_usage(ROOT).free > 3 << 30
    return [*lacking, *(["root"] if os.geteuid() else []), *([] if has_room else ["3 GiB of room"])]


needs_vm = pytest.mark.skipif(bool(missing()), reason=f"no virtual machine: needs {', '.join(missing())}")


@lru_cache
def packages():
    """Those of the libraries of our programs."""
    libraries = set()
    for program in (*INSTALLED, OWN):
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        libraries.update(os.path.realpath(path) for path in re.findall(r"=> (/\S+)", linked))
    owners = subprocess.run(["dpkg", "-S", *sorted(libraries)], capture_output=True, text=True, check=False).stdout
    return sorted(set(re.findall(r"^([^:\s]+)", owners, re.M)))


class Vm:
    def __init__(self, share):
        self.share = share
        (share / "bin").mkdir(parents=True)
        for program in (*INSTALLED, OWN, *([UPSTREAM] if UPSTREAM else [])):
            shutil.copy(program, share / "bin")
        (share / "units").mkdir()
        for unit in (*ROOT.glob("units/*.service"), *ROOT.glob("units/*.socket"), *ROOT.glob("units/*.catalog"),
                     *ROOT.glob("units/*.rules"), *ROOT.glob("units/*.conf"),
                     *(PROGRAMS.parent / "units").glob("*.service")):
            shutil.copy(unit, share / "units")

    def run(self, script, seconds=150):
        """Its output; AssertionError with it unless the script ends with 0. Skips if there is no Debian to be had."""
        made = subprocess.run([SCRIPTS / "make-image.sh", CACHE, *packages()], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"no virtual machine: {made.stderr.strip()}")
        done = subprocess.run([SCRIPTS / "run-vm.sh", CACHE, self.share, str(seconds), PROLOGUE + script], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
        assert done.returncode == 0, f"{done.returncode}: {done.stdout}"
        return done.stdout
