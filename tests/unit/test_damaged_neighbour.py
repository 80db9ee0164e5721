"""Damage of one volume's file does not spread to a new volume."""
import re

import pytest


@pytest.mark.parametrize("setting", ["nbd", "device"])
def test_what_a_damaged_volume_has_is_not_given_to_a_new_one(node, setting):
    node.create(300, "1M")
    damaged, fresh = node.volume_dir / "vm-300-disk-0.conf", node.volume_dir / "vm-301-disk-0.conf"
    taken = re.search(rf"^{setting} = (\d+)$", damaged.read_text(), re.M)[1]
    damaged.write_text(damaged.read_text() + "oops\n")
    result = node.tb4("volume", "create", 301, "1M", check=False)
    assert str(damaged) in result.stderr
    if result.returncode == 0:  # to refuse it until the damage is mended is as good
        assert f"{setting} = {taken}\n" not in fresh.read_text()


def test_a_damaged_volume_does_not_keep_a_disk_of_the_scheme_from_being_made(node):
    node.create(300, "1M")
    damaged = node.volume_dir / "vm-300-disk-0.conf"
    damaged.write_text("oops\n")
    result = node.tb4("volume", "create", 200, "1M", check=False)
    assert result.returncode == 0, result.stderr
    assert damaged.read_text() == "oops\n"
