"""Crucible volumes in a virtual machine: sleds with a real systemd, and a file system over the kernel's own NBD client."""
import re
from pathlib import Path

import pytest

from support.downstairs import OWN, UPSTREAM
from support.node import ROOT
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


def events():
    """{"SLOT_ACTIVE": its MESSAGE_ID, ...}"""
    return dict(re.findall(r'#define EVENT_(\w+) "([0-9a-f]{32})"', (ROOT / "gateway" / "log-events.h").read_text()))


def test_journal_and_exporter_tell_each_change_of_state(vm):
    """Under the installed units: start, a copy that goes and comes back, kill -9, a fence, the stop; and how far the exporter is
    shut in."""
    ids = " ".join(f"[{name}]={number}" for name, number in events().items())
    output = vm.run(sleds("own") + f"declare -A id=({ids})" + r"""
cp bin/tb4 bin/tb4-gateway bin/tb4-exporter /usr/local/sbin/
cp units/tb4-vm@.s* units/tb4-exporter.service /etc/systemd/system/
mkdir -p /usr/lib/systemd/catalog
cp units/tb4.catalog /usr/lib/systemd/catalog/
journalctl --update-catalog
systemctl daemon-reload
told() { journalctl -q --sync; journalctl -q -o cat "MESSAGE_ID=${id[$1]}" TB4_VMID=200 "${@:2}" | grep -c "$where"; } # EVENT FIELD=...
scrape() { exec 3<>/dev/tcp/127.0.0.1/9199; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; tr -d '\r' <&3 >scrape.log; exec 3>&-; }
shows() { scrape; grep -qx "$1" scrape.log; }
where=vm-200-disk-0
volume=TB4_VOLUME=vm-200-disk-0
systemctl start tb4-vm@200 tb4-exporter
until_true 60 is_well 200
told VOLUME_STARTING $volume; told CLAIM_TAKEN $volume; told VOLUME_SERVING $volume
for slot in 0 1 2; do told SLOT_ACTIVE $volume TB4_SLOT=$slot; done
until_true 20 shows 'tb4_up{vmid="200"} 1'
systemctl stop crucible-downstairs@3901
until_true 60 shows 'tb4_slot_in_sync{vmid="200",volume="vm-200-disk-0",slot="1"} 0'
told SLOT_ABSENT $volume TB4_SLOT=1
systemctl stop crucible-downstairs@3902
until_true 60 told VOLUME_PAUSED $volume
until_true 20 shows 'tb4_volume_paused{vmid="200",volume="vm-200-disk-0"} 1'
tb4 status 200 >/dev/null || echo "degraded: $?"
systemctl start crucible-downstairs@3901 crucible-downstairs@3902
until_true 60 is_well 200
told VOLUME_SERVING $volume | sed 's/^/served again: /'
systemctl restart tb4-vm@200
told CLAIM_RELEASED $volume | sed 's/^/released: /'
until_true 60 is_well 200
kill -KILL "$(systemctl show -p MainPID --value tb4-vm@200.service)"
until_true 60 told HISTORY_RESUMED $volume
until_true 60 is_well 200
tb4 claim force vm-200-disk-0 --yes >/dev/null
where=refused
until_true 30 told FENCED
systemctl stop tb4-vm@200
echo "catalog:"
journalctl -q -x -o short "MESSAGE_ID=${id[SLOT_ABSENT]}" | sed 's/^/  /'
journalctl -q -o json "MESSAGE_ID=${id[SLOT_ABSENT]}" TB4_SLOT=1 | head -n 1
scrape
grep '^tb4_gateways' scrape.log
systemctl show -p StatusText --value tb4-exporter
systemd-analyze security --no-pager tb4-exporter.service | tail -n 1
systemctl stop tb4-exporter
systemctl show -p Result --value tb4-exporter
""", 400)
    assert output.startswith("created vm-200-disk-0"), output
    head, catalog = output.split("catalog:\n")
    assert "\n1\n1\n1\n1\n1\n1\n1\n" in head, output  # starting, claimed, served, three slots; one absent
    assert "degraded: 1\nserved again: 2\nreleased: 1\n" in head, output
    assert "Subject: A copy of a volume is gone" in catalog and "tb4 volume replace VOLUME SLOT --sled SLED" in catalog, output
    assert '"PRIORITY":"4"' in catalog and '"TB4_SLOT":"1"' in catalog and '"SYSLOG_IDENTIFIER":"tb4-gateway"' in catalog, output
    assert '"_SYSTEMD_UNIT":"tb4-vm@200.service"' in catalog, output
    assert "tb4_gateways 0\nServing http://127.0.0.1:9199/metrics\n" in catalog, output
    exposure = float(re.search(r"Overall exposure level for tb4-exporter.service: ([0-9.]+)", catalog)[1])
    assert exposure <= 2.0 and catalog.endswith("\nsuccess\n"), output
