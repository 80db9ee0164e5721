"""Fixture: a virtual machine."""
import pytest

from support.vm import Vm


@pytest.fixture
def vm(tmp_path):
    return Vm(tmp_path / "share")
