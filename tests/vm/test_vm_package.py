"""The Debian package under a real systemd: installed with its directories and its user, upgraded under a running gateway, removed,
purged."""
import re
import shutil
import subprocess

import pytest

from support.node import ROOT, needs
from support.vm import needs_vm

pytestmark = [needs_vm, needs("dpkg-buildpackage", "dh", "lintian"), pytest.mark.plain, pytest.mark.timeout(900)]


def build(directory):
    """The package of this tree."""
    source = directory / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns("build*", ".git", "__pycache__"))
    done = subprocess.run(["dpkg-buildpackage", "-us", "-uc", "-b"], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return next(directory.glob("tb4-gateway_*.deb"))


def make_newer(package, directory):
    """The same under a higher version."""
    subprocess.run(["dpkg-deb", "-R", package, directory / "newer"], check=True)
    control = directory / "newer" / "DEBIAN" / "control"
    control.write_text(re.sub(r"^Version: .*", r"\g<0>+newer", control.read_text(), flags=re.M))
    subprocess.run(["dpkg-deb", "-b", directory / "newer", directory / "new.deb"], check=True, capture_output=True)
    return directory / "new.deb"


def test_clean_by_lintian_installed_upgraded_removed_and_purged(vm, tmp_path):
    package = build(tmp_path)
    found = subprocess.run(["lintian", package], capture_output=True, text=True, check=False)
    assert found.returncode == 0 and found.stdout == "", found.stdout
    shutil.copy(package, vm.share / "old.deb")
    shutil.copy(make_newer(package, tmp_path), vm.share)
    output = vm.run("""
rm -r bin
hash -r
dpkg -i old.deb >/dev/null
tb4 --version
stat -c '%n %a %U' /run/tb4 /etc/tb4 /etc/tb4/volumes /etc/tb4/downstairs /var/lib/tb4 /var/lib/tb4/claims /var/lib/tb4/volumes
getent passwd crucible
systemd-analyze verify --man=no /lib/systemd/system/crucible-downstairs@.service && echo "units are in order"
systemctl start systemd-tmpfiles-setup.service
tb4 volume create 200 64M
systemctl start tb4-vm-connect@200
until_true 20 is_well 200
tb4 doctor 200 || echo "doctor: $?"
echo "exporter: $(systemctl is-enabled tb4-exporter || true) $(systemctl is-active tb4-exporter || true)"
echo "catalog: $(journalctl --list-catalog | grep -c 'tb4-gateway: ')"
ls /usr/share/tb4/monitoring
systemctl start tb4-exporter
udevadm settle
readlink -f /dev/tb4/vm-200-disk-0
pids() { systemctl show -p MainPID --value tb4-vm@200.service tb4-vm-connect@200.service; }
before=$(pids)
exporter=$(systemctl show -p MainPID --value tb4-exporter)
dpkg -i new.deb >/dev/null
systemctl is-active tb4-exporter
[ "$exporter" != "$(systemctl show -p MainPID --value tb4-exporter)" ]
[ "$before" = "$(pids)" ]
is_well 200
echo "gateway and keeper outlive the upgrade"
systemctl restart tb4-vm@200
until_true 20 is_well 200
dpkg -r tb4-gateway >/dev/null
systemctl is-active tb4-vm@200.service tb4-vm@200.socket tb4-vm-connect@200.service tb4-exporter.service || true
ls /sys/block/nbd0/pid || true
grep -o '"released":true' /var/lib/tb4/claims/vm-200-disk-0.json
dpkg -P tb4-gateway 2>&1 | grep kept
ls /var/lib/tb4/volumes /etc/tb4/volumes/vm-200-disk-0.conf
dpkg -i new.deb >/dev/null
tb4 volume delete vm-200-disk-0 --yes
rm -rf /var/lib/tb4/claims
dpkg -P tb4-gateway 2>&1 | grep kept || true
find / -xdev -name '*tb4*' ! -path '/share/*' ! -path '/proc/*' ! -path '/sys/*' ! -path '/run/*' || true
""", 200)
    for line in ("/run/tb4 755 root", "/etc/tb4 755 root", "/etc/tb4/volumes 755 root", "/etc/tb4/downstairs 700 root",
                 "/var/lib/tb4 755 root", "/var/lib/tb4/claims 700 root", "/var/lib/tb4/volumes 700 root"):
        assert f"{line}\n" in output, output
    assert re.search(r"^crucible:.*:/usr/sbin/nologin$", output, re.M) and "units are in order" in output, output
    assert "doctor: 1\n" in output and re.search(r"^13 checks: 0 errors, \d warnings?$", output, re.M), output
    assert "exporter: disabled inactive\ncatalog: 13\ntb4-dashboard.json\ntb4.rules.yml\n/dev/nbd0\nactive\n" in output, output
    assert "gateway and keeper outlive the upgrade\n" in output and output.count("\ninactive") == 4, output
    assert "ls: cannot access '/sys/block/nbd0/pid'" in output, output
    assert '"released":true\ntb4-gateway: kept, as there are data in it:' in output, output
    assert output.endswith("deleted vm-200-disk-0\n"), output  # nothing is left
