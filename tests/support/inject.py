"""Faults in the system calls of a program, by strace: kill -9 or an error at the Nth call of some kind.

Only calls that name, or have open, one of the given paths count, so that a program's start-up and its
output are left alone. strace counts for each kind of call and each thread by itself.
"""
import re
import shutil
from collections import Counter

# Calls that change something. Between two others the files are the same, so a kill there adds nothing.
CHANGES = ("openat,write,pwrite64,ftruncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,"
           "unlinkat,rmdir,mkdir,flock,fcntl,bind,listen")

# LeakSanitizer cannot run under strace.
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0"}


def is_there():
    return shutil.which("strace") is not None


def paths_of(node, name="vm-200-disk-0"):
    """Every path that programs use for one volume and its VM."""
    vmid = name.split("-")[1]
    files = [
        node.run_dir, node.volume_dir, node.claim_dir, node.data_dir,
        node.run_dir / vmid, node.run_dir / vmid / "lock", node.run_dir / vmid / "role",
        node.run_dir / vmid / "role.new", node.run_dir / vmid / "nbd.sock", node.run_dir / vmid / "control.sock",
        node.volume_dir / ".lock", node.volume_dir / f"{name}.conf", node.volume_dir / f"{name}.conf.new",
        node.claim_dir / ".lock", node.claim_dir / f"{name}.json", node.claim_dir / f"{name}.json.new",
        node.data_dir / f"{name}.raw", node.data_dir / f"{name}.raw.new",
    ]
    return [str(path) for path in files]


def strace(paths, what, nth, calls=CHANGES, log="/dev/null"):
    """Words before a command: `what`, such as "signal=KILL" or "error=EIO", happens at the nth call."""
    words = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={calls}", "-e",
             f"inject={calls}:{what}:when={nth}"]
    for path in paths:
        words += ["-P", path]
    return words


def counting(paths, log, calls=CHANGES):
    """Words before a command whose calls shall be counted in `log`."""
    words = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={calls}"]
    for path in paths:
        words += ["-P", path]
    return words


def points(log, behind=None):
    """All (call, nth) that counting() has found: where a program can be interrupted. With `behind`, only what
    came after the line that holds this text, and not what another thread had reached before."""
    counts, before, found = Counter(), set(), {}
    is_behind = behind is None
    for line in log.read_text().splitlines():
        is_behind = is_behind or behind in line
        match = re.match(r"(\d+) +([a-z0-9_]+)\(", line)
        if not match:
            continue
        counts[match.groups()] += 1
        point = match[2], counts[match.groups()]
        if not is_behind:
            before.add(point)
        elif point not in before:
            found[point] = True
    return list(found)
