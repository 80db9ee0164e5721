"""Fixtures. Each test has its own node, so tests run side by side and in any order."""
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support.node import BUILD, Node  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def build_is_there():
    assert (BUILD / "gateway" / "tb4-gateway").exists(), f"{BUILD}: build first"


@pytest.fixture
def make_node(tmp_path):
    """Makes nodes that end with the test: make_node(name=..., share_with=..., settings=...)."""
    nodes = []

    def make(name="node-a", **options):
        directory = tmp_path / name
        directory.mkdir()
        nodes.append(Node(directory, name, **options))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


@pytest.fixture
def node(make_node):
    """One node; its images are on the file system of the temporary directory."""
    return make_node()


@pytest.fixture
def memory_dir():
    """A directory on tmpfs, where the file backend answers at once."""
    directory = tempfile.mkdtemp(prefix="tb4-", dir="/dev/shm")
    yield Path(directory)
    shutil.rmtree(directory)


@pytest.fixture
def gateway(node):
    """A gateway that serves vm-200-disk-0 of 64 MiB."""
    node.create(200, "64M")
    return node.start(200)

