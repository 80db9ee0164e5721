"""A gateway keeps nothing of clients that have gone (R13): 20,000 here, a million by hand."""
import os
import re
import subprocess

import pytest

SCRIPT = os.path.join(os.path.dirname(__file__), "many-connections.py")


@pytest.mark.plain
def test_clients_leave_neither_memory_nor_descriptors():
    result = subprocess.run(["/usr/bin/python3", SCRIPT, "20000"], capture_output=True, text=True, timeout=115, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.match(r"20000 connections, 1\d{4} answered, memory \d+ to \d+ KiB, descriptors (\d+) to \1,", result.stdout)
