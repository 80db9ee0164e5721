"""Crucible volumes in a virtual machine: sleds with a real systemd, and a file system over the kernel's own NBD client."""
import re
from pathlib import Path

import pytest

from support.downstairs import OWN, UPSTREAM
from support.vm import needs_vm
from support.volume import both

pytestmark = [needs_vm, pytest.mark.plain, pytest.mark.timeout(900)]

# three sleds that are this machine, at addresses of loopback
SLEDS = """
mkdir -p /etc/tb4 /srv
cat >/etc/tb4/tb4.conf <<E
[paths]
run_dir = /run/tb4
volume_dir = /etc/tb4/volumes
claim_dir = /var/lib/tb4/claims
data_dir = /var/lib/tb4/volumes
E
for i in 1 2 3; do
cat >>/etc/tb4/tb4.conf <<E
[sled s$i]
address = 127.0.0.1$i
command = sh -c
directory = /srv/s$i
program = /share/bin/PROGRAM
E
done
cp /share/units/crucible-downstairs@.service /etc/systemd/system/
systemctl daemon-reload
tb4 volume create 200 128M --backend crucible
"""
START = """
tb4-gateway 200 2>gateway.log &
gateway=$!
until_true 60 is_well 200
"""


def sleds(kind):
    return SLEDS.replace("PROGRAM", Path(UPSTREAM if kind == "upstream" else OWN).name)


@both
def test_file_system_over_the_kernels_client_without_options(vm, kind):
    """512-byte blocks, partitions, mkfs, mount, fsck; twice, with a new gateway in between; and all three regions are equal."""
    output = vm.run(sleds(kind) + START + """
modprobe nbd
attach() { nbd-client -unix /run/tb4/200/nbd.sock /dev/nbd0 >nbd-client.log 2>&1; until_true 20 test -e /dev/nbd0; }
detach() { nbd-client -d /dev/nbd0 >/dev/null; }
attach
echo "logical block size $(cat /sys/block/nbd0/queue/logical_block_size)"
echo ',,L' | sfdisk -q /dev/nbd0
until_true 20 test -b /dev/nbd0p1
mkfs.ext4 -q /dev/nbd0p1
mkdir -p /mnt/disk
mount /dev/nbd0p1 /mnt/disk
head -c 9000001 /dev/urandom >/mnt/disk/random
for i in {1..60}; do echo "file $i" >"/mnt/disk/file-$i"; done
fio --name=small --filename=/mnt/disk/fio --size=1M --bs=512 --rw=randwrite --direct=1 --ioengine=psync --verify=crc32c \\
	--do_verify=1 --number_ios=300 --output=fio.log
sha256sum /mnt/disk/random /mnt/disk/f* >sums
umount /mnt/disk
e2fsck -fn /dev/nbd0p1 >fsck.log 2>&1
detach
kill $gateway; wait $gateway
""" + START + """
attach
until_true 20 test -b /dev/nbd0p1
mount /dev/nbd0p1 /mnt/disk
sha256sum --quiet -c sums
umount /mnt/disk
detach
kill $gateway; wait $gateway
systemctl stop 'crucible-downstairs@*'
tb4-test-downstairs dump --data --dir /srv/s1/39* --dir /srv/s2/39* --dir /srv/s3/39* | tail -n 1
""", 400)
    assert "logical block size 512" in output
    assert re.search(r"2 extents, 0 differ", output), output


@both
def test_downstairs_of_a_sled_are_kept_by_its_systemd(vm, kind):
    """Made and enabled by create, without privileges and with the limits of their regions; started again after a kill, and when
    they hang; one that answers, or whose port is not open yet, is left alone. Gone after delete; the gateway goes on meanwhile."""
    output = vm.run(sleds(kind) + """
mkdir -p /etc/systemd/system/crucible-downstairs@.service.d
printf '[Service]\\nWatchdogSec=30\\n' >/etc/systemd/system/crucible-downstairs@.service.d/soon.conf
systemctl daemon-reload
systemctl restart 'crucible-downstairs@*'
""" + START + """
property() { systemctl show -p "$2" --value "crucible-downstairs@$1.service"; }
is_another() { local pid; pid=$(property "$1" MainPID); [ "$pid" -gt 0 ] && [ "$pid" != "$2" ]; }
systemctl is-enabled crucible-downstairs@3900.service crucible-downstairs@3901.service crucible-downstairs@3902.service
systemctl show -p LimitNOFILE -p MemoryMax -p Restart crucible-downstairs@3901.service
pid=$(property 3901 MainPID)
echo "runs as $(stat -c %U /proc/$pid), with files: $(awk '/open files/ { print $4, $5 }' /proc/$pid/limits)"
echo "belongs to $(find /srv/s?/39?? -printf '%u\\n' | sort -u)"
ss -Hltn 'sport = :3901' | awk '{ print "bound to", $4 }' | sed 's/1[123]:/1x:/'
systemd-analyze security --no-pager crucible-downstairs@3901.service | tail -n 1
other=$(property 3900 MainPID)
kill -KILL $pid
until_true 60 is_another 3901 $pid
until_true 60 grep -q "lost\\|refused\\|reset" gateway.log
until_true 60 is_well 200
pid=$(property 3901 MainPID)
kill -STOP $pid
until_true 120 is_another 3901 $pid
until_true 60 is_well 200
# the region belongs to root again, and the program takes longer to listen than the watchdog waits
systemctl stop crucible-downstairs@3902.service
chown -R root: /srv/s?/3902
program=$(sed -n 's/^PROGRAM=//p' /etc/tb4/downstairs/3902.env)
printf '#!/bin/sh\\nsleep 36\\nexec %s "$@"\\n' $program >/usr/local/bin/slow
chmod 755 /usr/local/bin/slow
sed -i 's,^PROGRAM=.*,PROGRAM=/usr/local/bin/slow,' /etc/tb4/downstairs/3902.env
systemctl start crucible-downstairs@3902.service
until_true 90 is_well 200
until_true 90 eval "ss -Hltn 'sport = :3902' | grep -q LISTEN"
for port in 3900 3901 3902; do
	echo "by the watchdog: $(journalctl -q -o cat -u crucible-downstairs@$port.service | grep -c 'Watchdog timeout' || true)"
done
[ $other = "$(property 3900 MainPID)" ] && echo "the one that answers was left alone"
kill $gateway; wait $gateway
tb4 doctor 200 || echo "doctor: $?"
tb4 volume delete vm-200-disk-0 --yes
systemctl list-units --all --no-legend 'crucible-downstairs@*'
rm -r /etc/systemd/system/crucible-downstairs@.service.d
find /srv/s? /etc/tb4/downstairs -type f ! -name .lock
find /etc/systemd/system -name 'crucible-downstairs@3*'
""", 560)
    assert output.count("enabled\n") == 3
    assert "LimitNOFILE=72" in output and "Restart=always" in output and re.search(r"MemoryMax=\d+", output), output
    assert "runs as crucible, with files: 72 72\nbelongs to crucible\nbound to 127.0.0.1x:3901\n" in output, output
    exposure = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", output)[1])
    assert exposure <= 1.5, output
    assert "by the watchdog: 0\nby the watchdog: 1\nby the watchdog: 0\nthe one that answers was left alone\n" in output, output
    assert re.search(r"^13 checks: 0 errors, \d+ warnings$", output, re.M) and "doctor: 1\n" in output, output
    assert output.endswith("deleted vm-200-disk-0\n"), output  # and nothing is left
