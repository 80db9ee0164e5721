"""Fixtures: a disk that is soon full; volumes on three downstairs, relays before them, and certificates."""
import shutil
import subprocess

import pytest

from support.certificates import make_certificates
from support.relay import Relay
from support.volume import Volume


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", directory], check=False,
                             capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)


@pytest.fixture
def make_volume(tmp_path):
    """Makes volumes that end with the test."""
    made = []

    def make_one(kind="own", **options):
        directory = tmp_path / f"volume-{len(made)}"
        directory.mkdir()
        made.append(Volume(directory, kind, **options))
        return made[-1]

    yield make_one
    for volume in made:
        volume.close()


@pytest.fixture
def relay():
    """Puts a relay before each slot of a volume: [relay, ...]. Only with `records` do they keep what went by."""
    made = []

    def put(volume, hook=None, records=False):
        relays = [Relay(sled.address, hook, records) for sled in volume.sleds]
        volume.targets = [one.address for one in relays]
        made.extend(relays)
        return relays

    yield put
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("not installed: openssl")
    directory = tmp_path_factory.mktemp("certificates")
    make_certificates(directory)
    return directory
