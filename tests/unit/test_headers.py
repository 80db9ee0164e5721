"""Every header of gateway/, upstairs-client/ and tests/downstairs/ stands alone: it includes what it needs, once, and is C17."""
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.node import BUILD, ROOT

FOLDERS = [ROOT / "gateway", ROOT / "upstairs-client", ROOT / "tests" / "downstairs"]
HEADERS = {str(path.relative_to(folder)): path for folder in FOLDERS for path in sorted(folder.rglob("*.h"))}
LIBRARIES = ["libuv", "json-c", "libsystemd", "uuid", "liburing"]


@pytest.fixture(scope="module")
def flags():
    found = subprocess.run(["pkg-config", "--cflags", *LIBRARIES], capture_output=True, text=True, check=True)
    return [*(f"-I{folder}" for folder in FOLDERS), f"-I{BUILD / 'gateway'}", *found.stdout.split()]


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("header", HEADERS)
def test_header_compiles_alone_and_twice(header, compiler, flags):
    if not shutil.which(compiler):
        pytest.skip(f"not installed: {compiler}")
    source = f'#include "{header}"\n#include "{header}"\nint only_to_be_no_empty_unit;\n'
    command = [compiler, "-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
               *flags, "-x", "c", "-"]
    result = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_no_two_headers_share_a_guard():
    guards = {}
    for header in HEADERS:
        text = HEADERS[header].read_text()
        guard = re.search(r"^#ifndef (\w+)\n#define \1$", text, re.MULTILINE)
        assert guard, f"{header} has no include guard"
        guards.setdefault(guard[1], []).append(header)
    assert {guard: names for guard, names in guards.items() if len(names) > 1} == {}


@pytest.mark.parametrize("header", HEADERS)
def test_header_says_first_what_it_is_for(header):
    first = HEADERS[header].read_text().splitlines()[0]
    assert re.match(rf"/\* {re.escape(Path(header).name)}: \S", first)
