"""Several exports in one gateway: what happens to one does not disturb another."""
import fcntl
import struct
import threading

import pytest

from support import wire
from support.node import wait_until

DISK_0, DISK_1, DISK_2 = (f"vm-200-disk-{number}" for number in range(3))


@pytest.fixture
def three(make_node, memory_dir):
    node = make_node(data_dir=memory_dir)
    for number in range(3):
        node.create(200, f"{number + 1}M", *(("--disk", number) if number else ()))
    return node


def assert_refused(gateway, name, *words):
    """GO names the reason; EXPORT_NAME closes; LIST does not show it."""
    with gateway.client().greet() as client:
        for option in (wire.OPT_INFO, wire.OPT_GO):
            kind, replies = client.info_or_go(option, name)
            assert kind == wire.ERR_UNKNOWN
            for word in words:
                assert word in replies[-1][1].decode()
        listed = [payload[4:].decode() for _, payload in client.option(wire.OPT_LIST)[1][:-1]]
        assert name not in listed and len(listed) == 2
        client.send_option(wire.OPT_EXPORT_NAME, name.encode())
        assert client.is_closed()


def assert_works(gateway, name):
    with gateway.connect(name) as client:
        client.write(0, name.encode() * 10)
        client.flush()
        assert client.read(0, len(name) * 10) == name.encode() * 10


def test_exports_do_not_share_bytes(three):
    gateway = three.start(200)
    for name in (DISK_0, DISK_1, DISK_2):
        assert_works(gateway, name)
    for number, name in enumerate((DISK_0, DISK_1, DISK_2)):
        with gateway.connect(name) as client:
            assert client.size == (number + 1) << 20
            assert client.read(0, 13) == name.encode()
            assert client.request(wire.CMD_READ, (number + 1) << 20, 512).error == wire.EINVAL


def test_missing_image(three):
    three.image(DISK_1).unlink()
    gateway = three.start(200)
    assert_refused(gateway, DISK_1, DISK_1, "No such file")
    assert_works(gateway, DISK_0)
    assert_works(gateway, DISK_2)
    assert gateway.volume_status(DISK_1)["state"] == "failed"


def test_image_that_is_too_short(three):
    with open(three.image(DISK_1), "r+b") as image:
        image.truncate(1 << 20)
    gateway = three.start(200)
    assert_refused(gateway, DISK_1, "fewer than")
    assert_works(gateway, DISK_0)


def test_image_that_is_a_directory(three):
    three.image(DISK_0).unlink()
    three.image(DISK_0).mkdir()
    gateway = three.start(200)
    assert_refused(gateway, DISK_0)
    assert_refused(gateway, "", DISK_0)  # nothing else becomes the default in its place
    assert_works(gateway, DISK_1)


def test_damaged_record(three):
    three.start(200).stop()
    record = three.claim_dir / f"{DISK_1}.json"
    if not record.exists():
        record = next(path for path in three.claim_dir.iterdir() if DISK_1 in path.name)
    content = record.read_bytes()
    record.write_bytes(content[:len(content) // 2])
    gateway = three.start(200)
    assert_refused(gateway, DISK_1, str(record))
    assert_works(gateway, DISK_0)
    assert_works(gateway, DISK_2)
    assert record.read_bytes() == content[:len(content) // 2]


def test_damaged_volume_file_of_a_neighbour(three):
    file = three.volume_dir / f"{DISK_1}.conf"
    file.write_text(file.read_text().replace("size = 2M", "size = twenty"))
    gateway = three.start(200)
    assert_works(gateway, DISK_0)
    assert_works(gateway, DISK_2)
    with gateway.client().greet() as client:
        assert client.info_or_go(wire.OPT_GO, DISK_1)[0] == wire.ERR_UNKNOWN
    assert f"{file}:" in gateway.log


def test_hung_backend_of_one_export_does_not_disturb_another(three, faults):
    gateway = faults.start(three)
    with gateway.connect(DISK_1) as stuck, gateway.connect(DISK_0) as client:
        client.write(0, b"0" * 4096)
        faults.set("write hang", "flush hang")
        for number in range(100):
            stuck.send_request(wire.CMD_WRITE, number * 512, 512, 0, b"1" * 512)
        stuck.send_request(wire.CMD_FLUSH)
        wait_until(lambda: gateway.volume_status(DISK_1)["in_flight"] == 101, "the backend hangs")
        for _ in range(100):
            assert client.read(0, 4096) == b"0" * 4096
        with gateway.connect(DISK_2) as newcomer:
            assert newcomer.read(0, 512) == bytes(512)
        faults.set()
        assert {reply.error for reply in stuck.read_replies(101).values()} == {0}


def test_hung_backend_with_all_that_its_clients_may_send_does_not_disturb_another(
        make_node, memory_dir, faults):
    """The memory of requests that a backend holds is not taken from the other exports' clients."""
    node = make_node(data_dir=memory_dir, settings="[nbd]\nmemory = 64M\nconnection_memory = 32M")
    node.create(200, "1M")
    node.create(200, "32M", "--disk", 1)
    gateway = faults.start(node)
    with gateway.connect(DISK_0) as client:
        client.write(0, b"0" * 4096)
        faults.set("write hang")
        stuck = [gateway.connect(DISK_1) for _ in range(2)]
        writers = [threading.Thread(target=one.write, args=(0, bytes(32 << 20))) for one in stuck]
        for writer in writers:
            writer.start()
        wait_until(lambda: gateway.volume_status(DISK_1)["in_flight"] > 0, "the backend hangs")
        for _ in range(100):
            assert client.read(0, 4096) == b"0" * 4096
        with gateway.connect(DISK_0) as newcomer:
            assert newcomer.read(0, 4096) == b"0" * 4096
        faults.set()
        for one, writer in zip(stuck, writers):
            writer.join()
            one.close()


def test_failing_backend_of_one_export_leaves_its_neighbours_flushes_alone(three, faults):
    """The state of a failed flush belongs to the export."""
    gateway = faults.start(three)
    with gateway.connect(DISK_0) as client, gateway.connect(DISK_1) as failing:
        faults.set("flush error EIO 1")
        assert failing.request(wire.CMD_FLUSH).error == wire.EIO
        faults.set()
        assert gateway.volume_status(DISK_1)["flush_failed"]
        assert not gateway.volume_status(DISK_0)["flush_failed"]
        client.write(0, b"0" * 512, wire.FUA)
        assert gateway.volume_status(DISK_1)["flush_failed"]


def test_clients_wait_for_an_export_that_still_starts(three):
    """Another program has the image locked for a moment; they are not to blame, whatever the time limit."""
    three.write_config("[nbd]\nhandshake_timeout = 1")
    with open(three.image(DISK_1), "r+b") as image:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
        fcntl.fcntl(image, fcntl.F_OFD_SETLK, lock)
        gateway = three.spawn(200)
        wait_until((gateway.directory / "nbd.sock").exists, "it listens")
        assert_works(gateway, DISK_0)
        with gateway.client().greet() as client:
            client.send_option(wire.OPT_GO, client.info_data(DISK_1, ()))
            assert client.is_silent(2.5)
            fcntl.fcntl(image, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_UNLCK, 0, 0, 0, 0))
            while client.read_option_reply()[1] != wire.REP_ACK:
                pass
            client.write(0, b"patient!" * 64)
            assert client.read(0, 512) == b"patient!" * 64


@pytest.mark.parametrize("mode", ["simple", "structured", "extended"])
def test_export_that_grows_is_larger_for_those_who_have_it(three, mode):
    gateway = three.start(200)
    with gateway.session(mode) as client:
        assert client.request(wire.CMD_READ, 1 << 20, 512).error == wire.EINVAL
        three.tb4("volume", "resize", DISK_0, "2M")
        client.write((2 << 20) - 512, b"grown..." * 64)
        assert client.read((2 << 20) - 512, 512) == b"grown..." * 64
        assert client.request(wire.CMD_READ, 2 << 20, 512).error == wire.EINVAL
    with gateway.connect() as newcomer:
        assert newcomer.size == 2 << 20
