"""The traps T1 to T31 of crucible-protocol.md, one by one: our client stays out of each, or survives it.

With "upstream" a test runs against the real program, where the trap can be sprung there; with "own" against
tb4-test-downstairs, which does what goes wrong on demand. Rules over what a client sends (support/wire_rules.py) are
asked about one recorded story: load, a lost connection, killed and wiped slots, a killed client, repairs that are cut.

Also about the traps, elsewhere (mutants: tests/sim/mutants, each is found by the simulator):

    T1   unit: test-integrity (vectors, self-test); test_downstairs.test_error_that_lasts_wedges_the_whole_process
    T2   mutants lies-believed, lies-repaired-by-numbers, write-error-forgiven;
         test_downstairs_faults.test_sync_that_fails_makes_a_flush_hollow
    T3   trace h; mutant repair-flushes-all
    T4   mutants flush-numbers-repeat, flush-number-not-raised, mend-with-old-generation
    T6   traces a, b, k; mutants replay-in-original-order, replay-overlapping, jobs-not-covered
    T8   trace g; mutants acknowledge-any-two, flush-with-one, one-copy
    T14  unit: test-downstairs-jobs (what a downstairs does then)
    T16  mutants repair-goes-on, repair-steps-to-all
    T22  unit: test-codec (vectors of a real downstairs)
    T26  test_downstairs.test_greeting_and_closing_unregisters (W1, on both); mutant same-upstairs-id
    T31  mutant superseded-goes-on
"""
import random
import re
import time

import pytest

from support import wire_rules
from support.crucible import encode
from support.downstairs import UPSTREAM, UPSTREAM_MISSING
from support.node import wait_until
from support.relay import UP, Relay, change, cut_there, on_nth
from support.volume import BLOCK, KEY, MIB, QUICK, Volume, both


# one recorded story


def tell_story(volume, relays):
    """Everything that makes a client replay, mend, repair and begin again; under load."""
    client = volume.load(depth=6)
    time.sleep(0.2)
    relays[0].cut()
    wait_until(lambda: len(relays[0].answered("ExtentVersions")) == 2, "slot 0 is back")
    volume.wait_for_in_sync(1, 1, 1)
    volume.sleds[1].kill()
    volume.wait_for_in_sync(1, 0, 1)
    volume.sleds[1].start()
    volume.wait_for_in_sync(1, 1, 1)
    client.kill()
    client = volume.load(depth=6, seed=2)
    relays[2].hook = on_nth("ExtentLiveRepair", 3, cut_there)
    volume.sleds[2].wipe().start()
    client.wait_for_log(r"slot 2: is copied from", count=2)
    volume.wait_for_in_sync(1, 1, 1)
    # the source goes: it is the highest counted slot
    relays[0].hook = on_nth("ExtentLiveRepair", 2, lambda *_: relays[2].cut() or True)
    volume.sleds[0].wipe().start()
    client.wait_for_log(r"slot 0: is copied from", count=2)
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0, client.log[-3000:]
    volume.check(0.2, seed=3, depth=6)


@pytest.fixture(scope="module", params=[(kind, key) for kind in ("own", "upstream") for key in (None, KEY)],
                ids=["own-plain", "own-encrypted", "upstream-plain", "upstream-encrypted"])
def story(request, tmp_path_factory):
    """(relays, volume)"""
    kind, key = request.param
    if kind == "upstream" and not UPSTREAM:
        pytest.skip(UPSTREAM_MISSING)
    volume = Volume(tmp_path_factory.mktemp("story"), kind, extents=8, extent_size=32, key=key)
    volume.options = ["--leave-after", "1000"]
    relays = [Relay(sled.address, records=True) for sled in volume.sleds]
    volume.targets = [relay.address for relay in relays]
    try:
        tell_story(volume, relays)
        volume.assert_equal()
        yield relays, volume
    finally:
        for relay in relays:
            relay.close()
        volume.close()


def test_t01_hashes_on_the_wire_are_right(story):
    wire_rules.sends_right_hashes(*story)


def test_t03_flushes_are_limited_in_repair_and_only_there(story):
    wire_rules.limits_flushes(*story)
    assert any(frame.message.limit is not None for relay in story[0] for frame in relay.sent("Flush"))


def test_t04_no_stamp_means_two_things(story):
    """W2, 6.3 and 7.7 [O] too: the generation is the session's, numbers are above all that were seen."""
    wire_rules.never_stamps_twice(*story)
    assert any(relay.sent("ExtentFlush") for relay in story[0])


def test_t05_t30_identities_and_generation(story):
    wire_rules.says_who_it_is(*story)
    greetings = [frame.message for relay in story[0] for frame in relay.sent("HereIAm")]
    by_session = {message.session_id: message.generation for message in greetings}
    assert sorted(by_session.values()) == [1, 2, 3, 4]  # every start has its own


def test_t06_t07_t15_t18_t26_negotiation_in_order_by_versions(story):
    """Never LastFlush, which would hide what a slot has missed."""
    wire_rules.negotiates_step_by_step(*story)


def test_t09_t10_a_block_is_encrypted_once_under_a_fresh_nonce(story):
    if story[1].key:
        wire_rules.encrypts_once(*story)
    else:
        assert all(context[1] is None for relay in story[0] for frame in relay.sent("Write")
                   for context in frame.message.contexts)


def test_t12_t14_dependencies(story):
    """Also T14a: nothing is sent before what it waits for, but for the one sanctioned case."""
    wire_rules.orders_jobs(*story)


def test_t12_most_reads_go_to_one_slot_and_writes_still_wait_for_them(story):
    """Rule orders_jobs has seen that what overlaps is ordered on each slot by itself."""
    asked = {}
    for relay in story[0]:
        for frame in relay.sent("ReadRequest"):
            asked.setdefault((frame.message.session_id, frame.message.job_id), set()).add(relay)
    once = sum(len(relays) == 1 for relays in asked.values())
    assert once > len(asked) / 2 > 10, (once, len(asked))


def test_t13_t25_only_messages_whose_effect_is_ours(story):
    wire_rules.sends_only_what_it_needs(*story)


def test_t14_t16_nothing_waits_for_ever(story):
    wire_rules.leaves_nothing_waiting(*story)


def test_t16_t21_extents_are_closed_and_opened_in_turn(story):
    wire_rules.opens_and_closes_in_turn(*story)
    assert sum(len(relay.sent("ExtentLiveRepair")) for relay in story[0]) >= 16


def test_t21_t29_requests_stay_within_the_region_and_1_mib(story):
    wire_rules.stays_within_the_region(*story)


def test_t22_an_independent_codec_agrees_byte_by_byte(story):
    for relay in story[0]:
        for frame in relay.frames:
            message = {name: value for name, value in vars(frame.message).items() if name != "name"}
            assert encode(frame.message.name, **message) == frame.bytes, frame


def test_t26_one_connection_at_a_time(story):
    wire_rules.has_one_connection_at_a_time(*story)


# one by one


def kill_while_dirty(volume, sled, count):
    """Kills loads, until one was not killed right behind a flush. The extents that it left dirty, `count` or more."""
    deadline = time.monotonic() + 60
    while True:
        client = volume.load()
        time.sleep(0.5)
        client.kill()
        dirty = [extent for extent in range(volume.extents) if sled.stored_versions(extent)[2]]
        if len(dirty) >= count:
            return dirty
        assert time.monotonic() < deadline, f"{len(dirty)} dirty extents"


@both
@pytest.mark.parametrize("is_released", [True, False], ids=["fence", "mend"])
def test_t01_a_damaged_block_is_never_written_back_nor_copied(make_volume, kind, is_released):
    """The fence rewrites a block with its own bytes, and so does a mend of what was flushed last, of which it then makes
    copies: of the block as it is on a slot that has it right."""
    volume = make_volume(kind)
    volume.check(0.3)
    if not is_released:
        client = volume.load()
        time.sleep(0.3)
        client.kill()
    for sled in volume.sleds:
        sled.kill()
    sled = volume.sleds[0]
    # a dirty one would not start
    clean = [extent for extent in range(volume.extents) if not sled.stored_versions(extent)[2]]
    if not clean:
        pytest.skip("needs an extent that the load had not written since its last flush")
    for extent in clean:
        sled.flip(extent * volume.extent_size)
    for one in volume.sleds:
        one.start()
    result = volume.check()
    assert "slot 0: block" in result.stderr and "damaged" in result.stderr, result.stderr
    with sled.connect(generation=1000) as upstairs:  # it is not wedged
        upstairs.run().ping()


def test_t02_a_hollow_flush_counts_for_nothing(make_volume, relay):
    """The error of a flush makes the slot leave before its acknowledgement is believed; all of it is copied."""
    volume = make_volume(extents=8, extent_size=32)
    volume.options = ["--flush-interval", "50"]
    relays = relay(volume, records=True)
    client = volume.load()

    def hollow():
        flushes = {frame.message.job_id for frame in relays[1].sent("Flush")}
        return [frame for frame in relays[1].answered("ErrorReport") if frame.message.job_id in flushes]

    for tries in range(20):
        copied, reports = len(relays[1].sent("ExtentLiveRepair")), len(relays[1].answered("ErrorReport"))
        volume.sleds[1].control(f"fail-sync {tries % volume.extents} 1")
        wait_until(lambda: len(relays[1].answered("ErrorReport")) > reports, "a sync fails")
        wait_until(lambda: len(relays[1].sent("ExtentLiveRepair")) >= copied + volume.extents, "all of it is copied")
        volume.wait_for_in_sync(1, 1, 1)
        if hollow():
            break
    assert hollow()
    assert client.stop()[0] == 0, client.log[-3000:]
    volume.assert_equal()


@both
def test_t03_t16_what_a_repair_has_not_reached_is_not_stamped(make_volume, relay, kind):
    """The target is killed in the middle: extents behind that show that they were never flushed there, and on the other
    slots everything that was reserved is issued, so that nothing waits."""
    volume = make_volume(kind, extents=8, extent_size=32)
    volume.options = ["--flush-interval", "50"]
    relays = relay(volume, records=True)
    client = volume.load()
    volume.wait_for_in_sync(1, 1, 1)

    def kill(_connection, _frame):
        volume.sleds[2].kill()
        return b""

    relays[2].hook = on_nth("ExtentLiveRepair", 4, kill)
    volume.sleds[2].wipe().start()
    wait_until(lambda: not volume.sleds[2].is_running(), "the target is killed")
    stored = [volume.sleds[2].stored_versions(extent) for extent in range(4, 8)]
    assert all(versions[:2] == (0, 0) for versions in stored), stored
    volume.sleds[2].start()
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0, client.log[-3000:]
    wire_rules.limits_flushes(relays, volume)
    wire_rules.opens_and_closes_in_turn(relays, volume)
    volume.assert_equal()


@both
def test_t04_a_mend_and_the_first_flush_behind_it_differ(make_volume, kind):
    """W2: generation exactly one above, extents that are mended from a dirty source, then a flush of the guest."""
    volume = make_volume(kind)
    volume.options = [*QUICK, "--flush-interval", "600000"]
    dirty = [extent for extent in kill_while_dirty(volume, volume.sleds[0], 2) if extent > 0]  # a fence may write to 0
    client = volume.spawn("idle", 600).wait_until_serving()
    mended = [volume.sleds[0].stored_versions(extent) for extent in dirty]
    assert {(generation, is_dirty) for generation, _, is_dirty in mended} == {(volume.generation, False)}
    before = [volume.sleds[0].extent_path(extent).read_bytes()[:-32] for extent in dirty]
    (volume.directory / "input").write_bytes(b"x" * BLOCK)
    client.kill()
    for extent in dirty:
        with open(volume.directory / "input", "rb") as file:
            volume.spawn("write", extent * volume.extent_size * BLOCK, stdin=file).expect_good()
    for extent, versions, bytes_ in zip(dirty, mended, before):
        assert volume.sleds[0].extent_path(extent).read_bytes()[:-32] != bytes_
        assert volume.sleds[0].stored_versions(extent) != versions


@both
def test_t04_all_three_lost_and_back_stamp_nothing_above_our_generation(make_volume, kind):
    """7.7 [O]: and so the next generation is high enough for the next start."""
    volume = make_volume(kind)
    client = volume.load()
    for _ in range(3):
        time.sleep(0.2)
        for sled in volume.sleds:
            sled.kill()
        for sled in volume.sleds:
            sled.start()
        volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0, client.log[-3000:]
    for sled in volume.sleds:
        assert max(sled.stored_versions(extent)[0] for extent in range(volume.extents)) == volume.generation
    volume.check(0.1)
    volume.assert_equal()


@both
def test_t05_a_generation_is_not_used_twice(make_volume, kind):
    """A start under the generation of an earlier one is refused: their stamps would mean two things."""
    volume = make_volume(kind)
    volume.check(0.2)
    result = volume.check(generation=volume.generation, check=False)
    assert result.returncode == 1 and f"generation {volume.generation}" in result.stderr, result.stderr
    volume.check()


@both
def test_t06_whatever_a_lost_connection_has_swallowed_is_replayed(make_volume, relay, kind):
    """Connections are cut at random moments, answers and requests on them lost."""
    volume = make_volume(kind)
    relays = relay(volume)
    dice = random.Random(6)
    client = volume.load()
    for _ in range(12):
        time.sleep(dice.uniform(0.02, 0.15))
        relays[dice.randrange(3)].cut()
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0, client.log[-3000:]
    volume.make_whole()
    volume.assert_equal()


@both
def test_t07_a_slot_that_missed_writes_comes_back_by_copying(make_volume, kind):
    """It was away while another client wrote, which left no history."""
    volume = make_volume(kind)
    volume.check(0.2)
    volume.sleds[0].kill()
    volume.check(0.2, seed=2)
    volume.sleds[0].start()
    assert "slot 0: is copied from" in volume.io("wait").stderr
    volume.sleds[1].kill()
    volume.check()  # what was copied is read
    volume.sleds[1].start()
    volume.make_whole()
    volume.assert_equal()


@pytest.mark.parametrize("what", ["WriteAck", "FlushAck"])
def test_t08_what_a_named_slot_has_not_acknowledged_is_not_acknowledged(make_volume, relay, what):
    """Two copies are not enough as long as the record names three: the third one's silence holds a write, or a flush, up
    until the record is changed."""
    volume = make_volume()
    volume.check(0.1)
    relays = relay(volume, records=True)
    withheld = set()

    def withhold(_connection, frame):
        message = frame.message
        if message.name == "Write" and message.start == 256 or message.name == "Flush" and withheld:
            withheld.add(message.job_id)
        return b"" if message.name == what and message.job_id in withheld else True

    relays[2].hook = withhold
    (volume.directory / "input").write_bytes(bytes(BLOCK))
    for leave_after, in_sync in (600000, None), (700, [True, True, False]):
        volume.options = ["--leave-after", str(leave_after)]
        with open(volume.directory / "input", "rb") as file:
            client = volume.spawn("write", MIB, stdin=file)
        if in_sync is None:
            wait_until(lambda: withheld and relays[2].answered(what), "the acknowledgement is withheld")
            time.sleep(1)
            assert client.is_running()
            client.kill()
            withheld.clear()
        else:
            client.expect_good()
            assert volume.in_sync() == in_sync


def lies_in_reads(change_contexts):
    """A hook: answers to reads are changed, of all but the first of a connection (the fence)."""
    def hook(connection, frame):
        if frame.message.name != "ReadResponse" or \
                not connection.relay.answered("ReadResponse", connection=connection.number):
            return True
        return change(frame, **change_contexts(frame.message))
    return hook


def as_empty(message):
    return {"result": [None] * len(message.result)}


def as_encrypted(message):
    return {"result": [bytes(28)] * len(message.result)}


def as_plain(message):
    return {"result": [5] * len(message.result)}


def with_other_hash(message):
    return {"result": [hash_ ^ 1 if isinstance(hash_, int) else 1 for hash_ in message.result]}


def with_other_tag(message):
    return {"result": [bytes([context[0] ^ 1]) + context[1:] if context else bytes(28) for context in message.result]}


def with_other_data(message):
    return {"data": bytes([message.data[0] ^ 1]) + message.data[1:]}


LIES = [(None, as_empty), (None, as_encrypted), (None, with_other_hash), (None, with_other_data),
        (KEY, as_empty), (KEY, as_plain), (KEY, with_other_tag), (KEY, with_other_data)]


@pytest.mark.parametrize("key, lie", LIES, ids=[f"{'encrypted' if key else 'plain'}-{lie.__name__}" for key, lie in LIES])
def test_t11_data_that_do_not_fit_their_context_are_read_elsewhere(make_volume, relay, key, lie):
    volume = make_volume(key=key)
    volume.options = ["--wait-for-named", "30000"]  # all three are sources
    volume.io("fill", 5, 4 * MIB)
    relays = relay(volume, records=True)
    relays[0].hook = lies_in_reads(lie)
    result = volume.io("verify", 5, 4 * MIB)
    assert re.search("slot 0: block .* damaged: another copy is read", result.stderr)
    for one in relays:  # nobody is right: an error, and no data
        one.hook = lies_in_reads(lie)
    result = volume.io("verify", 5, 4 * MIB, check=False)
    assert result.returncode == 1 and "Input/output error" in result.stderr
    assert "not what was written" not in result.stderr


@both
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_t11a_damage_on_a_disk_is_found_by_us_alone(make_volume, kind, key):
    """A clean extent: the downstairs serves it without an error."""
    volume = make_volume(kind, key=key)
    volume.io("fill", 5, 4 * MIB)
    for sled in volume.sleds:
        sled.kill()
    for i, sled in enumerate(volume.sleds):
        for extent in range(4):
            sled.flip(extent * volume.extent_size + 10 + 40 * i)  # another block on each
    for sled in volume.sleds:
        sled.start()
    result = volume.io("verify", 5, 4 * MIB)
    assert re.search("slot .: block .* damaged: another copy is read", result.stderr)


@both
def test_t11a_a_downstairs_that_does_not_start_is_done_without(make_volume, kind):
    """Damage in a dirty extent, of a block that was written more than once, keeps it from starting."""
    volume = make_volume(kind, extents=3, extent_size=4)
    volume.options = [*QUICK, "--flush-interval", "600000"]
    sled = volume.sleds[1]
    kill_while_dirty(volume, sled, volume.extents)
    for one in volume.sleds:
        one.kill()
    for block in range(volume.extents * volume.extent_size):
        sled.flip(block)
    assert sled.spawn().wait() == 1
    for i in (0, 2):
        volume.sleds[i].start()
    volume.check()
    assert volume.in_sync() == [True, False, True]


def test_t17_a_silent_slot_does_not_hold_the_guest_for_ever(make_volume, relay):
    """It takes jobs and answers none; the others are counted, and it comes back."""
    volume = make_volume()
    volume.options = ["--leave-after", "700"]
    relays = relay(volume)
    client = volume.load()
    relays[1].hook = lambda connection, frame: connection.number > 0 or frame.direction == UP or b""
    volume.wait_for_in_sync(1, 0, 1)
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0 and "paused" not in client.log
    assert "slot 1: does not answer, and the others have" in client.log
    volume.assert_equal()


def test_t17_nor_does_one_that_falls_silent_while_it_comes_back(make_volume, relay):
    """It has acknowledged its replay: from then on nothing is acknowledged without it until the record names it."""
    volume = make_volume()
    volume.options = ["--leave-after", "700"]
    relays = relay(volume, records=True)
    client = volume.load()

    def falls_silent(connection, frame):
        if connection.number == 1 and relays[1].answered("FlushAck", connection=1):
            return frame.direction == UP or b""
        return True

    relays[1].hook = falls_silent
    relays[1].cut()
    wait_until(lambda: len(relays[1].connections) > 2, "it is dropped again", 20)
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0
    volume.assert_equal()


def test_t17_nor_does_a_slot_in_repair(make_volume, relay):
    """The extent under repair is closed everywhere, and whoever wants it waits for the target."""
    volume = make_volume(extents=8, extent_size=32)
    volume.options = ["--leave-after", "700"]
    relays = relay(volume, records=True)
    client = volume.load()

    def falls_silent(connection, frame):
        if connection.number == 1 and relays[1].sent("ExtentLiveClose", connection=1):
            return frame.direction == UP or b""
        return True

    relays[1].hook = falls_silent
    volume.sleds[1].wipe().start()
    wait_until(lambda: relays[1].sent("ExtentLiveClose"), "a repair begins")
    wait_until(lambda: len(relays[1].connections) > 2, "it is dropped", 40)
    relays[1].hook = None
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0
    volume.assert_equal()


def test_t19_a_slot_that_does_not_read_blocks_nobody_else(make_volume, relay):
    """What is not sent to it lies in the history, once; the client's memory stays what it was."""
    volume = make_volume()
    volume.options = ["--leave-after", "1500"]
    relays = relay(volume)
    client = volume.load(depth=32)
    time.sleep(0.3)
    before = client.memory()
    relays[2].connections[-1].reads.clear()
    volume.wait_for_in_sync(1, 1, 0)
    assert client.memory() - before < 300 * MIB  # the history's bound, and what one batch takes
    volume.wait_for_in_sync(1, 1, 1)
    assert client.stop()[0] == 0
    volume.assert_equal()


@pytest.mark.plain
def test_t20_reading_alone_does_not_grow(make_volume):
    volume = make_volume()
    volume.io("fill", 1, 2 * MIB)
    client = volume.spawn("bench", "read", 16, 3, BLOCK).wait_until_serving()
    time.sleep(1)
    before = client.memory()
    time.sleep(1.5)
    after = client.memory()
    output = client.expect_good()
    assert int(re.match(r"\d+", output)[0]) > 1000 and after - before < MIB, (before, after, output)


@both
def test_t21_a_downstairs_survives_us(make_volume, kind):
    """All sizes and places, the last block and the last extent among them."""
    volume = make_volume(kind, extents=3, extent_size=5)
    for seed in range(4):
        volume.check(0.2, seed=seed, depth=32)
    volume.assert_alive()
    volume.assert_equal()


@both
def test_t21a_t27_a_copy_that_fails_is_tried_again_from_the_beginning(make_volume, relay, kind):
    """The address that the source gives cannot be reached at first. The extent is closed there and has to be opened
    before the next try, which a new promotion does."""
    volume = make_volume(kind, extents=8, extent_size=32)
    volume.check(0.2)
    volume.sleds[0].kill()
    volume.check(0.2, seed=2)
    volume.sleds[0].start()
    relays = relay(volume)

    def points_nowhere(connection, frame):
        if frame.message.name != "YesItsMe" or connection.number > 0:
            return True
        return change(frame, repair_address=("127.0.0.1", 1))

    relays[1].hook = relays[2].hook = points_nowhere
    client = volume.spawn("wait")
    client.wait_for_log("slot 0: is copied from", count=3)
    for one in relays[1:]:
        one.cut()
    client.expect_good()
    volume.assert_equal()


@both
@pytest.mark.parametrize("unspecified", ["0.0.0.0", "::"])
@pytest.mark.parametrize("way", ["mend", "repair"])
def test_t27_an_unspecified_repair_address_becomes_the_peers(make_volume, relay, kind, way, unspecified):
    volume = make_volume(kind, extents=4, extent_size=32)
    volume.check(0.2)
    if way == "mend":
        volume.load().kill()
    else:
        volume.sleds[0].kill()
        volume.check(0.2, seed=2)
        volume.sleds[0].start()
    relays = relay(volume, records=True)
    for one in relays:
        one.hook = lambda _, frame: frame.message.name != "YesItsMe" or change(
            frame, repair_address=(unspecified, frame.message.repair_address[1]))
    volume.make_whole()
    name = "ExtentRepair" if way == "mend" else "ExtentLiveRepair"
    addresses = {frame.message.source_address for one in relays for frame in one.sent(name)}
    assert addresses and addresses <= {sled.repair_address for sled in volume.sleds}
    volume.assert_equal()


@both
def test_t23_a_downstairs_of_another_mode_is_left_alone(make_volume, kind):
    """Read-only (T25: nothing but the greeting is sent to it), or of an encrypted region: said, and two others serve."""
    volume = make_volume(kind)
    volume.check(0.1)
    volume.sleds[1].restart(read_only=True)
    result = volume.check()
    assert "slot 1: runs read-only" in result.stderr
    volume.sleds[1].restart()
    volume.make_whole()
    volume.key = KEY
    (volume.directory / "key").write_bytes(KEY)
    client = volume.spawn("wait")
    for i in range(3):
        client.wait_for_log(f"slot {i}: the region is not encrypted")
    client.kill()
    volume.key = None
    volume.check(0.1)
    volume.assert_equal()


def test_t23_another_version_is_said(make_volume, relay):
    volume = make_volume()
    volume.check(0.1)
    relays = relay(volume, records=True)
    relays[0].hook = lambda _, frame: frame.message.name != "YesItsMe" or change(frame, version=12)
    relays[1].hook = lambda _, frame: frame.message.name != "YesItsMe" or encode("VersionMismatch", version=14)
    client = volume.spawn("status")
    client.wait_for_log("slot 0: speaks message version 12, not 13")
    client.wait_for_log("slot 1: speaks message version 14, not 13")
    assert not relays[0].sent("PromoteToActive")
    client.kill()


REFUSED = "closes right after our promotion: .*another client with an equal or higher generation is active"


@both
def test_t23_an_equal_generation_is_told_from_a_dead_slot(make_volume, kind):
    """The downstairs closes without a word. The first client does not notice, the second says what it is."""
    volume = make_volume(kind)
    first = volume.load()
    second = volume.spawn("status", generation=volume.generation, record=volume.directory / "other")
    for i in range(3):
        second.wait_for_log(f"slot {i}: {REFUSED}")
    second.kill()
    assert first.is_running() and "paused" not in first.log
    assert first.stop()[0] == 0
    volume.assert_equal()


def test_t24_an_idle_client_is_not_dropped(make_volume, relay):
    """Frames come often enough for a downstairs that drops who is silent for 45 s (here: 7 s)."""
    volume = make_volume(start=False)
    for sled in volume.sleds:
        sled.arguments = ["--silence-limit", "7000"]
        sled.start()
    relays = relay(volume, records=True)
    volume.spawn("idle", 9).expect_good()
    assert all(len(one.connections) == 1 and one.sent("Ruok") for one in relays)


def withhold_answers(relays, name):
    """All of them from the first of these messages on, so that the client falls silent: a server that closes before it has
    read everything takes back what it has just said."""
    seen = set()

    def withhold(_connection, frame):
        if frame.message.name == name:
            seen.add(frame.message.job_id)
        return b"" if seen and frame.message.name in ("WriteAck", "FlushAck", "ReadResponse") else True

    for one in relays:
        one.hook = withhold
    wait_until(lambda: seen, f"a {name} waits")
    time.sleep(0.3)


@both
def test_t26_t31_superseded_on_one_slot_stops_all(make_volume, relay, kind):
    """W8 too: what waits is answered, with an error, and there is no further connection."""
    volume = make_volume(kind)
    relays = relay(volume)
    client = volume.load(depth=16)
    withhold_answers(relays, "Write")
    volume.sleds[1].run(generation=volume.generation + 1)  # only this one has a new master
    status, _, log = client.end(10)
    assert status == 1 and f"superseded by generation {volume.generation + 1} on slot 1" in log
    assert log.count("Input/output error") >= 1
    assert [len(one.connections) for one in relays] == [1, 1, 1]
    wait_until(lambda: not any(one.connections[0].is_open for one in relays), "all are closed")


def test_t28_a_slot_that_fetches_is_silent_and_not_given_up(make_volume, relay):
    """For longer than a late job may take: it is in repair, nobody waits for it."""
    volume = make_volume(extents=4, extent_size=32)
    volume.options = ["--leave-after", "700"]
    volume.check(0.2)
    volume.sleds[0].kill()
    volume.check(0.2, seed=2)
    volume.sleds[0].start()
    relays = relay(volume, records=True)
    volume.sleds[2].control("http silence")
    client = volume.load()
    wait_until(lambda: relays[0].sent("ExtentLiveRepair"), "a copy begins")
    time.sleep(6)  # a ping is not answered meanwhile
    assert len(relays[0].sent("Ruok")) > len(relays[0].answered("Imok"))
    volume.sleds[2].control("http ok")
    volume.wait_for_in_sync(1, 1, 1)
    assert len(relays[0].connections) == 1
    assert client.stop()[0] == 0
    volume.assert_equal()


@both
def test_w01_a_refused_client_does_not_take_the_registration_of_another(make_volume, relay, kind):
    """Each connection has an upstairs id of its own: refused as often as it likes, the client that is active stays
    registered, and a third one is refused, too."""
    volume = make_volume(kind)
    first = volume.load()
    relays = relay(volume, records=True)
    second = volume.spawn("status", generation=volume.generation, record=volume.directory / "other")
    second.wait_for_log(REFUSED)
    wait_until(lambda: all(len(one.connections) >= 5 for one in relays), "it tries often")
    for sled in volume.sleds:
        with sled.connect(generation=volume.generation) as third:
            assert not third.promote()
    second.kill()
    for one in relays:
        ids = [frame.message.upstairs_id for frame in one.sent("HereIAm")]
        assert len(set(ids)) == len(ids)
    assert first.stop()[0] == 0
    volume.targets = [sled.address for sled in volume.sleds]
    volume.assert_equal()


@both
def test_w08_a_flush_that_waits_is_answered_when_it_is_superseded(make_volume, relay, kind):
    volume = make_volume(kind)
    relays = relay(volume)
    client = volume.load(depth=16)
    withhold_answers(relays, "Flush")
    volume.sleds[0].run(generation=volume.generation + 1)
    status, _, log = client.end(10)
    assert status == 1 and "superseded" in log
    assert log.count("Input/output error") > 8  # of the 16 that were under way
