"""TLS as it is installed: within the sandbox of the unit, on an address beyond loopback, with certificates where tb4 cert puts them.
Whether the kernel encrypts is up to GnuTLS, which may; what status says of it is what the kernel has counted."""
import re

import pytest

from support.vm import needs_vm

pytestmark = [needs_vm, pytest.mark.plain, pytest.mark.timeout(900)]

SCRIPT = """
cp bin/tb4 bin/tb4-gateway /usr/local/sbin/
cp units/tb4-vm@.s* /etc/systemd/system/
systemctl daemon-reload
ip link add mesh0 type dummy && ip address add 10.99.0.1/24 dev mesh0 && ip link set mesh0 up
mkdir -p /etc/gnutls /etc/tb4
printf '[global]\\nktls = true\\n' >/etc/gnutls/config
modprobe tls
printf '[nbd]\\nlisten = 10.99.0.1\\n' >/etc/tb4/tb4.conf
tb4 volume create 200 64M
systemctl start tb4-vm@200 || journalctl -q -o cat -u tb4-vm@200.service | grep 'needs TLS'
tb4 cert init
tb4 cert node pve1 --address 10.99.0.1 | sed -n '/^\\[tls\\]/,$p' >>/etc/tb4/tb4.conf
tb4 cert node guest >/dev/null
tb4 check
systemctl reset-failed tb4-vm@200
systemctl start tb4-vm@200
uri='nbds://10.99.0.1/vm-200-disk-0?tls-certificates=/etc/tb4/tls/guest'
head -c 64M /dev/urandom >data
nbdcopy data "$uri"
nbdcopy "$uri" back
cmp data back
( nbdcopy --connections=1 "$uri" - | { head -c 1M >/dev/null; until_true 20 test -e seen; } ) &
copy=$!
sees_it() { tb4 status 200 --json >status.json; grep -q '"in_kernel"' status.json; }
until_true 20 sees_it
grep -e in_kernel -e cipher -e '"peer"' status.json
awk '$1 == "TlsTxSw"' /proc/net/tls_stat
touch seen
wait $copy || true
systemctl stop tb4-vm@200
tb4 claim show vm-200-disk-0 | grep -o released
journalctl -q -o cat -u tb4-vm@200.service
"""


def test_as_installed_beyond_loopback(vm):
    output = vm.run(SCRIPT, 240)
    assert "listen = 10.99.0.1: beyond loopback NBD needs TLS" in output, output
    assert "no faults" in output and "released" in output and " dropped" not in output, output
    assert re.search(r'"peer": "10\.99\.0\.1:\d+ \(guest\)"', output), output
    counted = int(re.search(r"^TlsTxSw\s+(\d+)", output, re.M)[1])
    assert ('"in_kernel": true' in output) == (counted > 0), output
