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
    """Made and enabled by create, started again after a kill, gone after delete; the gateway goes on meanwhile."""
    output = vm.run(sleds(kind) + START + """
systemctl is-enabled crucible-downstairs@3900.service crucible-downstairs@3901.service crucible-downstairs@3902.service
systemctl show -p LimitNOFILE -p MemoryMax -p Restart crucible-downstairs@3901.service
main_pid() { systemctl show -p MainPID --value crucible-downstairs@3901.service; }
before=$(main_pid)
is_another() { local pid; pid=$(main_pid); [ "$pid" -gt 0 ] && [ "$pid" != "$before" ]; }
kill -KILL $before
until_true 60 is_another
until_true 60 grep -q "lost\\|refused\\|reset" gateway.log
until_true 60 is_well 200
kill $gateway; wait $gateway
tb4 sled check || [ $? = 1 ]
tb4 volume delete vm-200-disk-0 --yes
systemctl list-units --all --no-legend 'crucible-downstairs@*'
find /srv/s? /etc/tb4/downstairs -type f ! -name .lock
""", 300)
    assert output.count("enabled\n") == 3
    assert "LimitNOFILE=1048576" in output and "Restart=always" in output and re.search(r"MemoryMax=\d+", output)
    assert output.endswith("deleted vm-200-disk-0\n"), output  # and nothing is left
