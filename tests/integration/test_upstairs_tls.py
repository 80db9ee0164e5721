"""libupstairs and its downstairs by TLS: both sides with a certificate, and no way around it."""
import socket
import ssl

import pytest

from support.certificates import files
from support.node import wait_until
from support.volume import KEY, both


def shakes_hands(sled, certificates):
    """With whichever slot it is."""
    context = ssl.create_default_context(cafile=certificates / "authority.pem")
    context.load_cert_chain(certificates / "upstairs.pem", certificates / "upstairs.key")
    context.check_hostname = False
    try:
        with socket.create_connection(sled.address, 5) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def start_upstream(sled, certificates):
    try:
        sled.start()
        wait_until(lambda: not sled.is_running() or shakes_hands(sled, certificates), "TLS, or its end")
    except AssertionError:
        if sled.is_running():
            raise
    if not sled.is_running():
        pytest.skip("this build of upstream's crucible-downstairs ends when it is to speak TLS")


@pytest.fixture
def make_tls(make_volume, certificates):
    """A volume whose downstairs speak TLS only, and a client that does."""
    def make(kind="own", names=("downstairs0", "downstairs1", "downstairs2"), **options):
        volume = make_volume(kind, start=False, **options)
        for sled, name in zip(volume.sleds, names):
            sled.arguments = files(certificates, name)
            if kind == "own":
                sled.start()
            else:
                start_upstream(sled, certificates)
        volume.options = files(certificates, "upstairs")
        return volume
    return make


def refusal(volume, pattern, timeout=30):
    """The line that says why slot 0 is not there; the client goes on trying."""
    return volume.spawn("status").wait_for_log(f"slot 0: {pattern}\n", timeout)


@both
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_what_was_written_is_read_back(make_tls, kind, key):
    volume = make_tls(kind, key=key)
    volume.check(2, depth=16)
    volume.check(1)
    volume.assert_equal()


@both
def test_slot_that_was_away_comes_back(make_tls, kind):
    volume = make_tls(kind)
    client = volume.load()
    volume.sleds[1].kill()
    volume.wait_for_in_sync(True, False, True)
    volume.sleds[1].start()
    volume.wait_for_in_sync(True, True, True)
    status, _, log = client.stop()
    assert status == 0, log


@both
def test_plain_client_gets_nothing_and_leaves(make_tls, kind):
    volume = make_tls(kind)
    volume.options = []
    refusal(volume, "(closed by the downstairs|Connection reset by peer)")
    assert not volume.record_path.exists()


def test_client_does_not_fall_back_to_plain(make_volume, certificates):
    volume = make_volume("own")
    volume.options = files(certificates, "upstairs")
    refusal(volume, "(TLS: .*|closed by the downstairs)")
    assert not volume.record_path.exists()


def test_slots_that_are_mixed_up(make_tls):
    volume = make_tls(names=("downstairs1", "downstairs0", "downstairs2"))
    refusal(volume, "TLS: its certificate is not for downstairs0")
    assert not volume.record_path.exists()


def test_downstairs_of_a_stranger(make_tls):
    volume = make_tls(names=("intruder", "downstairs1", "downstairs2"))
    refusal(volume, "TLS: The certificate is NOT trusted.*")


def test_client_of_a_stranger(make_tls, certificates):
    volume = make_tls()
    volume.options = files(certificates, "intruder")
    refusal(volume, "TLS: the downstairs ends it: .*|closed by the downstairs|Connection reset by peer")
    assert not volume.record_path.exists()


def test_client_without_a_certificate(make_tls, certificates):
    """By Python's TLS: nothing is said to it."""
    volume = make_tls()
    context = ssl.create_default_context(cafile=certificates / "authority.pem")
    with pytest.raises((ssl.SSLError, ConnectionError)), socket.create_connection(volume.targets[0], 5) as plain, \
            context.wrap_socket(plain, server_hostname="downstairs0") as sealed:
        sealed.sendall(bytes.fromhex("0800000009000000"))
        assert sealed.recv(8) == b""
        raise ConnectionError("closed")


def test_peer_that_never_shakes_hands_is_given_up(make_volume, certificates):
    """It accepts and says nothing: a slot that is away, for as long as a handshake may take, and then tried again."""
    volume = make_volume("own", start=False)
    volume.options = files(certificates, "upstairs")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        volume.targets[0] = silent.getsockname()
        client = volume.spawn("status")
        first, _ = silent.accept()
        hello = first.recv(1)
        assert hello == b"\x16"  # a handshake, at once
        client.wait_for_log("slot 0: TLS: no handshake within 10 s\n")
        silent.settimeout(30)
        silent.accept()
        first.close()


@pytest.mark.parametrize("damage, reason", [
    ("missing", "No such file|Error while reading file"),
    ("empty", "no certificate in it|.*"),
])
def test_files_that_are_no_certificates(make_volume, certificates, tmp_path, damage, reason):
    volume = make_volume("own", start=False)
    volume.options = files(certificates, "upstairs")
    bad = tmp_path / "bad.pem"
    if damage == "empty":
        bad.write_text("")
    volume.options[1] = str(bad)
    result = volume.io("status", check=False)
    assert result.returncode == 78 and result.stderr.startswith(f"upstairs-io: {bad}: ") and result.stderr.count("\n") == 1


def test_half_of_the_options_is_not_enough(make_volume, certificates):
    volume = make_volume("own", start=False)
    volume.options = files(certificates, "upstairs")[:4]
    result = volume.io("status", check=False)
    assert result.returncode == 64 and "usage" in result.stderr
