"""The units of a VM's gateway under a real systemd."""
import re
import shutil

import pytest

from support.node import TOOLS
from support.vm import needs_vm

pytestmark = [needs_vm, pytest.mark.plain, pytest.mark.timeout(900)]

INSTALL = """
cp bin/tb4 bin/tb4-gateway /usr/local/sbin/
cp units/tb4-vm@.s* /etc/systemd/system/
systemctl daemon-reload
tb4 volume create 200 64M
property() { systemctl show -p "$2" --value "tb4-vm@$1.service"; }
has_restarted() { [ "$(property 200 NRestarts)" -ge "$1" ]; }
"""
NAME = "vm-200-disk-0"
URI = f"nbd+unix:///{NAME}?socket=/run/tb4/200/nbd.sock"


def test_start_status_exposure_and_stop(vm):
    output = vm.run(INSTALL + f"""
systemctl start tb4-vm@200
systemctl is-active tb4-vm@200.service tb4-vm@200.socket
property 200 StatusText
stat -c '%a %F' /run/tb4/200/nbd.sock /run/tb4/200/control.sock
nbdinfo --size '{URI}'
tb4 status 200 | tail -n 1
systemd-analyze security --no-pager tb4-vm@200.service | tail -n 1
systemctl stop tb4-vm@200
systemctl is-active tb4-vm@200.service tb4-vm@200.socket || true
ls -A /run/tb4 || true
tb4 claim show {NAME} | grep -i released
journalctl -q -o cat -u tb4-vm@200.service | grep -c 'Failed\\|denied\\|not permitted' || true
""")
    assert output.count("\nactive") == 2 and "Serving 1 of 1 volumes" in output, output
    assert "600 socket\n600 socket\n67108864\n" in output, output
    exposure = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", output)[1])
    assert exposure <= 2.0, output
    assert output.count("inactive\n") == 2 and output.endswith("\n0\n"), output


def test_what_the_unit_denies_is_denied(vm):
    """A program that tries it all runs in the gateway's place; what the filter of system calls denies gets an errno of its own."""
    shutil.copy(TOOLS / "denied-calls", vm.share / "bin")
    output = vm.run(INSTALL + """
mkdir -p /run/systemd/system/tb4-vm@.service.d /run/tb4
cat >/run/systemd/system/tb4-vm@.service.d/denied.conf <<'END'
[Service]
Type=oneshot
WatchdogSec=0
Restart=no
ExecStart=
ExecStart=/share/bin/denied-calls
StandardOutput=truncate:/run/tb4/denied.log
SystemCallErrorNumber=EUCLEAN
END
systemctl daemon-reload
systemctl start tb4-vm@200
cat /run/tb4/denied.log
""")
    results = dict(line.split() for line in output.splitlines() if len(line.split()) == 2)
    calls = [name for name in results if re.fullmatch("[a-z_0-9]+", name)]
    families = ["unix", "inet", "inet6", "packet", "netlink", "vsock"]
    filtered = {name for name in calls if results[name] == "EUCLEAN"}
    assert len(filtered) >= 37 and set(calls) - filtered == {"setns", "unshare", *families}, results
    assert results["setns"] == results["unshare"] == "EPERM"  # RestrictNamespaces
    assert [results[name] for name in families] == ["done"] * 3 + ["EAFNOSUPPORT"] * 3
    assert {results[name] for name in results if name.startswith("write:")} == {"EROFS", "done"}
    assert [name for name in results if name.startswith("write:") and results[name] == "done"] == [
        "write:/var/lib/tb4/denied", "write:/run/tb4/denied"]
    assert {results[name] for name in ("read:/dev/kmsg", "read:/root")} == {"ENOENT", "EACCES"}
    assert {results[name] for name in ("write-and-execute", "make-executable", "set-user-id-file")} == {"EPERM"}
    assert results["real-time"] == "EUCLEAN"


def test_restarts_are_seen_by_nobody_who_connects(vm):
    """systemd holds the socket: whoever connects while the gateway is restarted, killed, or hangs and is killed by the watchdog,
    just waits. Only who is connected at a kill is cut off. What was written stays."""
    output = vm.run(INSTALL + f"""
mkdir -p /run/systemd/system/tb4-vm@.service.d
printf '[Service]\\nWatchdogSec=5\\nTimeoutAbortSec=1\\n' >/run/systemd/system/tb4-vm@.service.d/soon.conf
systemctl daemon-reload
systemctl start tb4-vm@200
head -c 1000000 /dev/urandom >data
truncate -s 1M data
nbdcopy data '{URI}'
inode=$(stat -c %i /run/tb4/200/nbd.sock)
while [ ! -e end ]; do
	nbdinfo --size '{URI}' >>sizes 2>>errors || true
done &
clients=$!
for i in 1 2 3; do systemctl restart tb4-vm@200; done
echo "restarted, restarts by itself: $(property 200 NRestarts)"
for i in 1 2; do
	kill -KILL "$(property 200 MainPID)"
	until_true 20 has_restarted $i
	until_true 20 is_well 200
done
kill -STOP "$(property 200 MainPID)"
until_true 60 has_restarted 3
until_true 20 is_well 200
touch end
wait $clients
[ "$inode" = "$(stat -c %i /run/tb4/200/nbd.sock)" ]
echo "not let in: $(grep -c 'refused\\|No such file\\|timed out' errors || true)"
echo "sizes: $(sort sizes | uniq -c)"
nbdcopy '{URI}' back
cmp -n 1048576 back data
journalctl -q -o cat -u tb4-vm@200.service | grep -c 'claim resumed'
""", 250)
    assert "restarts by itself: 0\n" in output and "not let in: 0\n" in output, output
    count, size = re.search(r"sizes: +(\d+) (\d+)\n", output).groups()
    assert int(count) > 10 and size == "67108864", output
    assert int(output.split()[-1]) >= 3, output


def test_what_no_start_can_mend_is_not_tried_again(vm):
    output = vm.run(INSTALL + """
systemctl start tb4-vm@201 2>/dev/null || echo "start of a VM without volumes: $?"
sleep 1
property 201 NRestarts; property 201 ActiveState; property 201 ExecMainStatus
systemctl is-active tb4-vm@201.socket || true
echo nonsense >>/etc/tb4/tb4.conf
systemctl start tb4-vm@200 2>/dev/null || echo "start with a wrong configuration: $?"
sleep 1
property 200 NRestarts; property 200 ActiveState; property 200 ExecMainStatus
journalctl -q -o cat -u tb4-vm@200.service | grep 'tb4.conf'
""")
    assert "without volumes: 1\n0\nfailed\n66\ninactive\n" in output, output
    assert "wrong configuration: 1\n0\nfailed\n78\n" in output and "/etc/tb4/tb4.conf" in output, output
