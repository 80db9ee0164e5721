"""tb4-test-downstairs does what goes wrong on demand, and its other subcommands."""
import signal
import subprocess
import time

import pytest

from support.crucible import Closed, xxh64
from support.downstairs import BLOCK, OWN, UPSTREAM, UPSTREAM_MISSING, OwnDownstairs, UpstreamDownstairs, fill, pause

KILLED = -signal.SIGKILL


@pytest.fixture
def downstairs(make_downstairs):
    return make_downstairs()


def first_byte(upstairs, block):
    return upstairs.read(block)[1][0]


# messages


def test_delay_keeps_order_and_delays_each_only_once(downstairs):
    upstairs = downstairs.run()
    downstairs.control("delay 200")
    begin = time.monotonic()
    for job_id in range(20):
        upstairs.send_write(0, fill(job_id), job_id=job_id)
    for job_id in range(20):
        upstairs.answer("WriteAck", job_id)
    assert 0.2 <= time.monotonic() - begin < 2
    downstairs.control("delay 0")
    upstairs.ping()


def test_silence_ends(downstairs):
    upstairs = downstairs.run()
    downstairs.control("silence on")
    upstairs.send_write(0, fill(7))
    upstairs.send("Ruok")
    upstairs.expect_silence()
    downstairs.control("silence off")
    assert first_byte(upstairs, 0) == 7


def test_message_that_is_dropped_is_not_handled(downstairs):
    upstairs = downstairs.run()
    downstairs.control("on received Write 2 drop")
    for value in (1, 2, 3):
        upstairs.send_write(value, fill(value), job_id=value)
    upstairs.answer("WriteAck", 1)
    upstairs.answer("WriteAck", 3)
    assert [first_byte(upstairs, block) for block in (1, 2, 3)] == [1, 0, 3]


@pytest.mark.parametrize("point, is_done, is_answered", [
    ("received Write", False, False), ("answer WriteAck", True, False), ("sent WriteAck", True, True)])
@pytest.mark.parametrize("action", ["close", "exit"])
def test_end_at_a_message(downstairs, point, is_done, is_answered, action):
    upstairs = downstairs.run()
    upstairs.write(0, fill(1), job_id=1)
    downstairs.control(f"on {point} 2 {action}")
    upstairs.write(1, fill(2), job_id=2)
    upstairs.send_write(2, fill(3), job_id=3)
    upstairs.send_write(3, fill(4), job_id=4)
    if is_answered:
        upstairs.answer("WriteAck", 3)
    upstairs.expect_closed()
    if action == "exit":
        assert downstairs.wait() == KILLED
        downstairs.start()
    upstairs = downstairs.run_soon()
    assert [first_byte(upstairs, block) for block in range(4)] == [1, 2, 3 if is_done else 0, 0]


def test_answer_that_is_torn(downstairs):
    upstairs = downstairs.run()
    upstairs.write(0, fill(1, 4))
    downstairs.control("on answer ReadResponse 1 torn")
    upstairs.job("ReadRequest", start=0, count=4)
    with pytest.raises(Closed) as closed:
        upstairs.receive()
    assert 1000 < len(closed.value.args[0]) < 4 * BLOCK


def test_every_acknowledgement_of_a_kind_can_be_withheld(downstairs):
    upstairs = downstairs.run()
    downstairs.control("on answer WriteAck every drop")
    for value in range(4):
        upstairs.send_write(value, fill(1 + value))
    upstairs.ping()
    assert upstairs.read(0, 4)[1] == fill(1, 4)
    downstairs.control("forget")
    upstairs.write(0, fill(9))


def test_independent_jobs_are_reordered_and_others_are_not(downstairs):
    upstairs = downstairs.run()
    downstairs.control("reorder 7")
    frames = [upstairs.frame("ReadRequest", job_id=i, start=0, count=1) for i in range(40)]
    upstairs.send_bytes(b"".join(frames))
    order = [upstairs.expect("ReadResponse").job_id for _ in frames]
    assert order != sorted(order) == list(range(40))
    frames = [upstairs.frame("ReadRequest", job_id=100 + i, start=0, count=1, deps=[99 + i] if i else [])
              for i in range(40)]
    upstairs.send_bytes(b"".join(frames))
    assert [upstairs.expect("ReadResponse").job_id - 100 for _ in frames] == list(range(40))


def test_errors_are_reported_and_jobs_done(downstairs):
    upstairs = downstairs.run()
    downstairs.control("errors 50 1")
    reports = 0
    for job_id in range(50):
        upstairs.send_write(0, fill(job_id), job_id=job_id)
        while (message := upstairs.receive()).name == "ErrorReport":
            assert message.job_id == job_id and message.error == ("GenericError", "test error")
            reports += 1
        assert message.name == "WriteAck" and message.job_id == job_id
    assert 20 < reports < 100


# the disk


@pytest.mark.parametrize("step, count, fills", [
    ("versions", 1, [1, 2, 3, 4]),  # the extent is to become dirty
    ("sync", 1, [1, 2, 3, 4]),
    ("context", 1, [1, 2, 3, 4]),
    ("context", 2, [1, 2, 3, 4]),
    ("data", 1, [1, 2, 3, 4]),
    ("data", 2, [11, 2, 3, 4]),
    ("data", 4, [11, 12, 13, 4])])
def test_exit_in_the_middle_of_a_write(downstairs, step, count, fills):
    upstairs = downstairs.run()
    upstairs.write(0, fill(1, 4))
    upstairs.flush(1)
    downstairs.control(f"on step {step} {count} exit")
    upstairs.send_write(0, fill(11, 4))
    upstairs.expect_closed()
    assert downstairs.wait() == KILLED
    upstairs = downstairs.start().run()
    assert [first_byte(upstairs, block) for block in range(4)] == fills
    assert upstairs.first_versions[0] == (1, 1, step != "versions")
    assert all(context == xxh64(fill(value)) for context, value in zip(upstairs.read(0, 4)[0], fills))


def test_exit_in_the_middle_of_a_flush(downstairs):
    upstairs = downstairs.run()
    upstairs.write(0, fill(1, 12))
    downstairs.control("on step sync 2 exit")
    upstairs.job("Flush", flush_number=3)
    upstairs.expect_closed()
    assert downstairs.wait() == KILLED
    upstairs = downstairs.start().run()
    assert upstairs.first_versions == [(1, 3, False), (1, 3, False), (0, 0, True)]
    assert upstairs.read(0, 12)[1] == fill(1, 12)


def test_exit_in_the_middle_of_a_repair(make_downstairs):
    good, bad = make_downstairs(), make_downstairs()
    source, target = good.run(), bad.run()
    source.write(0, fill(5))
    target.write(0, fill(6))
    source.live("ExtentLiveFlushClose", 0, flush_number=1)
    target.live("ExtentLiveClose", 0)
    bad.control("on step replace 1 exit")
    target.job("ExtentLiveRepair", extent=0, source_address=good.repair_address)
    target.expect_closed()
    assert bad.wait() == KILLED
    assert first_byte(bad.start().run(), 0) == 6


def test_sync_that_fails_makes_a_flush_hollow(downstairs):
    """T2."""
    upstairs = downstairs.run()
    upstairs.write(0, fill(1, 12))
    downstairs.control("fail-sync 1 1")
    job_id = upstairs.job("Flush", flush_number=4)
    message = upstairs.expect("ErrorReport")
    assert message.error[0] == "GenericError" and message.error[1].startswith("IO Error: extent 1")
    upstairs.answer("FlushAck", job_id)
    assert downstairs.versions() == [(1, 4, False)] * 3


def test_full_disk_wedges_until_there_is_room(downstairs):
    upstairs = downstairs.run()
    other = downstairs.connect()
    downstairs.control("full on")
    job_id = upstairs.send_write(0, fill(1))
    for _ in range(8):
        assert upstairs.expect("ErrorReport").error[0] == "IoError"
    upstairs.expect_silence()
    other.send("Ruok")
    other.expect_silence()
    assert downstairs.status()["state"] == "wedged"
    downstairs.control("full off")
    while (message := upstairs.receive()).name == "ErrorReport":
        pass
    assert message.name == "WriteAck" and message.job_id == job_id
    other.expect("Imok")


def test_blocks_rot(downstairs):
    upstairs = downstairs.run()
    upstairs.write(0, fill(4, 12))
    upstairs.flush(1)
    downstairs.control("rot data 5")
    downstairs.control("rot context 6")
    assert upstairs.read(5) == ([xxh64(fill(9))], fill(9)[:7] + bytes([8]) + fill(9)[8:])
    assert upstairs.read(6) == ([xxh64(fill(10)) ^ 1], fill(10))
    upstairs.write(5, fill(9))
    assert upstairs.read(5) == ([xxh64(fill(9))], fill(9))


# the repair port


def test_repair_port_can_be_silent(downstairs):
    downstairs.control("http silence")
    with pytest.raises(TimeoutError):
        downstairs.get("/region-info", 0.3)
    downstairs.control("http ok")
    assert downstairs.get("/region-info")[0] == 200


def test_repair_port_can_cut_an_answer(make_downstairs):
    good, bad = make_downstairs(), make_downstairs()
    good.run().live("ExtentLiveClose", 0)
    good.control("http cut")
    target = bad.run()
    target.live("ExtentLiveClose", 0)
    target.job("ExtentLiveRepair", extent=0, source_address=good.repair_address)
    assert target.expect("ErrorReport").error[0] == "RepairRequestError"
    target.expect_closed()


# limits


@pytest.fixture
def hasty(tmp_path):
    downstairs = OwnDownstairs(tmp_path / "region")
    downstairs.arguments = ("--silence-limit", "1000", "--sync")
    yield downstairs.start()
    downstairs.close()


def test_silent_upstairs_is_dropped_and_single_bytes_do_not_count(hasty):
    idle, dripping, alive = hasty.connect(), hasty.connect(), hasty.run()
    frame = dripping.frame("HereIAm")
    begin = time.monotonic()
    with pytest.raises(OSError):
        for i in range(60):
            dripping.send_bytes(frame[i:i + 1])
            alive.ping()
            time.sleep(0.1)
    assert 1 <= time.monotonic() - begin < 5
    idle.expect_closed()
    alive.write(0, fill(1))


def test_answers_that_are_not_read_pile_up_and_others_are_served(make_downstairs):
    downstairs = make_downstairs(block_size=32768, extent_size=16)
    greedy = downstairs.run(generation=1)
    for _ in range(200):
        greedy.job("ReadRequest", start=0, count=16)
    pause(0.3)
    other = downstairs.connect()
    other.ping()
    for _ in range(200):
        assert len(greedy.expect("ReadResponse").data) == 16 * 32768


# the control socket


def test_status_counts_messages(downstairs):
    upstairs = downstairs.run()
    upstairs.write(0, fill(1))
    upstairs.job("ReadRequest", start=0, count=1, deps=[5])
    upstairs.ping()
    status = downstairs.status()
    assert status["state"] == "running" and status["pending"] == 1
    assert status["received"]["Write"] == status["sent"]["WriteAck"] == 1
    assert status["received"]["ReadRequest"] == 1 and "ReadResponse" not in status["sent"]


@pytest.mark.parametrize("command", [
    "", "nothing", "on", "on nowhere Write 1 close", "on received Nothing 1 close", "on received Write 0 close",
    "on received Write x close", "on received Write 1 explode", "on received Write 1 torn", "on sent Write 1 drop",
    "on step data 1 close", "on step Write 1 exit", "delay x", "silence maybe", "full", "reorder x", "errors 100 1",
    "errors 5", "fail-sync 1", "rot all 1", "rot data 12", "http loud"])
def test_wrong_command_is_refused(downstairs, command):
    with pytest.raises(AssertionError, match="error"):
        downstairs.control(command)


# directories


def dump(*directories, data=False):
    return subprocess.run([OWN, "dump", *(f"--dir={directory}" for directory in directories),
                           *(["--data"] if data else [])], capture_output=True, text=True, check=False)


def verify(directory):
    return subprocess.run([OWN, "verify", "--dir", directory], capture_output=True, text=True, check=False)


def test_dump_compares_up_to_three_regions(make_downstairs):
    regions = [make_downstairs() for _ in range(3)]
    for downstairs in regions:
        upstairs = downstairs.run(generation=2)
        upstairs.write(0, fill(1, 12))
        upstairs.flush(3)
    directories = [downstairs.directory for downstairs in regions]
    for data in (False, True):
        result = dump(*directories, data=data)
        assert result.returncode == 0 and result.stdout == (
            "".join(f"extent {i}:  2/3  2/3  2/3\n" for i in range(3)) + "3 extents, 0 differ\n")
    regions[1].kill().flip(5)
    assert dump(*directories).returncode == 0
    result = dump(*directories, data=True)
    assert result.returncode == 1 and "extent 1:  2/3  2/3  2/3  block 1 differs\n" in result.stdout
    regions[2].run(generation=3).write(8, fill(1))
    result = dump(*directories)
    assert result.returncode == 1 and "extent 2:  2/3  2/3  2/3 dirty  versions differ\n" in result.stdout


def test_dump_refuses_regions_of_other_shapes(make_downstairs):
    result = dump(make_downstairs().directory, make_downstairs(extent_size=5).directory)
    assert result.returncode == 1 and "another shape" in result.stderr


def test_verify_checks_hashes(make_downstairs):
    for encrypted in (False, True):
        downstairs = make_downstairs(encrypted=encrypted)
        upstairs = downstairs.run()
        contexts = [(xxh64(bytes(28) + fill(value)), bytes(28)) for value in (1, 2)] if encrypted else None
        upstairs.write(3, fill(1, 2), contexts=contexts)
        upstairs.flush(1)
        result = verify(downstairs.directory)
        assert result.returncode == 0 and result.stdout == result.stderr == ""
        downstairs.flip(4)
        downstairs.flip(7)  # never written
        result = verify(downstairs.directory)
        assert result.returncode == 1 and result.stderr == "".join(
            f"block {block} does not fit its hash\n" for block in (4, 7))


def test_a_region_is_not_overwritten(downstairs):
    result = subprocess.run(downstairs.create_command(), capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "there is a region already" in result.stderr


@pytest.mark.parametrize("options", [["--block-size", "256"], ["--block-size", "768"], ["--block-size", "65536"],
                                     ["--extent-size", "0"], ["--extent-size", "200000"], ["--extent-count", "0"],
                                     ["--uuid", "x"]])
def test_impossible_region_is_not_made(tmp_path, options):
    result = subprocess.run([OWN, "create", "--dir", tmp_path / "region", *options], capture_output=True, check=False)
    assert result.returncode == 2 and not (tmp_path / "region").exists()


@pytest.mark.skipif(not UPSTREAM, reason=UPSTREAM_MISSING)
def test_upstreams_tools_read_our_regions_and_ours_theirs(make_downstairs):
    own, upstream = make_downstairs(), make_downstairs(UpstreamDownstairs)
    for downstairs in (own, upstream):
        upstairs = downstairs.run(generation=2)
        upstairs.write(0, fill(1, 7))
        upstairs.flush(3)
        upstairs.write(1, fill(50))
        upstairs.flush(4)
        upstairs.write(0, fill(60))  # dirty, with the other slot in force
        downstairs.kill()
    assert dump(own.directory, upstream.directory, data=True).returncode == 0
    assert verify(upstream.directory).returncode == 0
    subprocess.run([UPSTREAM, "verify", "-d", own.directory], check=True, capture_output=True)
    # and each program goes on where the other one was killed
    own.directory, upstream.directory = upstream.directory, own.directory
    for downstairs in (own, upstream):
        upstairs = downstairs.start().run(generation=3)
        assert upstairs.first_versions == [(2, 4, True), (2, 3, False), (0, 0, False)]
        assert upstairs.read(0, 7)[1] == fill(60) + fill(50) + fill(3, 5)
