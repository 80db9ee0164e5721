#!/usr/bin/python3
"""Many VMs on one machine: gateways and kernel devices of the VMs 200 to 299, in a virtual machine with a real systemd and kernel
(emulated: an emulated processor is some twenty times slower, and so are start and idle times). Prints a table.

    tests/bench/bench-vms.py [VMS...]     default 1 10 50 100; each stage starts what is missing to that number, at once
"""
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.vm import CACHE, PROLOGUE, SCRIPTS, Vm, packages  # noqa: E402

SCRIPT = """
cp bin/tb4 bin/tb4-gateway /usr/local/sbin/
cp units/tb4-vm*@.s* /etc/systemd/system/
cp units/*.rules /etc/udev/rules.d/
cp units/modprobe.conf /etc/modprobe.d/tb4.conf
udevadm control --reload
systemctl daemon-reload
modprobe nbd
cpu() { cat "/sys/fs/cgroup/system.slice/system-tb4\\\\x2d$1.slice/cpu.stat" | awk '$1 == "usage_usec" { print $2 }'; }
busy() { awk '$1 == "cpu" { print $2 + $3 + $4 + $7 + $8 }' /proc/stat; }
now() { cut -d' ' -f1 /proc/uptime; }
pss() { for pid in $(pidof "$1"); do cat /proc/$pid/smaps_rollup; done | awk '/^Pss:/ { sum += $2 } END { print sum }'; }
are_connected() { [ "$(ls /sys/block/nbd*/pid 2>/dev/null | wc -l)" -ge "$1" ]; }
done=0
for vms in STAGES; do
	units=
	for ((i = done; i < vms; i++)); do
		tb4 volume create $((200 + i)) 64M >/dev/null
		units="$units tb4-vm-connect@$((200 + i))"
	done
	begin=$(now)
	systemctl start $units
	until_true 600 are_connected $vms
	end=$(now)
	for ((i = 0; i < vms; i++)); do grep -q "^tb4/vm-$((200 + i))-disk-0$" /sys/block/nbd$i/backend; done
	sleep 15
	gateway=$(cpu vm) keeper=$(cpu 'vm\\x2dconnect') machine=$(busy) from=$(now)
	sleep 20
	echo "stage $vms $((vms - done)) $begin $end $(pss tb4-gateway) $(pss tb4)" \\
		"$gateway $(cpu vm) $keeper $(cpu 'vm\\x2dconnect') $machine $(busy) $from $(now)"
	done=$vms
done
journalctl -q -o cat -p warning | tail -n 5
systemctl stop 'tb4-vm-connect@*'
ls /sys/block/nbd*/pid 2>/dev/null | wc -l
"""


def main():
    stages = [int(word) for word in sys.argv[1:]] or [1, 10, 50, 100]
    with tempfile.TemporaryDirectory() as directory:
        vm = Vm(Path(directory) / "share")
        subprocess.run([SCRIPTS / "make-image.sh", CACHE, *packages()], check=True)
        done = subprocess.run([SCRIPTS / "run-vm.sh", CACHE, vm.share, "2400",
                               PROLOGUE + SCRIPT.replace("STAGES", " ".join(map(str, stages)))],
                              stdout=subprocess.PIPE, text=True, check=False, env={"VM_MEMORY": "3072", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    print("| VMs | start of one more | gateway, PSS each | keeper, PSS each | idle CPU: gateways | keepers | whole machine |")
    print("|---|---|---|---|---|---|---|")
    for line in re.findall(r"^stage (.*)$", done.stdout, re.M):
        (vms, fresh, begin, end, gateways, keepers, gateway_0, gateway_1, keeper_0, keeper_1, busy_0, busy_1, from_,
         to) = (float(word) for word in line.split())
        seconds = to - from_
        percent = [(gateway_1 - gateway_0) / 1e4, (keeper_1 - keeper_0) / 1e4, busy_1 - busy_0]
        print(f"| {vms:.0f} | {(end - begin) / fresh:.2f} s | {gateways / vms / 1024:.1f} MiB | {keepers / vms / 1024:.1f} MiB | "
              + " | ".join(f"{one / seconds:.2f} %" for one in percent) + " |")
    if done.returncode:
        print(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
