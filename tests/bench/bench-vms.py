#!/usr/bin/python3
"""Many VMs on one machine: gateways and kernel devices of the VMs 200 to 299, in a virtual machine with a real systemd and kernel.
Prints a table. The machine is emulated, and so much slower: the last column says how much, by 400,000 system calls that take so many
times as long in it as beside it at that moment. Start and idle times are to be divided by that.

    tests/bench/bench-vms.py [VMS...]     default 1 10 50 100; each stage starts what is missing to that number, at once
"""
import os
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
calls() { { TIMEFORMAT=%U+%S; time dd if=/dev/zero of=/dev/null bs=1 count=200000 status=none; } 2>&1; }
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
	systemctl start --no-block $units
	until_true 1200 are_connected $vms
	end=$(now)
	for ((i = 0; i < vms; i++)); do grep -q "^tb4/vm-$((200 + i))-disk-0$" /sys/block/nbd$i/backend; done
	sleep 15
	gateway=$(cpu vm) keeper=$(cpu 'vm\\x2dconnect') machine=$(busy) from=$(now)
	sleep 20
	idle="$gateway $(cpu vm) $keeper $(cpu 'vm\\x2dconnect') $machine $(busy) $from $(now)"
	echo "stage $vms $((vms - done)) $begin $end $idle $(pss tb4-gateway) $(pss tb4) $(calls)"
	done=$vms
done
journalctl -q -o cat -p warning | tail -n 5
systemctl stop 'tb4-vm-connect@*'
ls /sys/block/nbd*/pid 2>/dev/null | wc -l
"""


def seconds_of_calls():
    """The same as calls() in the machine."""
    before = os.times()
    subprocess.run(["dd", "if=/dev/zero", "of=/dev/null", "bs=1", "count=200000", "status=none"], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def row(words):
    numbers = [float(word) for word in words[:-1]]
    vms, fresh, begin, end, gateway_0, gateway_1, keeper_0, keeper_1, busy_0, busy_1, from_, to, gateways, keepers = numbers
    percent = [(gateway_1 - gateway_0) / 1e4, (keeper_1 - keeper_0) / 1e4, busy_1 - busy_0]
    slower = sum(float(part) for part in words[-1].split("+")) / seconds_of_calls()
    return (f"| {vms:.0f} | {(end - begin) / fresh:.2f} s | {gateways / vms / 1024:.1f} MiB | {keepers / vms / 1024:.1f} MiB | "
            + " | ".join(f"{one / (to - from_):.2f} %" for one in percent) + f" | {slower:.0f} times |")


def main():
    stages = [int(word) for word in sys.argv[1:]] or [1, 10, 50, 100]
    with tempfile.TemporaryDirectory() as directory:
        vm = Vm(Path(directory) / "share")
        subprocess.run([SCRIPTS / "make-image.sh", CACHE, *packages()], check=True)
        script = PROLOGUE + SCRIPT.replace("STAGES", " ".join(map(str, stages)))
        machine = subprocess.Popen([SCRIPTS / "run-vm.sh", CACHE, vm.share, "2400", script], stdout=subprocess.PIPE, text=True,
                                   env={**os.environ, "VM_MEMORY": "3072"})
        print("| VMs | start of one more | gateway, PSS each | keeper, PSS each | idle CPU: gateways | keepers | whole machine | slower |")
        print("|---|---|---|---|---|---|---|---|")
        for line in machine.stdout:
            if line.startswith("stage "):
                print(row(line.split()[1:]), flush=True)
            else:
                print(line, end="", file=sys.stderr, flush=True)
    return machine.wait()


if __name__ == "__main__":
    sys.exit(main())
