"""What a finished command must look like: one line that says why, and nothing else changed."""
import hashlib
import os
import re
import stat


def refused(result, status, pattern, program="tb4"):
    """The command failed with this exit status, printed nothing, and said why in one line."""
    assert result.returncode == status, (result.returncode, result.stdout, result.stderr)
    assert result.stdout in ("", b""), result.stdout
    text = result.stderr if isinstance(result.stderr, str) else result.stderr.decode()
    lines = text.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"{program}: "), text
    assert re.search(pattern, lines[0]), text
    return lines[0]


def refused_start(status_and_log, status, pattern, vmid=200):
    """The same for a gateway that ended by itself: (exit status, log) of Node.run_to_end()."""
    ended, log = status_and_log
    assert ended == status, (ended, log)
    lines = log.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"tb4-gateway[{vmid}]: "), log
    assert re.search(pattern, lines[0]), log
    return lines[0]


def _entry(path):
    info = os.lstat(path)
    if stat.S_ISLNK(info.st_mode):
        return "link", os.readlink(path)
    if stat.S_ISREG(info.st_mode):
        with open(path, "rb") as file:
            return "file", info.st_mode, info.st_size, hashlib.sha256(file.read()).hexdigest()
    return stat.S_IFMT(info.st_mode), info.st_mode


def tree(*directories):
    """Everything below some directories, byte for byte. Sockets and lock files count as well."""
    found = {}
    for directory in directories:
        if os.path.lexists(directory):
            found[str(directory)] = _entry(directory)
        for folder, folders, files in os.walk(directory):
            for name in folders + files:
                path = os.path.join(folder, name)
                found[path] = _entry(path)
    return found


def node_tree(node):
    return tree(node.run_dir, node.volume_dir, node.claim_dir, node.data_dir)


def without_locks(found):
    """A tree without the lock files and directories that stay behind on purpose."""
    return {path: entry for path, entry in found.items()
            if entry[0] == "file" and os.path.basename(path) != ".lock"}
