"""Volumes as kernel devices, with a real kernel, udev and systemd: a file system on one goes on whatever happens to its gateway and
its keeper, it follows a resize, nobody looks into a guest's disk, and no device is touched for the wrong volume."""
import re

import pytest

from support.vm import Vm, needs_vm

pytestmark = [needs_vm, pytest.mark.plain, pytest.mark.timeout(900)]

INSTALL = """
cp bin/tb4 bin/tb4-gateway /usr/local/sbin/
cp units/tb4-vm*@.s* /etc/systemd/system/
cp units/*.rules /etc/udev/rules.d/
cp units/modprobe.conf /etc/modprobe.d/tb4.conf
mkdir -p /etc/tb4
printf '[kernel]\\nrequest_timeout = 3\\n' >/etc/tb4/tb4.conf
udevadm control --reload
systemctl daemon-reload
pid_of() { systemctl show -p MainPID --value "$1.service"; }
is_another() { [ "$(pid_of "$1")" -gt 0 ] && [ "$(pid_of "$1")" != "$2" ]; }
is_quiet() { [ ! -e /sys/block/nbd$1/pid ] && [ "$(cat /sys/block/nbd$1/size)" = 0 ]; }
has_size() { [ "$(blockdev --getsize64 /dev/nbd0)" = "$1" ]; }
"""


@pytest.fixture
def vm(tmp_path):
    return Vm(tmp_path / "share")


def test_file_system_goes_on_over_everything_that_happens_to_gateway_and_keeper(vm):
    output = vm.run(INSTALL + """
tb4 volume create 200 128M
mkdir -p /etc/systemd/system/tb4-vm@200.service.d
cp units/kernel-attach.conf /etc/systemd/system/tb4-vm@200.service.d/
systemctl daemon-reload
systemctl start tb4-vm-connect@200
systemctl show -p StatusText --value tb4-vm-connect@200.service
udevadm settle
readlink -f /dev/tb4/vm-200-disk-0
mkfs.ext4 -q /dev/tb4/vm-200-disk-0
mkdir -p /mnt/disk
mount /dev/tb4/vm-200-disk-0 /mnt/disk
fio --name=verify --filename=/mnt/disk/fio --size=8M --bs=4k --rw=randwrite --ioengine=libaio --iodepth=8 --direct=1 \\
	--verify=crc32c --verify_backlog=256 --verify_fatal=1 --time_based --runtime=75 --output=fio.log &
load=$!
sleep 3
gateway=$(pid_of tb4-vm@200)
grep VmLck /proc/$gateway/status
for i in 1 2; do
	kill -KILL $gateway
	until_true 30 is_another tb4-vm@200 $gateway
	until_true 30 is_well 200
	sleep 4
	gateway=$(pid_of tb4-vm@200)
done
keeper=$(pid_of tb4-vm-connect@200)
kill -KILL $keeper
until_true 30 is_another tb4-vm-connect@200 $keeper
systemctl restart tb4-vm@200
sleep 2
systemctl stop tb4-vm@200
sleep 5
systemctl start tb4-vm@200
systemctl is-active tb4-vm-connect@200.service
kill -0 $load && echo "the load runs"
wait $load
grep -o 'err= *[0-9]*' fio.log
sync -f /mnt/disk
tb4 attach 200
tb4 detach 200 || echo "refused: $?"
systemctl stop tb4-vm-connect@200
systemctl start tb4-vm-connect@200
echo more >/mnt/disk/more
tb4 volume resize 200 192M
until_true 30 has_size 201326592
umount /mnt/disk
e2fsck -fn /dev/nbd0 >fsck.log 2>&1
systemctl stop tb4-vm-connect@200
systemctl is-active tb4-vm-connect@200.service || true
until_true 10 is_quiet 0
udevadm settle
ls -A /dev/tb4 2>&1 || true
for unit in tb4-vm@200 tb4-vm-connect@200; do systemd-analyze security --no-pager $unit.service | tail -n 1; done
dmesg | grep -c 'I/O error' || true
echo journal
journalctl -q -o cat -u tb4-vm-connect@200.service -u tb4-vm@200.service
dmesg | grep nbd
""", 400)
    assert "vm-200-disk-0 is /dev/nbd0\n/dev/nbd0\n" in output, output
    assert int(re.search(r"VmLck:\s+(\d+) kB", output)[1]) > 1000
    assert "active\nthe load runs\nerr= 0\n" in output, output
    assert "vm-200-disk-0 is /dev/nbd0, and was already\n" in output
    assert "tb4: /dev/nbd0: mounted at /mnt/disk\nrefused: 75\n" in output
    gateway, keeper = (float(score) for score in re.findall(r"Overall exposure level for \S+: ([0-9.]+)", output))
    assert gateway <= 2.2 and keeper <= 2.2, output
    end, journal = output.split("journal\n", 1)
    assert end.endswith("\n0\n") and "inactive\n" in end, output
    assert journal.count("is connected again, after") >= 3 and journal.count("vm-200-disk-0: is attached already") == 2, journal
    assert "cannot be" not in journal, journal  # memory, locked and without I/O


def test_no_device_is_touched_for_another_volume_and_no_guest_is_looked_into(vm):
    output = vm.run(INSTALL + """
modprobe nbd
ls -d /dev/nbd* | wc -l
truncate -s 64M image
printf ',16M,8e\\n,,L\\n' | sfdisk -q image
tb4 volume import 201 image >/dev/null
tb4 volume create 202 64M
systemctl start tb4-vm@201 tb4-vm@202
tb4 attach 201 --json
cmp image /dev/nbd1
dd if=image of=/dev/nbd1 bs=1M count=1 conv=notrunc status=none
udevadm settle
ls /dev/nbd1p* /sys/block/nbd1/nbd1p* 2>/dev/null || echo "no partitions"
udevadm info /dev/nbd1 | grep 'ID_FS\\|ID_PART\\|by-' || echo "nothing known of what is on it"
tb4 attach 202 --device 1 || echo "refused: $?"
tb4 attach 201 --device 7 || echo "refused: $?"
tb4 attach 202 --dry-run
tb4 attach 202 --device 105
readlink -f /dev/tb4/vm-202-disk-0
sleep 60 </dev/nbd105 &
tb4 detach 202 || echo "refused: $?"
kill $!; wait $! || true
tb4 volume delete 202 --yes || echo "refused: $?"
tb4 detach 202
tb4 detach vm-202-disk-0
tb4 detach 201
nbd-client -unix /run/tb4/202/nbd.sock -N vm-202-disk-0 /dev/nbd1 >/dev/null 2>&1
until_true 10 test -e /sys/block/nbd1/pid
tb4 attach 201 || echo "refused: $?"
tb4 detach 201
cmp -n 1048576 image /dev/zero >/dev/null || cmp -n 1048576 /dev/nbd1 /dev/zero && echo "the other one is untouched"
nbd-client -d /dev/nbd1 >/dev/null
until_true 10 is_quiet 1
tb4 attach 201 --connections 1
ls /sys/block/nbd1/mq | wc -l
systemctl stop tb4-vm@201
tb4 attach 201 || echo "refused: $?"
tb4 detach 201 --force
until_true 10 is_quiet 1
(exec setpriv --bounding-set=-all --inh-caps=-all tb4 attach 202) || echo "refused: $?"
""", 300)
    assert output.startswith("100\n"), output
    assert '"device":"/dev/nbd1"' in output.replace(" ", "") and '"size":67108864' in output.replace(" ", ""), output
    assert "no partitions\nnothing known of what is on it\n" in output, output
    assert "tb4: vm-202-disk-0: /dev/nbd1 is attached to volume vm-201-disk-0: see --device in tb4(1)\nrefused: 75\n" in output, output
    assert "tb4: vm-201-disk-0: is attached already, as /dev/nbd1\nrefused: 75\n" in output
    assert "vm-202-disk-0 is to be /dev/nbd2\nvm-202-disk-0 is /dev/nbd105\n/dev/nbd105\n" in output
    assert re.search(r"tb4: /dev/nbd105: open in pid \d+ \(sleep\)\nrefused: 75\n"
                     r"tb4: vm-202-disk-0: is attached, as /dev/nbd105: tb4 detach it first\nrefused: 75\n"
                     r"detached vm-202-disk-0 from /dev/nbd105\n"
                     r"vm-202-disk-0 is not attached\ndetached vm-201-disk-0 from /dev/nbd1\n", output), output
    assert re.search(r"tb4: vm-201-disk-0: /dev/nbd1 is connected to something else, by pid \d+: it is left alone\nrefused: 75\n"
                     r"nothing of VM 201 is attached\nthe other one is untouched\n", output), output
    assert "vm-201-disk-0 is /dev/nbd1\n1\n" in output
    assert "tb4: /run/tb4/201/nbd.sock: no gateway answers: No such file or directory\nrefused: 69\n" in output
    assert output.endswith("tb4: /dev/nbd2: not permitted: needs CAP_SYS_ADMIN\nrefused: 77\n"), output
