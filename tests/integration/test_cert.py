"""tb4 cert: keys that nobody overwrites or reads, certificates that say what they are for, and how long they hold."""
import json
import os
import subprocess
import time

import pytest

from support.node import PROGRAMS, needs, run

DAY = 24 * 60 * 60


@pytest.fixture
def cert(node, tmp_path):
    directory = tmp_path / "tls"

    def command(*arguments, **options):
        return node.tb4("cert", *arguments, "--dir", directory, **options)
    command.directory = directory
    return command


def refused(result, status, text):
    assert result.returncode == status and text in result.stderr and result.stderr.count("\n") == 1, result
    return True


def listed(cert):
    return {one["name"]: one for one in json.loads(cert("list", "--json", check=False).stdout)["certificates"]}


def test_an_authority_is_made_once_and_its_key_is_secret(cert):
    assert "would make" in cert("init", "--dry-run") and not cert.directory.exists()
    made = json.loads(cert("init", "--json"))
    assert made["key"] == str(cert.directory / "ca-key.pem") and not made["dry_run"]
    key = (cert.directory / "ca-key.pem")
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    for arguments in (("init",), ("init", "--dry-run")):
        refused(cert(*arguments, check=False), 73, "is there already: an authority is never overwritten")
    (cert.directory / "ca-cert.pem").unlink()
    refused(cert("init", check=False), 73, "ca-key.pem: is there already")
    assert key.read_bytes() == before


def test_of_many_that_make_an_authority_at_once_one_does(cert, node):
    command = [str(PROGRAMS / "tb4"), "--config", str(node.config), "cert", "init", "--dir", str(cert.directory)]
    racers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(8)]
    assert sorted(racer.wait(60) for racer in racers) == [0] + [73] * 7
    cert("node", "a")
    assert listed(cert)["a"]["state"] == "valid"


def test_without_a_directory_the_key_lies_where_keys_do(node):
    node.tb4("cert", "init")
    assert (node.claim_dir / "ca-key.pem").stat().st_mode & 0o777 == 0o600
    assert "no faults" in node.tb4("check")  # nobody takes it for a record
    shown = node.tb4_json("cert", "show")
    assert shown["authority"] and shown["name"] == "tb4 authority of node-a" and shown["days_left"] in (3649, 3650)


@needs("openssl")
def test_a_certificate_is_what_openssl_and_the_clients_look_for(cert):
    refused(cert("node", "pve1", check=False), 66, "tb4 cert init makes an authority")
    cert("init")
    assert "would make" in cert("node", "pve1", "--dry-run") and not (cert.directory / "pve1").exists()
    told = cert("node", "pve1", "--address", "10.0.0.1, fd00::1,pve1.example")
    directory = cert.directory / "pve1"
    for name, file in (("authority", "ca-cert.pem"), ("certificate", "server-cert.pem"), ("key", "server-key.pem")):
        assert f"{name} = {directory / file}\n" in told
    assert sorted(os.listdir(directory)) == ["ca-cert.pem", "client-cert.pem", "client-key.pem", "server-cert.pem",
                                             "server-key.pem"]
    for key in ("server-key.pem", "client-key.pem"):
        assert (directory / key).stat().st_mode & 0o777 == 0o600
    for purpose in ("sslserver", "sslclient"):
        run("openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", directory / "ca-cert.pem",
            directory / "server-cert.pem")
    text = run("openssl", "x509", "-in", directory / "server-cert.pem", "-noout", "-text")
    assert "DNS:pve1, IP Address:10.0.0.1, IP Address:FD00:0:0:0:0:0:0:1, DNS:pve1.example" in text
    assert "CA:FALSE" in text and "prime256v1" in text
    shown = json.loads(cert("show", "pve1", "--json"))
    assert shown["names"] == "pve1, 10.0.0.1, fd00::1, pve1.example" and shown["state"] == "valid"
    assert abs(shown["expires"] - time.time() - 730 * DAY) < DAY
    printed = run("openssl", "x509", "-in", directory / "server-cert.pem", "-noout", "-fingerprint", "-sha256")
    assert printed.split("=")[1].strip().replace(":", "").lower() == shown["fingerprint"]


def test_a_certificate_made_again_keeps_key_and_names(cert):
    cert("init")
    cert("node", "pve1", "--address", "10.0.0.1", "--days", "5")
    key = (cert.directory / "pve1" / "server-key.pem").read_bytes()
    first = listed(cert)["pve1"]
    assert first["state"] == "ends soon" and first["days_left"] in (4, 5)
    refused(cert("node", "pve1", check=False), 73, "--force makes a new certificate for its key")
    cert("node", "pve1", "--force")
    second = listed(cert)["pve1"]
    assert second["names"] == first["names"] == "pve1, 10.0.0.1" and second["fingerprint"] != first["fingerprint"]
    assert second["state"] == "valid" and (cert.directory / "pve1" / "server-key.pem").read_bytes() == key
    cert("node", "pve1", "--force", "--address", "10.0.0.2")
    assert listed(cert)["pve1"]["names"] == "pve1, 10.0.0.2"


@pytest.mark.plain
@needs("faketime")
def test_what_is_of_no_use_is_shown_and_told_by_the_status(cert, tmp_path):
    cert("init", wrap=("faketime", "2021-01-01"))
    cert("node", "old", "--days", "30", wrap=("faketime", "2021-01-01"))
    cert("node", "good")
    cert("node", "young", wrap=("faketime", "2030-01-01"))
    cert("node", "late", "--days", "36500")
    seen = listed(cert)
    assert {name: one["state"] for name, one in seen.items() if not one["authority"]} == {
        "old": "expired", "good": "valid", "young": "not valid yet", "late": "valid"}
    [authority] = [one for one in seen.values() if one["authority"]]
    assert seen["late"]["expires"] == authority["expires"]  # it never outlives who vouches for it
    assert cert("list", check=False).returncode == 1
    assert cert("show", "good", check=False).returncode == 0
    assert cert("show", "old", check=False).returncode == 1
    other = tmp_path / "other"
    run(PROGRAMS / "tb4", "cert", "init", "--dir", other)
    (cert.directory / "ca-cert.pem").write_bytes((other / "ca-cert.pem").read_bytes())
    assert json.loads(cert("show", "good", "--json", check=False).stdout)["state"] == "of another authority"
    refused(cert("node", "next", check=False), 65, "the authority's key is not that of its certificate")
    assert not (cert.directory / "next").exists()


def test_bad_arguments_are_refused_in_one_line(cert, tmp_path):
    cert("init")
    for name in ("", "..", "a/b", "a b", "x" * 64, "ä"):
        refused(cert("node", name, check=False), 64, "not a name")
    for address in ("a/b", "10.0.0.1;x", "ä"):
        refused(cert("node", "a", "--address", address, check=False), 64, "--address")
    for days in ("0", "-1", "1x", "36501", ""):
        refused(cert("node", "a", "--days", days, check=False), 64, "--days")
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(os.urandom(1000))
    refused(cert("show", str(nonsense), check=False), 65, f"{nonsense}: not a certificate")
    refused(cert("show", "nobody", check=False), 66, "no such file")
    assert not (cert.directory / "a").exists()
    (cert.directory / "ca-key.pem").chmod(0o644)
    refused(cert("node", "a", check=False), 77, "others may read it")
