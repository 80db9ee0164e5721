"""Fixtures: a disk that is soon full; downstairs, volumes on three of them, relays before them, and certificates."""
import shutil
import subprocess

import pytest

from support.certificates import make_certificates
from support.downstairs import OwnDownstairs
from support.relay import Relay
from support.volume import EXTENTS, Volume


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
def make_downstairs(tmp_path):
    """Makes running downstairs that end with the test."""
    made = []

    def make_one(kind=OwnDownstairs, **options):
        made.append(kind(tmp_path / f"region-{len(made)}", **options))
        return made[-1].start()

    yield make_one
    for downstairs in made:
        downstairs.close()


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
def volume(make_volume, kind):
    """One of 64 MiB, for tests of several kinds."""
    return make_volume(kind, extents=EXTENTS)


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
