"""A downstairs behaves as the specification says: tb4-test-downstairs, and upstream's own program if it is installed.

What our tests take for a downstairs is so held against the real one. Faults on demand, which only ours
has, are in test_downstairs_faults.py.
"""
import json
import socket
import struct
import uuid

import pytest

from support.crucible import U64_MAX, xxh64
from support.downstairs import BLOCK, UPSTREAM, UPSTREAM_MISSING, OwnDownstairs, UpstreamDownstairs, fill, pause
from support.node import wait_until
from support.ports import is_free

KINDS = {"own": OwnDownstairs, "upstream": UpstreamDownstairs}
ABORTED = -6


@pytest.fixture(params=KINDS)
def make(request, make_downstairs):
    """Makes running downstairs of one kind."""
    if request.param == "upstream" and not UPSTREAM:
        pytest.skip(UPSTREAM_MISSING)
    return lambda kind=request.param, **options: make_downstairs(KINDS[kind], **options)


@pytest.fixture
def downstairs(make):
    return make()


def fill_of(upstairs, block):
    """The value that a block is full of; None if it was never written."""
    (context,), data = upstairs.read(block)
    assert data == data[:1] * BLOCK
    if context is None:
        assert data[0] == 0
        return None
    assert context == xxh64(data)
    return data[0]


# negotiation


def test_greeting_names_the_repair_port(downstairs):
    message = downstairs.connect().here_i_am()
    assert message.version == 13 and message.repair_address == downstairs.repair_address


def test_version_may_be_an_alternate_one(downstairs):
    upstairs = downstairs.connect()
    upstairs.send("HereIAm", version=14, alternates=[11, 13])
    assert upstairs.expect("YesItsMe").version == 13


def test_mismatches_are_found_in_order(downstairs):
    fields = {"version": 12, "read_only": True, "encrypted": True}
    for name, field, value in (("VersionMismatch", "version", 13), ("ReadOnlyMismatch", "read_only", False),
                               ("EncryptedMismatch", "encrypted", False)):
        upstairs = downstairs.connect()
        upstairs.send("HereIAm", **fields)
        message = upstairs.expect(name)
        assert (message.version if field == "version" else message.expected) == value
        upstairs.expect_closed()
        fields[field] = value


STEPS = ["HereIAm", "PromoteToActive", "RegionInfoPlease", "LastFlush"]
ANSWERS = ["YesItsMe", "YouAreNowActive", "RegionInfo"]


def connect_in(downstairs, phase, generation=1):
    upstairs = downstairs.connect(generation=generation)
    for step in range(phase):
        upstairs.send(STEPS[step])
        if step < len(ANSWERS):
            upstairs.expect(ANSWERS[step])
    return upstairs


@pytest.mark.parametrize("phase", range(5))
def test_messages_out_of_order_close_without_a_word(downstairs, phase):
    for generation, name in enumerate([*STEPS, "ExtentVersionsPlease"]):
        if phase < 4 and (name == STEPS[phase] or (phase == 3 and name == "ExtentVersionsPlease")):
            continue
        upstairs = connect_in(downstairs, phase, generation)
        upstairs.send(name)
        upstairs.expect_closed()


@pytest.mark.parametrize("phase", range(5))
def test_ping_is_answered_in_every_phase(downstairs, phase):
    connect_in(downstairs, phase).ping()


@pytest.mark.parametrize("phase", range(5))
def test_message_of_a_downstairs_is_ignored_until_it_closes_a_running_connection(downstairs, phase):
    upstairs = connect_in(downstairs, phase)
    upstairs.send("Imok")
    if phase == 4:
        upstairs.expect_closed()
    else:
        upstairs.ping()


def test_job_before_its_time_is_ignored(downstairs):
    upstairs = connect_in(downstairs, 3)
    upstairs.send_write(0, fill(1))
    upstairs.send("ExtentClose", repair_id=0, extent=0)
    upstairs.send("LastFlush")
    assert fill_of(upstairs, 0) is None


def test_whole_negotiation_in_one_segment(downstairs):
    upstairs = downstairs.connect()
    upstairs.send_bytes(b"".join(upstairs.frame(step) for step in STEPS) +
                        upstairs.frame("ReadRequest", job_id=1, start=0, count=1))
    for answer in ANSWERS:
        upstairs.expect(answer)
    upstairs.answer("ReadResponse", 1)


def test_region_is_told_as_it_was_created(downstairs):
    upstairs = downstairs.connect()
    assert upstairs.promote()
    region = upstairs.region()
    assert (region.block_size, region.extent_size, region.shift, region.extent_count) == (512, 4, 9, 3)
    assert (region.uuid, region.encrypted, region.read_version, region.write_version) == (downstairs.uuid, False, 1, 1)


@pytest.mark.parametrize("same_upstairs, same_session, generation, is_accepted", [
    (True, True, 4, False), (False, False, 4, False), (False, False, 0, False),
    (True, True, 5, True), (True, False, 5, False), (False, True, 5, False), (False, False, 5, False),
    (True, False, 6, True), (False, False, 6, True)])
def test_promotion(downstairs, same_upstairs, same_session, generation, is_accepted):
    active = downstairs.run(generation=5)
    newcomer = downstairs.connect(upstairs_id=active.upstairs_id if same_upstairs else uuid.uuid4(),
                                  session_id=active.session_id if same_session else uuid.uuid4(),
                                  generation=generation)
    assert newcomer.promote() == is_accepted
    if not is_accepted:
        active.ping()
        return
    message = active.expect("YouAreNoLongerActive")
    assert (message.upstairs_id, message.session_id, message.generation) == (
        newcomer.upstairs_id, newcomer.session_id, generation)
    active.expect_closed()


def test_generation_0_and_lower_ones_are_accepted_when_nobody_is_registered(downstairs):
    downstairs.run(generation=5).close()
    downstairs.run_soon(generation=0)
    downstairs.restart().run(generation=0)


def test_promotion_with_other_ids_is_refused(downstairs):
    for field in ("upstairs_id", "session_id"):
        upstairs = downstairs.connect()
        upstairs.here_i_am()
        upstairs.send("PromoteToActive", **{field: uuid.uuid4()})
        assert upstairs.expect("UuidMismatch").expected == upstairs.upstairs_id
        upstairs.expect_closed()


def test_refused_one_with_the_same_upstairs_id_unregisters_the_real_one(downstairs):
    """W1."""
    real = downstairs.run(generation=10)
    assert not downstairs.connect(upstairs_id=real.upstairs_id, generation=5).promote()
    second = downstairs.run_soon(upstairs_id=real.upstairs_id, generation=5)
    real.write(0, fill(1))
    second.write(0, fill(2))
    assert fill_of(real, 0) == 2
    downstairs.run(generation=7)
    second.expect("YouAreNoLongerActive")
    real.write(0, fill(3))


def test_greeting_and_closing_unregisters(downstairs):
    """W1."""
    real = downstairs.run(generation=10)
    probe = downstairs.connect(upstairs_id=real.upstairs_id)
    probe.here_i_am()
    probe.close()
    downstairs.run_soon(generation=3)
    real.write(0, fill(1))


def test_reconnected_one_stays_registered(downstairs):
    first = downstairs.run(generation=10)
    downstairs.run(upstairs_id=first.upstairs_id, session_id=first.session_id, generation=10)
    first.expect("YouAreNoLongerActive")
    first.expect_closed()
    pause()
    assert not downstairs.connect(generation=5).promote()


def test_refused_with_another_upstairs_id_stays_refused(downstairs):
    downstairs.run(generation=10)
    for _ in range(5):
        assert not downstairs.connect(generation=5).promote()


def test_promotion_opens_closed_extents(downstairs):
    downstairs.run().live("ExtentLiveClose", 1)
    assert fill_of(downstairs.run(generation=2), 4) is None


# the order of jobs


def test_chain_sent_in_reverse_moves_one_step_per_event(downstairs):
    upstairs = downstairs.run()
    for job_id in range(19, 0, -1):
        upstairs.job("ReadRequest", job_id=job_id, deps=[job_id - 1], start=0, count=1)
    upstairs.job("ReadRequest", job_id=0, start=0, count=1)
    for job_id in (0, 1):
        upstairs.answer("ReadResponse", job_id)
    for job_id in range(2, 20):
        upstairs.ping()
        upstairs.answer("ReadResponse", job_id)
    upstairs.expect_silence(0.1)


def test_what_is_an_event_and_what_is_not(downstairs):
    upstairs = downstairs.run()
    for job_id in range(9, 0, -1):
        upstairs.job("ReadRequest", job_id=job_id, deps=[job_id - 1], start=0, count=1)
    upstairs.job("ReadRequest", job_id=0, start=0, count=1)
    for job_id in (0, 1):
        upstairs.answer("ReadResponse", job_id)
    upstairs.job("ReadRequest", job_id=100, deps=[99], start=0, count=1)  # waits
    upstairs.expect_silence(0.2)
    upstairs.job("Barrier", job_id=101, session_id=uuid.uuid4())  # is not ours
    upstairs.expect("UuidMismatch")
    upstairs.answer("ReadResponse", 2)
    upstairs.job("ReadRequest", job_id=102, start=0, count=1)  # runs
    upstairs.answer("ReadResponse", 102)
    upstairs.answer("ReadResponse", 3)
    assert upstairs.mend("ExtentFlush", 0, flush_number=1) is None
    upstairs.answer("ReadResponse", 4)


def test_unknown_dependencies_are_waited_for(downstairs):
    upstairs = downstairs.run()
    for job_id, needed in ((1000, 1000), (1001, 5), (1002, 77777)):
        upstairs.job("ReadRequest", job_id=job_id, deps=[needed], start=0, count=1)
    upstairs.ping()
    upstairs.job("ReadRequest", job_id=1003, start=0, count=1)
    upstairs.answer("ReadResponse", 1003)
    upstairs.expect_silence(0.1)


@pytest.mark.parametrize("name, answer, fields", [("Flush", "FlushAck", {"flush_number": 1}),
                                                  ("Barrier", "BarrierAck", {})])
def test_flush_and_barrier_clear_the_completed_set(downstairs, name, answer, fields):
    upstairs = downstairs.run()
    upstairs.write(0, fill(1), job_id=1)
    upstairs.answer(answer, upstairs.job(name, job_id=2, deps=[1], **fields))
    upstairs.job("ReadRequest", job_id=3, deps=[1], start=0, count=1)
    upstairs.job("ReadRequest", job_id=4, deps=[2], start=0, count=1)
    upstairs.answer("ReadResponse", 4)
    upstairs.ping()
    upstairs.expect_silence(0.1)


def test_completed_set_begins_with_the_last_flush(downstairs):
    upstairs = downstairs.connect().run(last_flush=1234)
    upstairs.read(0, deps=[1234])


def test_same_id_runs_twice(downstairs):
    upstairs = downstairs.run()
    upstairs.write(0, fill(1), job_id=7)
    upstairs.write(0, fill(2), job_id=7)
    assert fill_of(upstairs, 0) == 2


def test_wrong_ids_are_told_and_the_connection_stays(downstairs):
    upstairs = downstairs.run()
    wrong = {"upstairs_id": uuid.uuid4(), "session_id": uuid.uuid4()}
    upstairs.job("Write", start=0, data=b"123", contexts=[], **wrong)  # wrong form: not looked at
    assert upstairs.expect("UuidMismatch").expected == upstairs.upstairs_id
    upstairs.job("ExtentLiveNoOp", session_id=wrong["session_id"])
    assert upstairs.expect("UuidMismatch").expected == upstairs.session_id
    upstairs.live("ExtentLiveNoOp")


def test_half_closed_connection_gets_its_answers(downstairs):
    upstairs = downstairs.run()
    for job_id in range(50):
        upstairs.send_write(0, fill(job_id), job_id=job_id, deps=list(range(job_id)))
    upstairs.send_write(0, fill(200), job_id=51, deps=[5000])
    upstairs.socket.shutdown(socket.SHUT_WR)
    for job_id in range(50):
        upstairs.answer("WriteAck", job_id)
    upstairs.expect_closed()
    assert fill_of(downstairs.run(generation=2), 0) == 49


def test_what_was_sent_before_closing_is_done(downstairs):
    upstairs = downstairs.run()
    frames = [upstairs.frame("Write", job_id=i, deps=list(range(i)), start=0, data=fill(i),
                             contexts=upstairs.contexts(fill(i))) for i in range(16)]
    upstairs.send_bytes(b"".join(frames) + upstairs.frame("Flush", job_id=16, deps=list(range(16)), flush_number=8))
    upstairs.close()
    wait_until(lambda: downstairs.stored_versions(0) == (1, 8, False), "the flush")
    assert fill_of(downstairs.run(generation=2), 0) == 15


# reading, writing, flushing


def test_jobs_may_span_extents(downstairs):
    upstairs = downstairs.run()
    upstairs.write(2, fill(10, 8))
    contexts, data = upstairs.read(0, 12)
    assert data == bytes(2 * BLOCK) + fill(10, 8) + bytes(2 * BLOCK)
    assert contexts == [None, None, *(xxh64(fill(10 + i)) for i in range(8)), None, None]


def test_reads_of_no_blocks_are_done_anywhere_and_writes_make_an_extent_dirty(downstairs):
    upstairs = downstairs.run()
    assert upstairs.read(U64_MAX, 0) == ([], b"")
    upstairs.write(5, b"")
    upstairs.write(8, b"", "WriteUnwritten")
    assert downstairs.versions() == [(0, 0, False), (0, 0, True), (0, 0, False)]


def test_block_far_beyond_the_end_may_be_one_of_the_region(downstairs):
    """The number of an extent is cut to 32 bits."""
    upstairs = downstairs.run()
    upstairs.write((4 << 32) + 5, fill(9))
    assert fill_of(upstairs, 5) == fill_of(upstairs, (8 << 32) + 5) == 9


def test_write_that_ends_the_process_is_done_up_to_there(downstairs):
    upstairs = downstairs.run()
    upstairs.send_write(10, fill(1, 4))
    upstairs.expect_closed()
    downstairs.wait()
    assert fill_of(downstairs.start().run(), 11) == 2


def test_write_unwritten_decides_per_block(downstairs):
    upstairs = downstairs.run()
    upstairs.write(1, fill(100))
    upstairs.write(0, fill(1, 6), "WriteUnwritten")
    assert [fill_of(upstairs, block) for block in range(6)] == [1, 100, 3, 4, 5, 6]
    upstairs.flush(1)
    upstairs.write(0, fill(50, 2), "WriteUnwritten")  # nothing to do: stays clean
    assert downstairs.versions()[0] == (1, 1, False)


def test_encrypted_region_returns_nonce_and_tag(make):
    upstairs = make(encrypted=True).run()
    encryption = bytes(range(28))
    upstairs.write(0, fill(7), contexts=[(xxh64(encryption + fill(7)), encryption)])
    assert upstairs.read(0, 2) == ([encryption, None], fill(7) + bytes(BLOCK))


def test_contexts_of_the_other_kind_are_taken(make, downstairs):
    upstairs = downstairs.run()
    upstairs.write(0, fill(7), contexts=[(xxh64(bytes(28) + fill(7)), bytes(28))])
    assert upstairs.read(0)[0] == [bytes(28)]
    upstairs = make(encrypted=True).run()
    upstairs.write(0, fill(7))
    assert upstairs.read(0)[0] == [xxh64(fill(7))]


def test_flush_stamps_dirty_extents_as_told(downstairs):
    upstairs = downstairs.run(generation=7)
    upstairs.write(0, fill(1, 5))
    upstairs.flush(30)
    upstairs.write(4, fill(1))
    upstairs.flush(2)
    upstairs.write(0, fill(1))
    assert downstairs.versions() == [(7, 30, True), (7, 2, False), (0, 0, False)]


def test_limit_of_a_flush_is_inclusive(downstairs):
    upstairs = downstairs.run()
    upstairs.write(0, fill(1, 12))
    upstairs.flush(1, limit=1)
    upstairs.flush(2, limit=3)  # one too large, and taken
    assert downstairs.versions() == [(1, 1, False), (1, 1, False), (1, 2, False)]


def test_snapshot_is_acknowledged(downstairs):
    downstairs.run().flush(1, snapshot="ab")


def test_kill_keeps_what_was_written(downstairs):
    upstairs = downstairs.run()
    upstairs.write(0, fill(1, 4))
    upstairs.flush(5)
    upstairs.write(0, fill(9))
    upstairs.write(0, fill(10))
    upstairs.write(8, fill(11))
    upstairs = downstairs.restart().run(generation=2)
    assert upstairs.first_versions == [(1, 5, True), (0, 0, False), (0, 0, True)]
    assert [fill_of(upstairs, block) for block in (0, 1, 8, 9)] == [10, 2, 11, None]
    upstairs.flush(6)
    assert downstairs.versions() == [(2, 6, False), (0, 0, False), (2, 6, False)]


def test_dirty_extent_is_still_flushed_after_closing_and_opening(downstairs):
    upstairs = downstairs.run()
    upstairs.write(0, fill(1))
    assert upstairs.live("ExtentLiveClose", 0) == (0, 0, True)
    upstairs.live("ExtentLiveReopen", 0)
    upstairs.flush(4)
    assert downstairs.versions()[0] == (1, 4, False)


def test_flush_after_flushing_and_closing_an_extent_aborts_if_it_had_been_written(downstairs):
    upstairs = downstairs.run()
    upstairs.write(0, fill(1, 8))
    upstairs.flush(1)
    upstairs.write(4, fill(2))
    assert upstairs.live("ExtentLiveFlushClose", 0, flush_number=2) == (1, 1, False)
    upstairs.flush(3, limit=0)
    assert upstairs.live("ExtentLiveFlushClose", 1, flush_number=4) == (1, 4, False)
    upstairs.flush(5, limit=0)
    upstairs.job("Flush", flush_number=6)
    upstairs.expect_closed()
    assert downstairs.wait() == ABORTED


def test_damage_of_a_clean_extent_is_served_with_the_old_hash(downstairs):
    """T11a."""
    upstairs = downstairs.run()
    upstairs.write(0, fill(8))
    upstairs.flush(1)
    downstairs.kill().flip(0)
    (context,), data = downstairs.start().run(generation=2).read(0)
    assert context == xxh64(fill(8)) and data == bytes([9]) + fill(8)[1:]


def test_damage_of_a_dirty_extent_prevents_the_start(downstairs):
    """T11a. While a block has been written only once, its other slot is empty, and is taken."""
    upstairs = downstairs.run()
    upstairs.write(0, fill(8))
    downstairs.kill().flip(0)
    upstairs = downstairs.start().run(generation=2)
    assert upstairs.read(0) == ([None], bytes([9]) + fill(8)[1:])
    upstairs.write(0, fill(9))
    upstairs.write(0, fill(10))
    downstairs.kill().flip(0)
    assert downstairs.spawn().wait() == 1


# read-only


def test_read_only_region_has_one_connection_per_upstairs_id(downstairs):
    downstairs.restart(read_only=True)
    first, other = downstairs.run(generation=5), downstairs.run()
    again = downstairs.run(upstairs_id=first.upstairs_id, generation=0)
    assert first.expect("YouAreNoLongerActive").session_id == again.session_id
    first.expect_closed()
    assert fill_of(other, 0) is None and fill_of(again, 0) is None


@pytest.mark.parametrize("name, fields", [
    ("Write", {"start": 0, "data": fill(1), "contexts": [(xxh64(fill(1)), None)]}),
    ("Write", {"start": 0, "data": fill(1), "contexts": [(xxh64(fill(1)), None)], "deps": [99]}),
    ("WriteUnwritten", {"start": 0, "data": fill(1), "contexts": [(xxh64(fill(1)), None)]}),
    ("ExtentClose", {"repair_id": 0, "extent": 0}),
    ("ExtentLiveFlushClose", {"extent": 0, "flush_number": 1}),
    ("ExtentLiveRepair", {"extent": 0, "source_address": ("127.0.0.1", 1)}),
    ("ExtentLiveReopen", {"extent": 0}), ("ExtentLiveNoOp", {})])
def test_read_only_region_refuses_changes_by_closing(downstairs, name, fields):
    upstairs = downstairs.restart(read_only=True).run()
    upstairs.send(name, **({} if name == "ExtentClose" else {"job_id": 1}), **fields)
    upstairs.expect_closed()
    downstairs.run()


def test_read_only_region_accepts_what_changes_nothing(downstairs):
    upstairs = downstairs.restart(read_only=True).run()
    upstairs.answer("BarrierAck", upstairs.job("Barrier"))
    upstairs.flush(1)
    assert upstairs.mend("ExtentFlush", 0, flush_number=1) is None


def test_read_only_region_that_is_dirty_cannot_be_flushed(downstairs):
    downstairs.run().write(0, fill(1))
    upstairs = downstairs.restart(read_only=True).run()
    assert upstairs.first_versions[0] == (0, 0, True) and fill_of(upstairs, 0) == 1
    assert upstairs.mend("ExtentFlush", 0, flush_number=1) == ("ModifyingReadOnlyRegion",)


def test_closed_extent_of_a_read_only_region_aborts_at_the_next_versions(downstairs):
    downstairs.restart(read_only=True).run().live("ExtentLiveClose", 1)
    upstairs = connect_in(downstairs, 3)
    upstairs.send("ExtentVersionsPlease")
    upstairs.expect_closed()
    assert downstairs.wait() == ABORTED


# what a downstairs does not survive


def send_frame(upstairs, data):
    upstairs.send_bytes(data)


ABORTS = {
    "read beyond the end": lambda u: u.job("ReadRequest", start=11, count=2),
    "read far beyond the end": lambda u: u.job("ReadRequest", start=U64_MAX, count=1),
    "write beyond the end": lambda u: u.send_write(12, fill(1)),
    "write of unwritten blocks beyond the end": lambda u: u.send_write(11, fill(1, 2), "WriteUnwritten"),
    "write of no blocks beyond the end": lambda u: u.send_write(12, b""),
    "write of no blocks to a closed extent": lambda u: u.send_write(4, b"", "WriteUnwritten"),
    "read of a closed extent": lambda u: u.job("ReadRequest", start=3, count=2),
    "write to a closed extent": lambda u: u.send_write(4, fill(1)),
    "flush of a closed dirty extent": lambda u: u.job("Flush", flush_number=1),
    "close of a closed extent": lambda u: u.job("ExtentLiveClose", extent=1),
    "flush and close of a closed extent": lambda u: u.job("ExtentLiveFlushClose", extent=1, flush_number=1),
    "reopen of an open extent": lambda u: u.job("ExtentLiveReopen", extent=0),
    "repair of an open extent": lambda u: u.job("ExtentLiveRepair", extent=0, source_address=("127.0.0.1", 1)),
    "mend flush of a closed extent": lambda u: u.send("ExtentFlush", repair_id=0, extent=1, flush_number=1),
    "mend close of a closed extent": lambda u: u.send("ExtentClose", repair_id=0, extent=1),
    "mend reopen of an open extent": lambda u: u.send("ExtentReopen", repair_id=0, extent=0),
    "mend repair of an open extent": lambda u: u.send("ExtentRepair", repair_id=0, extent=0,
                                                      source_address=("127.0.0.1", 1)),
    "last job id": lambda u: u.job("Barrier", job_id=U64_MAX),
    "close of no extent": lambda u: u.job("ExtentLiveClose", extent=3),
    "flush and close of no extent": lambda u: u.job("ExtentLiveFlushClose", extent=3, flush_number=1),
    "repair of no extent": lambda u: u.job("ExtentLiveRepair", extent=3, source_address=("127.0.0.1", 1)),
    "reopen of no extent": lambda u: u.job("ExtentLiveReopen", extent=0xffffffff),
    "mend flush of no extent": lambda u: u.send("ExtentFlush", repair_id=0, extent=3, flush_number=1),
    "mend close of no extent": lambda u: u.send("ExtentClose", repair_id=0, extent=3),
    "mend repair of no extent": lambda u: u.send("ExtentRepair", repair_id=0, extent=3,
                                                 source_address=("127.0.0.1", 1)),
    "mend reopen of no extent": lambda u: u.send("ExtentReopen", repair_id=0, extent=3),
    "frame of length 0": lambda u: send_frame(u, bytes(4)),
    "frame of length 3": lambda u: send_frame(u, b"\3\0\0\0"),
    "data longer than the frame": lambda u: send_frame(u, with_data_length(u, 3)),
}


def with_data_length(upstairs, missing):
    """A write whose data say that they are as long as the frame but for some bytes."""
    frame = bytearray(upstairs.frame("Write", job_id=1, start=0, data=fill(5), contexts=upstairs.contexts(fill(5))))
    frame[-BLOCK - 8:-BLOCK] = struct.pack("<Q", len(frame) - missing)
    return bytes(frame)


@pytest.mark.parametrize("what", ABORTS)
def test_abort(downstairs, what):
    upstairs = downstairs.run()
    upstairs.write(4, fill(1))
    upstairs.live("ExtentLiveClose", 1)
    ABORTS[what](upstairs)
    upstairs.expect_closed()
    assert downstairs.wait() == ABORTED


def test_four_zero_bytes_abort_without_negotiation(downstairs):
    downstairs.connect().send_bytes(bytes(4))
    assert downstairs.wait() == ABORTED


def test_question_about_no_extent_aborts(downstairs):
    with pytest.raises((ConnectionError, OSError)):
        downstairs.get("/extent/3/repair-ready")
    assert downstairs.wait() == ABORTED


@pytest.mark.parametrize("frame", [
    b"\4\0\0\0", b"\7\0\0\0\x09\0\0", b"\x08\0\0\0\x29\0\0\0", b"\x08\0\0\0\xff\0\0\0", b"\x08\0\0\0\x0b\0\0\0",
    b"\x09\0\0\0\x1d\0\0\0\2", struct.pack("<I", (100 << 20) + 1), b"\x07\0\0\0", b"GET / HTTP/1.1\r\n\r\n"])
def test_frame_that_cannot_be_decoded_closes(downstairs, frame):
    for upstairs in (downstairs.connect(), downstairs.run()):
        upstairs.send_bytes(frame + bytes(8))
        upstairs.expect_closed()
    downstairs.run(generation=2)


@pytest.mark.parametrize("contexts, length", [(1, 0), (0, BLOCK), (1, BLOCK - 1), (2, BLOCK), (0, 1)])
def test_write_of_the_wrong_form_closes(downstairs, contexts, length):
    upstairs = downstairs.run()
    upstairs.send_write(0, bytes(length), contexts=[(1, None)] * contexts)
    upstairs.expect_closed()
    downstairs.run(generation=2)


def test_data_that_overlap_with_their_head_close(downstairs):
    upstairs = downstairs.run()
    upstairs.send_bytes(with_data_length(upstairs, 4))
    upstairs.expect_closed()
    downstairs.run(generation=2)


def test_bytes_behind_a_message_are_ignored(downstairs):
    upstairs = downstairs.run()
    upstairs.send_bytes(b"\x0c\0\0\0\x09\0\0\0abcd")
    upstairs.expect("Imok")
    frame = upstairs.frame("Write", job_id=1, start=0, data=fill(5), contexts=upstairs.contexts(fill(5)))
    upstairs.send_bytes(struct.pack("<I", len(frame) + 6) + frame[4:-BLOCK] + b"behind" + frame[-BLOCK:])
    upstairs.answer("WriteAck", 1)
    assert fill_of(upstairs, 0) == 5


@pytest.mark.parametrize("name, fields", [
    ("Write", {"start": 0, "data": fill(1), "contexts": [(12345, None)]}),
    ("Flush", {"flush_number": 1, "limit": 4}),
    ("ReadRequest", {"start": 0, "count": 1 << 40})])
def test_error_that_lasts_wedges_the_whole_process(make, name, fields):
    """T1."""
    downstairs = make()
    if name == "ReadRequest" and downstairs.kind == "upstream":
        pytest.skip("upstream's process would take all memory that it is allowed")
    upstairs = downstairs.run()
    other = downstairs.connect()
    upstairs.job(name, **fields)
    pause(0.5)
    other.send("HereIAm")
    other.expect_silence(0.5)
    upstairs.close()
    newcomer = downstairs.connect()
    newcomer.send("Ruok")
    newcomer.expect_silence(0.5)
    with pytest.raises(TimeoutError):  # the other paths are answered sometimes
        downstairs.get("/extent/0/repair-ready", 0.5)
    downstairs.restart().run(generation=2)


# repair


def expect_error(upstairs, job_id, kind):
    message = upstairs.expect("ErrorReport", 60)
    assert message.job_id == job_id and message.error[0] == kind, message
    return message.error[1]


def live_repair(good, bad):
    """Extent 1 of `good` onto that of `bad`, in the order in which upstream's upstairs sends."""
    source, target = good.run(), bad.run()
    source.write(4, fill(10, 3))
    source.flush(5)
    source.write(5, fill(99))
    target.write(7, fill(66))
    for upstairs in (source, target):
        upstairs.send("ExtentLiveReopen", job_id=2003, deps=[2002], extent=1)
    assert source.live("ExtentLiveFlushClose", 1, job_id=2000, flush_number=6) == (1, 6, False)
    assert target.live("ExtentLiveClose", 1, job_id=2000) == (0, 0, True)
    assert good.get("/extent/1/repair-ready") == (200, b"true")
    source.live("ExtentLiveNoOp", job_id=2001, deps=[2000])
    target.live("ExtentLiveRepair", 1, job_id=2001, deps=[2000], source_address=good.repair_address)
    target.job("ReadRequest", job_id=3000, deps=[2003], start=4, count=4)
    for upstairs in (source, target):
        upstairs.live("ExtentLiveNoOp", job_id=2002, deps=[2001])
        upstairs.answer("ExtentLiveAckId", 2003)
    data = fill(10) + fill(99) + fill(12) + bytes(BLOCK)
    assert target.answer("ReadResponse", 3000).data == data
    assert bad.versions()[1] == (1, 6, False)
    assert bad.restart().run().read(4, 4)[1] == data


def test_live_repair_of_an_extent(make):
    live_repair(make(), make())


@pytest.mark.parametrize("source, target", [("own", "upstream"), ("upstream", "own")])
def test_live_repair_between_ours_and_upstreams(make, source, target):
    if not UPSTREAM:
        pytest.skip(UPSTREAM_MISSING)
    live_repair(make(source), make(target))


def test_mending_an_extent(make):
    good, bad = make(), make()
    source, target = good.run(), bad.run()
    source.write(0, fill(10, 4))
    assert source.mend("ExtentFlush", 0, flush_number=50, generation=60) is None
    assert source.mend("ExtentFlush", 1, flush_number=50, generation=60) is None
    for upstairs in (source, target):
        assert upstairs.mend("ExtentClose", 0, 1) is None
    assert target.mend("ExtentRepair", 0, 2, source_address=good.repair_address, destinations=[1]) is None
    for upstairs in (source, target):
        assert upstairs.mend("ExtentReopen", 0, 3) is None
    assert target.read(0, 4)[1] == fill(10, 4)
    assert good.versions() == bad.versions() == [(60, 50, False), (0, 0, False), (0, 0, False)]


def refused_address():
    """Nobody listens there."""
    port = next(port for port in range(20001, 24000) if is_free(port))
    return "127.0.0.1", port


def test_failed_copy_stands_in_the_way_until_the_extent_is_reopened(make):
    """T21a."""
    good, bad = make(), make()
    good.run().live("ExtentLiveClose", 1)
    target = bad.run()
    assert target.mend("ExtentClose", 1) is None
    assert target.mend("ExtentRepair", 1, source_address=refused_address())[0] == "RepairRequestError"
    for _ in range(2):
        error = target.mend("ExtentRepair", 1, source_address=good.repair_address)
        assert error[0] == "IoError" and "already exists" in error[1]
    assert target.mend("ExtentReopen", 1) is None
    assert target.mend("ExtentClose", 1) is None
    assert target.mend("ExtentRepair", 1, source_address=good.repair_address) is None
    assert target.mend("ExtentReopen", 1) is None
    assert fill_of(target, 4) is None


def test_live_repair_that_fails_closes_and_keeps_the_old_content(downstairs):
    upstairs = downstairs.run()
    upstairs.write(0, fill(7))
    upstairs.live("ExtentLiveClose", 0)
    job_id = upstairs.job("ExtentLiveRepair", extent=0, source_address=refused_address())
    expect_error(upstairs, job_id, "RepairRequestError")
    upstairs.expect_closed()
    assert fill_of(downstairs.run(), 0) == 7


def test_source_whose_extent_is_open_is_refused(make):
    good, bad = make(), make()
    upstairs = bad.run()
    upstairs.live("ExtentLiveClose", 0)
    job_id = upstairs.job("ExtentLiveRepair", extent=0, source_address=good.repair_address)
    assert "incorrect state" in expect_error(upstairs, job_id, "RepairRequestError")
    upstairs.expect_closed()


def test_read_only_source_is_ready_while_open(make):
    good, bad = make(), make()
    upstairs = good.run()
    upstairs.write(0, fill(3))
    upstairs.flush(1)
    good.restart(read_only=True)
    target = bad.run()
    target.live("ExtentLiveClose", 0)
    target.live("ExtentLiveRepair", 0, source_address=good.repair_address)
    target.live("ExtentLiveReopen", 0)
    assert fill_of(target, 0) == 3


def test_flush_while_a_repaired_extent_is_closed_aborts_if_it_was_dirty(make):
    good, bad = make(), make()
    good.run().live("ExtentLiveClose", 0)
    target = bad.run()
    target.write(0, fill(1))
    target.live("ExtentLiveClose", 0)
    target.live("ExtentLiveRepair", 0, source_address=good.repair_address)
    target.job("Flush", flush_number=1)
    target.expect_closed()
    assert bad.wait() == ABORTED


def test_nobody_is_answered_during_a_download(make):
    """A source that never answers: 15 s upstream; here only that a ping waits."""
    downstairs = make()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        upstairs, other = downstairs.run(), downstairs.connect()
        upstairs.live("ExtentLiveClose", 0)
        job_id = upstairs.job("ExtentLiveRepair", extent=0, source_address=silent.getsockname())
        pause()
        upstairs.send("Ruok")
        other.send("Ruok")
        upstairs.expect_silence(0.5)
        other.expect_silence(0.1)
        connection, _ = silent.accept()
        silent.close()
        connection.close()
        expect_error(upstairs, job_id, "RepairRequestError")
        other.expect("Imok")


def test_repair_port_tells_about_the_region(downstairs):
    status, body = downstairs.get("/region-info")
    assert status == 200 and json.loads(body) == {
        "block_size": 512, "extent_size": {"value": 4, "shift": 9}, "extent_count": 3, "uuid": str(downstairs.uuid),
        "encrypted": False, "database_read_version": 1, "database_write_version": 1}
    assert downstairs.get("/region-mode") == (200, b"false")
    assert downstairs.get("/extent/2/files") == (200, b'["002"]')
    assert downstairs.get("/extent/2/repair-ready") == (200, b"false")
    assert downstairs.get("/newextent/2/data") == (200, downstairs.extent_path(2).read_bytes())
    assert downstairs.get("/extent/3/files")[0] == 400
    assert downstairs.get("/newextent/3/data")[0] == 400
    assert downstairs.get("/nothing")[0] == 404


def test_closing_is_seen_by_everybody(downstairs):
    """A peer that goes away in the middle of a frame is forgotten like any other."""
    upstairs = downstairs.run(generation=5)
    upstairs.send_bytes(upstairs.frame("Flush", job_id=1, flush_number=1)[:40])
    upstairs.close()
    downstairs.run_soon(generation=1)
