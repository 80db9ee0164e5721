"""tb4 doctor: what it finds on a node and its sleds, each with a cause and a next step; and that it finds nothing where all is
well. What it reads of the kernel is in tests/unit/test-doctor.c."""
import json
import os
import re
import signal
import socket

import pytest

from support.certificates import make_authority
from support.checksum import reseal
from support.node import needs, run, wait_until
from support.ports import is_free, take_port
from test_sleds import NAME, create, make_sleds, sleds  # noqa: F401: fixtures

CHECKS = {"configuration", "records", "permissions", "space", "clock", "modules", "sysctl", "units", "gateways", "ports",
          "certificates", "network", "sleds"}


def examine(node, *arguments, **options):
    """The report; its form, its numbers and the exit status are looked at here."""
    result = node.tb4("doctor", *arguments, "--json", check=False, **options)
    assert result.stderr == "", result.stderr
    report = json.loads(result.stdout)
    findings = report["findings"]
    assert {one["id"] for one in findings} == CHECKS and report["checks"] == len(CHECKS)
    for severity, number in (("error", report["errors"]), ("warning", report["warnings"])):
        assert sum(one["severity"] == severity for one in findings) == number
    for one in findings:
        assert one["subject"] and one["cause"]
        assert ("next" in one) == (one["severity"] != "ok"), one
    assert result.returncode == (2 if report["errors"] else 1 if report["warnings"] else 0)
    return report


def found(node, check, *arguments, **options):
    """What one check found: ["severity: subject: cause: next"]."""
    return [f"{one['severity']}: {one['subject']}: {one['cause']}: {one['next']}"
            for one in examine(node, *arguments, **options)["findings"] if one["id"] == check and one["severity"] != "ok"]


def assert_found(node, check, pattern, *arguments, **options):
    lines = found(node, check, *arguments, **options)
    assert len(lines) == 1 and re.search(pattern, lines[0]), lines


def test_nothing_is_wrong_with_a_node_that_serves(gateway):
    """Warnings about this very host (its clock, its kernel) may be there; no others, and nothing is changed."""
    node = gateway.node
    before = sorted(str(path) for path in node.directory.rglob("*"))
    report = examine(node)
    assert report["errors"] == 0 and report["node"] == "node-a" and "vmid" not in report
    assert {one["id"] for one in report["findings"] if one["severity"] == "warning"} <= {"clock", "sysctl", "units", "modules"}
    assert examine(node, 200)["vmid"] == 200
    assert sorted(str(path) for path in node.directory.rglob("*")) == before
    text = node.tb4("doctor", check=False).stdout
    assert re.search(r"^13 checks: (nothing found|0 errors, \d+ warnings?)\n\Z", text, re.M), text
    assert gateway.stop() == 0


def test_configuration(node):
    node.create(200)
    node.create(201)
    (node.volume_dir / "vm-201-disk-0.conf").write_text("[volume]\nbackend = tape\n")
    lines = found(node, "configuration")
    assert lines and all("vm-201-disk-0.conf" in line for line in lines)
    assert any("next" not in line and "editor +2 " in line for line in lines), lines
    assert found(node, "configuration", 200) == []
    assert found(node, "configuration", 201) == lines
    assert_found(node, "configuration", r"^warning: VM 202: has no volumes in .*: tb4 volume create 202 SIZE", 202)
    with open(node.config, "a", encoding="ascii") as config:
        config.write("[nonsense]\na = b\n")
    result = node.tb4("doctor", 200, check=False)
    assert result.returncode == 2 and re.search(r"^error \(configuration\): .*node-a.conf\n    .*nonsense.*\n    next: ",
                                                result.stdout, re.M), result.stdout
    assert node.tb4("doctor", "x", check=False).returncode == 64


def test_records(node, make_node):
    node.create(200)
    node.create(201)
    for vmid in (200, 201):
        assert node.start(vmid).stop() == 0
    record = node.claim_dir / "vm-200-disk-0.json"
    good = record.read_text()
    reseal(record, lambda text: text.replace('"node-a"', '"node-b"').replace('"released":true', '"released":false'))
    assert_found(node, "records", "^error: vm-200-disk-0: belongs to this node, and node-b has claimed it: stop its gateway")
    record.write_text(good)
    reseal(record, lambda text: re.sub(r'"generation_last":\d+', '"generation_last":5', text))
    assert_found(node, "configuration", "^error: .*vm-200-disk-0.*a wrong value")
    record.write_text(good[:-3])
    assert_found(node, "configuration", r"^error: .*vm-200-disk-0")
    record.write_text(good)
    (node.volume_dir / "vm-201-disk-0.conf").unlink()
    assert_found(node, "records", r"^warning: .*vm-201-disk-0.json: there is no volume file for it: bring .*conf back")
    assert found(node, "records", 200) == []


def test_permissions(node, sleds):  # noqa: F811
    node.write_config(sleds.settings())
    create(node, "--encrypt")
    node.config.chmod(0o664)
    assert_found(node, "permissions", "^error: .*node-a.conf: its group may write it .mode 0664.: chmod go-w")
    node.config.chmod(0o600)
    node.claim_dir.chmod(0o777)
    assert_found(node, "permissions", "^error: .*claims: everybody may write it .mode 0777.: chmod go-w")
    node.claim_dir.chmod(0o700)
    key = node.claim_dir / f"{NAME}.key"
    key.chmod(0o640)
    assert_found(node, "permissions", "^error: .*key: a key, and others .* .mode 0640.: chmod 600", 200)
    assert found(node, "permissions", 201) == []
    key.rename(node.claim_dir / "away")
    assert_found(node, "permissions", "^error: .*key: the key cannot be read: No such file or directory: bring the file back")
    (node.claim_dir / "away").rename(key)
    key.chmod(0o600)
    path = node.volume_dir / f"{NAME}.conf"
    os.chown(path, 65534, 65534)
    assert_found(node, "permissions", "^error: .*conf: belongs to user 65534, who may change it: chown root")
    os.chown(path, 0, 0)
    assert found(node, "permissions") == []


def test_room(node, small_disk):
    node.create(200)
    node.config.write_text(node.config.read_text().replace(f"run_dir = {node.run_dir}", f"run_dir = {small_disk}/run"))
    assert_found(node, "space", "^error: .*small/run: its file system is full: gateways cannot start: df -h")


def test_what_dead_gateways_leave(gateway):
    node = gateway.node
    gateway.kill()
    assert_found(node, "gateways", r"^warning: .*/200/role: left by a gateway that did not stop in order: .*systemctl start tb4-vm@200")
    (node.run_dir / "200" / "role").unlink()
    assert_found(node, "gateways", r"^warning: .*/200/nbd.sock: a socket that nobody listens at")
    (node.run_dir / "200" / "nbd.sock").unlink()
    assert found(node, "gateways") == []


def test_gateways_that_run_and_do_not_serve(make_node):
    node = make_node()
    node.create(200)
    node.create(201)
    node.create(201, "64M", "--disk", "1")
    node.start(200)
    node.tb4("claim", "force", NAME, "--yes")
    node.gateways[0].wait_for("fenced")
    node.image("vm-201-disk-1").unlink()
    node.start(201)
    lines = found(node, "gateways")
    assert len(lines) == 2, lines
    assert any(re.search("^error: .*/200: the gateway is fenced", line) for line in lines)
    assert any(re.search("^error: vm-201-disk-1: is not served: .*: mend that, then systemctl restart tb4-vm@201", line)
               for line in lines), lines
    assert len(found(node, "gateways", 200)) == 1


def test_port_of_nbd_is_taken(make_node):
    node = make_node(settings="[nbd]\nlisten = 127.0.0.1")
    port = take_port(range(10850, 10890))
    vmid = 200 + port - 10809
    node.create(vmid)
    with socket.create_server(("127.0.0.1", port)):
        assert_found(node, "ports", rf"^error: port {port}: pid {os.getpid()} \(.*\) has it: VM {vmid} cannot be offered")
        assert found(node, "ports", 200) == []
    gateway = node.start(vmid)
    assert found(node, "ports") == []
    assert gateway.stop() == 0


@needs("openssl")
def test_certificates(make_node, tmp_path):
    authority = make_authority(tmp_path, "authority")

    def node_with(days, key="own"):
        run("openssl", "genrsa", "-out", tmp_path / "own.key", "2048")
        run("openssl", "req", "-new", "-key", tmp_path / "own.key", "-subj", "/CN=own", "-out", tmp_path / "own.csr")
        run("openssl", "x509", "-req", "-in", tmp_path / "own.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
            "-CAcreateserial", "-days", days, "-out", tmp_path / "own.pem")
        (tmp_path / "own.key").chmod(0o600)
        node.write_config(f"[crucible]\ntls_authority = {authority}.pem\ntls_certificate = {tmp_path}/own.pem\n"
                          f"tls_key = {tmp_path}/{key}.key")
        return [line for line in found(node, "certificates") if "authority.pem" not in line]

    node = make_node()
    assert node_with(400) == []
    assert re.search(r"^warning: .*own.pem: the certificate expires in [45] days, on 20\d\d-", node_with(5)[0])
    assert re.search(r"^error: .*own.pem: the certificate expired on 20\d\d-.*: put a new one", node_with(0)[0])
    (tmp_path / "authority.key").chmod(0o600)
    assert re.search(r"^error: .*authority.key: certificate and key cannot be used", node_with(400, "authority")[0])
    (tmp_path / "own.pem").write_text("nothing")
    assert any(re.search(r"^error: .*own.pem: no certificate: ", line) for line in found(node, "certificates"))
    (tmp_path / "own.pem").unlink()
    assert any(re.search(r"^error: .*own.pem: the certificate cannot be read: No such file", line)
               for line in found(node, "certificates"))


def test_certificate_of_the_nbd_server(node, tmp_path):
    node.tb4("cert", "init", "--dir", tmp_path / "ca")
    node.tb4("cert", "node", "near", "--dir", tmp_path / "ca", "--days", 5)
    near = tmp_path / "ca" / "near"
    node.write_config(f"[tls]\nauthority = {near}/ca-cert.pem\ncertificate = {near}/server-cert.pem\n"
                      f"key = {near}/server-key.pem\n")
    line, = found(node, "certificates")
    assert re.search(r"^warning: .*server-cert.pem: the certificate expires in [45] days", line)


def test_sleds(node, sleds):  # noqa: F811
    node.write_config(sleds.settings())
    create(node)
    assert not any(line.startswith("error") for line in found(node, "sleds") + found(node, "network"))
    victim, port = next(iter(sleds.regions()))
    os.kill(int((sleds.path(victim) / f"{port}.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: sleds.path(victim) and is_free(port), "the downstairs is gone")
    errors = [line for line in found(node, "sleds", 200) if line.startswith("error")]
    assert any(re.search(rf"sled {victim}: region {port} .*: no downstairs serves it: there: systemctl", line) for line in errors)
    assert any(re.search(rf"{NAME}: slot \d: .*: its downstairs cannot be asked", line) for line in errors)
    # a stranger has the port, and the region is gone
    (sleds.path(victim) / f"{port}.volume").unlink()
    (sleds.path(victim) / str(port)).rename(sleds.directory / "gone")
    with socket.create_server((sleds.address(victim), port)):
        errors = [line for line in found(node, "sleds", 200) if line.startswith("error")]
        assert len(errors) == 1 and re.search(rf"slot \d: .*: its port is taken by pid {os.getpid()} \(", errors[0]), errors
    node.write_config(sleds.settings().replace("command = sh -c", "command = false", 1))
    errors = [line for line in found(node, "sleds") if line.startswith("error: sled s1")]
    assert errors == ["error: sled s1: sled s1: its command ended with 1: false hostname"]


def test_sled_whose_name_is_not_known(node, sleds):  # noqa: F811
    sleds.names = ["s1"]
    node.write_config(sleds.settings().replace(sleds.address("s1"), "nowhere.invalid"))
    assert_found(node, "network", "^error: sled s1: nowhere.invalid: not known here: .*: getent hosts nowhere.invalid")


ONE_WIRE = """
set -e
ip link set lo up
unshare -n sleep 60 &
far=$!
until [ "$(readlink /proc/$far/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link add near type veth peer name far
ip link set far netns $far
ip addr add 10.99.0.1/24 dev near
ip link set near mtu 9000 up
nsenter -t $far -n ip addr add 10.99.0.2/24 dev far
nsenter -t $far -n ip link set far mtu $1 up
sysctl -q -w net.ipv4.tcp_mtu_probing=$2
shift 2
status=0
"$@" || status=$?
kill $far
exit $status
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to make network namespaces")
@needs("ip", "nsenter", "sysctl")
def test_packets_that_do_not_arrive(node, sleds):  # noqa: F811
    """Two hosts on one wire, of which one takes no large packets and says nothing: as after one side's MTU was raised."""
    sleds.names = ["s1"]
    node.write_config(sleds.settings().replace(sleds.address("s1"), "10.99.0.2"))

    def on_a_wire(mtu, probing):
        return ["unshare", "-n", "sh", "-c", ONE_WIRE, "sh", str(mtu), str(probing)]

    assert_found(node, "network", r"^error: sled s1: packets of 9000 bytes, the MTU of near, do not arrive there, small ones do: "
                 r"transfers will hang: ping -M do -s 8972 10.99.0.2", wrap=on_a_wire(1500, 1))
    assert found(node, "network", wrap=on_a_wire(9000, 1)) == []
    assert_found(node, "network", "^warning: net.ipv4.tcp_mtu_probing: it is 0, and near has an MTU of 9000",
                 wrap=on_a_wire(9000, 0))
