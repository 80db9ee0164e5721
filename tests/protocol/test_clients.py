"""Programs that people use: nbdinfo, nbdcopy, qemu-img, qemu-io, qemu-nbd, fio, nbd-client, libnbd."""
import json
import os
import random
import signal
import subprocess
import threading

import pytest

from support import wire
from support.node import needs, run, wait_until
from support.wire import Client

SIZE = 32 << 20


@pytest.fixture
def served(make_node, memory_dir):
    """vm-200-disk-0 of 32 MiB on tmpfs, with a description."""
    node = make_node(data_dir=memory_dir)
    node.create(200, "32M", "--description", "a disk")
    return node.start(200)


def sparse_image(path, size=SIZE):
    """A file with data here and there; returns its bytes."""
    rng, content = random.Random(1), bytearray(size)
    for at in (0, 1 << 20, 5 << 20, (5 << 20) + 8192, 20 << 20, size - 65536):
        content[at:at + 65536] = rng.randbytes(65536)
    with open(path, "wb") as file:
        file.truncate(size)
        for at in range(0, size, 4096):
            block = content[at:at + 4096]
            if any(block):
                file.seek(at)
                file.write(block)
    return bytes(content)


def allocated(path):
    return os.stat(path).st_blocks * 512


# nbdinfo

@needs("nbdinfo")
def test_nbdinfo_tells_everything(served):
    export = json.loads(run("nbdinfo", "--json", served.uri()))["exports"][0]
    wanted = {"export-size": SIZE, "is_read_only": False, "can_flush": True, "can_fua": True,
              "can_trim": True, "can_zero": True, "can_fast_zero": True, "can_cache": True, "can_df": True,
              "can_multi_conn": True,
              "description": "a disk", "block_size_minimum": 1, "block_size_maximum": 32 << 20,
              "contexts": ["base:allocation"]}
    assert {key: export.get(key) for key in wanted} == wanted


@needs("nbdinfo")
def test_nbdinfo_lists(served):
    listed = json.loads(run("nbdinfo", "--list", "--json", served.uri()))
    assert [export["export-name"] for export in listed["exports"]] == ["vm-200-disk-0"]


@needs("nbdinfo")
def test_nbdinfo_maps(served, tmp_path):
    content = sparse_image(tmp_path / "image")
    run("nbdcopy", tmp_path / "image", served.uri())
    at = 0
    for extent in json.loads(run("nbdinfo", "--map", "--json", served.uri())):
        assert extent["offset"] == at
        if extent["type"] == 3:
            assert not any(content[at:at + extent["length"]])
        at += extent["length"]
    assert at == SIZE


@needs("nbdinfo")
def test_nbdinfo_of_an_unknown_export_fails(served):
    result = run("nbdinfo", served.uri("nothing"), check=False)
    assert result.returncode != 0 and "No such file or directory" in result.stderr


@needs("qemu-img")
def test_qemu_shows_why_an_export_is_refused(served):
    result = run("qemu-img", "info", served.uri("nothing"), check=False)
    assert result.returncode != 0 and 'no export "nothing" here' in result.stderr


# nbdcopy

@needs("nbdcopy")
@pytest.mark.parametrize("options", [[], ["--connections=1"], ["--connections=8", "--requests=64"],
                                     ["--synchronous"], ["--request-size=32768"],
                                     ["--flush", "--no-extents"]])
def test_nbdcopy_in_and_out(served, tmp_path, options):
    content = sparse_image(tmp_path / "in")
    run("nbdcopy", *options, tmp_path / "in", served.uri())
    run("nbdcopy", *options, served.uri(), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    assert served.node.image().read_bytes() == content


@needs("nbdcopy")
def test_nbdcopy_keeps_holes_both_ways(served, tmp_path):
    sparse_image(tmp_path / "in")
    run("nbdcopy", tmp_path / "in", served.uri())
    assert allocated(served.node.image()) <= 7 * 65536
    run("nbdcopy", served.uri(), tmp_path / "out")
    assert allocated(tmp_path / "out") <= 8 * 65536


@needs("nbdcopy")
def test_nbdcopy_from_one_export_to_another(make_node, memory_dir, tmp_path):
    node = make_node(data_dir=memory_dir)
    node.create(200, "32M")
    node.create(200, "32M", "--disk", 1)
    gateway = node.start(200)
    content = sparse_image(tmp_path / "in")
    run("nbdcopy", tmp_path / "in", gateway.uri())
    run("nbdcopy", gateway.uri("vm-200-disk-0"), gateway.uri("vm-200-disk-1"))
    assert node.image("vm-200-disk-1").read_bytes() == content


@needs("nbdcopy")
@pytest.mark.parametrize("rule", ["read error EIO 3", "write error ENOSPC 5", "flush error EIO 1"])
def test_nbdcopy_sees_every_error(make_node, memory_dir, faults, tmp_path, rule):
    node = make_node(data_dir=memory_dir)
    node.create(200, "32M")
    sparse_image(tmp_path / "image")
    gateway = faults.start(node)
    run("nbdcopy", tmp_path / "image", gateway.uri())
    faults.set(rule)
    copy = (tmp_path / "image", gateway.uri())
    if rule.startswith("read"):
        copy = (gateway.uri(), tmp_path / "out")
    result = run("nbdcopy", "--flush", *copy, check=False)
    assert result.returncode != 0


# qemu-img and qemu-io

@needs("qemu-img")
def test_qemu_img_converts_compares_and_maps(served, tmp_path):
    content = sparse_image(tmp_path / "image")
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", tmp_path / "image", served.uri())
    assert served.node.image().read_bytes() == content
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", tmp_path / "image", served.uri())
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", served.uri(), tmp_path / "copy.qcow2")
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", served.uri(), tmp_path / "copy.qcow2")
    at = 0
    for extent in json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", served.uri())):
        assert extent["start"] == at
        if extent["zero"]:
            assert not any(content[at:at + extent["length"]])
        at += extent["length"]
    assert at == SIZE


@needs("qemu-img")
def test_qemu_img_compare_finds_one_different_byte(served, tmp_path):
    content = bytearray(sparse_image(tmp_path / "image"))
    with served.connect() as client:
        content[12345678] ^= 1
        client.write(0, content)
    assert run("qemu-img", "compare", "-f", "raw", "-F", "raw", tmp_path / "image", served.uri(),
               check=False).returncode == 1


def qemu_io(gateway, *commands, check=True, options=()):
    words = [word for command in commands for word in ("-c", command)]
    result = run("qemu-io", "-f", "raw", *options, gateway.uri(), *words, check=False)
    if check:
        assert result.returncode == 0 and "failed" not in result.stdout, (result.stdout, result.stderr)
    return result


@needs("qemu-io")
def test_qemu_io_writes_reads_zeroes_and_discards(served):
    qemu_io(served, "write -P 0x11 0 1M", "write -f -P 0x22 1M 64k", "write -z 256k 64k",
            "write -z -u 320k 64k", "discard 384k 64k", "flush", "read -P 0x11 0 256k", "read -P 0 256k 192k",
            "read -P 0x11 448k 576k", "read -P 0x22 1M 64k", options=("--discard=unmap",))
    with served.connect() as client:
        assert client.read(0, 1 << 20) == b"\x11" * (256 << 10) + bytes(192 << 10) + b"\x11" * (576 << 10)


@needs("qemu-io")
@pytest.mark.parametrize("offset, length", [(1, 1), (511, 514), (100000, 12345)])
def test_qemu_io_writes_parts_of_sectors(served, offset, length):
    qemu_io(served, "write -P 0x33 0 1M", f"write -P 0x44 {offset} {length}",
            f"read -P 0x44 {offset} {length}", f"read -P 0x33 0 {offset}",
            f"read -P 0x33 {offset + length} 4096")


@needs("qemu-io")
def test_qemu_io_shows_the_error(make_node, memory_dir, faults):
    node = make_node(data_dir=memory_dir)
    node.create(200, "32M")
    gateway = faults.start(node)
    faults.set("read error EIO 1", "write error ENOSPC 1")
    for command, text in (("read 1M 64k", "Input/output error"), ("write 1M 64k", "No space left on device")):
        result = qemu_io(gateway, command, check=False)
        assert text in result.stdout + result.stderr


# fio, libnbd, nbd-client

@needs("fio")
@pytest.mark.parametrize("depth", [1, 16])
def test_fio_verifies_what_it_wrote(served, depth):
    out = run("fio", "--name=verify", "--ioengine=nbd", f"--uri={served.uri()}", "--rw=randrw",
              "--bsrange=512-128k", "--blockalign=512", "--size=24m", "--io_size=24m", f"--iodepth={depth}",
              "--verify=crc32c", "--verify_state_save=0", "--verify_fatal=1", "--randseed=7", "--fsync=100", "--output-format=json")
    job = json.loads(out[out.index("{"):])["jobs"][0]
    assert job["error"] == 0 and job["read"]["total_ios"] > 0 and job["write"]["total_ios"] > 0


def test_libnbd_in_strict_and_lenient_mode(served):
    nbd = pytest.importorskip("nbd")
    handle = nbd.NBD()
    handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    handle.set_full_info(True)
    handle.connect_unix(served.socket)
    assert handle.get_size() == SIZE and handle.can_multi_conn() and handle.can_df()
    assert handle.get_canonical_export_name() == "vm-200-disk-0"
    assert handle.get_export_description() == "a disk"
    handle.pwrite(b"l" * 100000, 12345)
    assert handle.pread(100000, 12345) == bytearray(b"l" * 100000)
    handle.zero(50000, 12345, nbd.CMD_FLAG_NO_HOLE)
    assert handle.pread(50000, 12345) == bytearray(50000)
    handle.trim(SIZE, 0)
    handle.cache(SIZE, 0)
    found = []

    def on_extents(context, offset, entries, _):
        found.append((context, offset, list(entries)))

    handle.block_status(SIZE, 0, on_extents)
    assert found == [("base:allocation", 0, [SIZE, 3])]
    handle.set_strict_mode(0)
    for broken in (lambda: handle.pread(512, SIZE), lambda: handle.pread(512, 1 << 63),
                   lambda: handle.pwrite(b"x" * 512, SIZE - 1), lambda: handle.trim(4096, SIZE)):
        with pytest.raises(nbd.Error) as error:
            broken()
        assert error.value.errnum in (22, 28)
    assert handle.pread(512, 0) == bytearray(512)
    handle.shutdown()


def test_libnbd_without_what_it_may_leave_out(served):
    """No structured replies, no GO, no zeroes suppressed: as a client of long ago."""
    nbd = pytest.importorskip("nbd")
    for structured in (False, True):
        for handshake_flags in (nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE,
                                nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE | nbd.HANDSHAKE_FLAG_NO_ZEROES):
            handle = nbd.NBD()
            handle.set_request_structured_replies(structured)
            handle.set_handshake_flags(handshake_flags)
            handle.connect_unix(served.socket)
            assert handle.get_structured_replies_negotiated() == structured
            handle.pwrite(b"o" * 512, 512)
            assert handle.pread(512, 512) == bytearray(b"o" * 512)
            handle.shutdown()


def test_libnbd_in_option_mode(served):
    nbd = pytest.importorskip("nbd")
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.connect_unix(served.socket)
    names = []
    handle.opt_list(lambda name, description: names.append(name))
    assert names == ["vm-200-disk-0"]
    handle.set_export_name("nothing")
    with pytest.raises(nbd.Error):
        handle.opt_info()
    handle.set_export_name("vm-200-disk-0")
    handle.opt_info()
    assert handle.get_size() == SIZE
    contexts = []
    handle.opt_list_meta_context(contexts.append)
    assert contexts == ["base:allocation"]
    handle.opt_go()
    assert handle.pread(512, 0) == bytearray(512)
    handle.shutdown()


def test_libnbd_aborts_in_option_mode(served):
    nbd = pytest.importorskip("nbd")
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.connect_unix(served.socket)
    handle.opt_abort()
    assert handle.aio_is_closed()


@needs("nbd-client")
def test_nbd_client_lists_over_tcp(make_node, tcp_vmid):
    node = make_node(settings="[nbd]\nlisten = 127.0.0.1")
    node.create(tcp_vmid, "1M")
    node.start(tcp_vmid)
    out = run("nbd-client", "-l", "127.0.0.1", str(10809 + tcp_vmid - 200))
    assert f"vm-{tcp_vmid}-disk-0" in out


# QEMU as the client, across a restart

@pytest.fixture
def relay(tmp_path):
    """QEMU's NBD client, as in a VM, behind QEMU's NBD server: relay(gateway) is the path of its socket."""
    processes = []

    def start(gateway):
        path = f"{gateway.node.run_dir}/relay.sock"
        options = f"server.path={gateway.socket},export=vm-200-disk-0,reconnect-delay=60"
        processes.append(subprocess.Popen(
            ["qemu-nbd", "--image-opts", "-t", "-k", path, "-x", "vm", "--cache=none", "--discard=unmap",
             f"driver=nbd,server.type=unix,{options}"],
            stderr=subprocess.PIPE))
        wait_until(lambda: os.path.exists(path) or processes[-1].poll() is not None, "qemu-nbd listens")
        assert processes[-1].poll() is None, processes[-1].stderr.read()
        return path

    yield start
    for process in processes:
        process.terminate()
        process.wait()
        process.stderr.close()


class Writer(threading.Thread):
    """Writes numbered blocks, sixteen at a time, and keeps what was answered without an error."""

    def __init__(self, path):
        super().__init__()
        self.client = Client(path, timeout=90).greet().go("vm")
        self.ends, self.acknowledged, self.errors = threading.Event(), {}, []

    def run(self):
        try:
            number = 0
            sent = {}
            while not self.ends.is_set() or sent:
                while len(sent) < 16 and not self.ends.is_set():
                    number += 1
                    block = number % 2000
                    if block in sent.values():
                        break
                    cookie = self.client.send_request(wire.CMD_WRITE, block * 4096, 4096, 0,
                                                      number.to_bytes(8, "big") * 512)
                    sent[cookie] = block
                    self.acknowledged.setdefault(block, None)
                    self.acknowledged[(block, "sent")] = number
                cookie, reply = self.client.read_reply()
                block = sent.pop(cookie)
                if reply.error:
                    self.errors.append(reply.error)
                else:
                    self.acknowledged[block] = self.acknowledged[(block, "sent")]
        except Exception as error:  # noqa: BLE001 the test's thread shows it
            self.errors.append(repr(error))

    def count(self):
        return sum(1 for block in range(2000) if self.acknowledged.get(block))

    def finish(self):
        self.ends.set()
        self.join()
        assert self.errors == []
        for block in range(2000):
            number = self.acknowledged.get(block)
            if number:
                assert self.client.read(block * 4096, 4096) == number.to_bytes(8, "big") * 512
        self.client.close()


@needs("qemu-nbd")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "planned stop"])
def test_qemu_does_not_notice_a_restart_under_load(served, relay, number):
    """No error, and nothing that was acknowledged is lost."""
    writer = Writer(relay(served))
    writer.start()
    gateway = served
    for target in (200, 1200):
        wait_until(lambda: writer.count() >= target or writer.errors, "the load runs", 60)
        gateway.process.send_signal(number)
        gateway.process.wait(40)
        gateway = served.node.start(200)
    wait_until(lambda: writer.count() >= 1900 or writer.errors, "the load goes on", 60)
    writer.finish()


@needs("qemu-nbd")
def test_qemu_passes_an_error_of_the_backend_on(make_node, memory_dir, faults, relay):
    node = make_node(data_dir=memory_dir)
    node.create(200, "32M")
    gateway = faults.start(node)
    with Client(relay(gateway)).greet().go("vm") as client:
        client.write(0, b"x" * 4096)
        faults.set("write error ENOSPC 1", "read error EIO 1", "flush error EIO 1")
        assert client.request(wire.CMD_WRITE, 0, 4096, 0, bytes(4096)).error == wire.ENOSPC
        assert client.request(wire.CMD_READ, 0, 4096).error == wire.EIO
        assert client.request(wire.CMD_FLUSH).error == wire.EIO
        faults.set()
        assert client.read(0, 4096) == b"x" * 4096
