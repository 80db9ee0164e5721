"""What a client may send, as rules over what relays have recorded: each is a trap that it must not step into.

A rule takes the relays of a volume, slot by slot, and its shape, and fails with the frame that breaks it. The rules
know upstream's downstairs (crucible-protocol.md), not our client: any client that keeps them is safe there.
"""
from .crucible import U64_MAX, xxh64
from .relay import DOWN, UP

GREETING = ["HereIAm", "PromoteToActive", "RegionInfoPlease", "ExtentVersionsPlease"]
GREETED = ["YesItsMe", "YouAreNowActive", "RegionInfo", "ExtentVersions"]
JOBS = {"Write": "WriteAck", "Flush": "FlushAck", "ReadRequest": "ReadResponse", "ExtentLiveClose": "ExtentLiveCloseAck",
        "ExtentLiveFlushClose": "ExtentLiveCloseAck", "ExtentLiveRepair": "ExtentLiveRepairAckId",
        "ExtentLiveReopen": "ExtentLiveAckId", "ExtentLiveNoOp": "ExtentLiveAckId"}
MENDING = {"ExtentFlush", "ExtentClose", "ExtentRepair", "ExtentReopen"}
STAMPS = {"Flush", "ExtentLiveFlushClose", "ExtentFlush"}


def connections(relay):
    """The frames of each connection, in the order in which they passed."""
    frames = {}
    for frame in list(relay.frames):
        frames.setdefault(frame.connection, []).append(frame)
    return list(frames.values())


def every_connection(relays):
    return [frames for relay in relays for frames in connections(relay)]


def messages(frames, direction):
    return [frame.message for frame in frames if frame.direction == direction]


def negotiates_step_by_step(relays, _volume):
    """T15, T18, T26: greeting, promotion, region, versions, each when the one before is answered; jobs after that.
    LastFlush, whose answer does not exist and which hides what a slot has missed (T7), is not sent."""
    for frames in every_connection(relays):
        asked = answered = 0
        for frame in frames:
            name = frame.message.name
            if frame.direction == DOWN:
                answered += answered < len(GREETED) and name == GREETED[answered]
            elif name != "Ruok" and asked < len(GREETING):
                assert name == GREETING[asked] and answered == asked, frame
                asked += 1
            elif name != "Ruok":
                assert name in JOBS or name in MENDING, frame
                assert answered == len(GREETED), f"before its time: {frame}"


def has_one_connection_at_a_time(relays, _volume):
    """T26: a second one beside the first would throw that out, or take its registration away (W1)."""
    for relay in relays:
        last = 0
        for frames in connections(relay):
            assert frames[0].time >= last, frames[0]
            last = max(frame.time for frame in frames if frame.direction == UP)


def says_who_it_is(relays, _volume):
    """T5, T30: one session and generation for a connection, the same in every message and in each answer that is
    believed."""
    for frames in every_connection(relays):
        who = None
        for frame in frames:
            message = frame.message
            if frame.direction == UP and message.name == "HereIAm":
                who = message
                assert message.version == 13 and not message.read_only and message.generation > 0
            elif hasattr(message, "session_id"):
                assert (message.upstairs_id, message.session_id) == (who.upstairs_id, who.session_id), frame
                if hasattr(message, "generation") and message.name in ("PromoteToActive", *STAMPS):
                    assert message.generation == who.generation, frame


class Job:
    def __init__(self, message, volume, at=0, frame=None):
        self.name, self.at, self.frame = message.name, at, frame
        self.id, self.deps = message.job_id, list(message.deps)
        size = volume.extent_size
        if self.name == "Flush":
            self.first, self.end = 0, volume.extents * size
        elif self.name in ("Write", "ReadRequest"):
            self.first = message.start
            self.end = self.first + (len(message.contexts) if self.name == "Write" else message.count)
        elif hasattr(message, "extent"):
            self.first, self.end = message.extent * size, (message.extent + 1) * size
        else:
            self.first = self.end = 0

    def touches(self, other):
        return self.first < other.end and other.first < self.end and {self.name, other.name} != {"ReadRequest"}


class Ordering:
    """The jobs of one connection, and what each may depend on."""

    def __init__(self, volume):
        self.volume, self.jobs, self.last_flush = volume, {}, None
        self.open = {}  # jobs that are not answered

    def sends(self, frame):
        job = Job(frame.message, self.volume, len(self.jobs), frame)
        assert job.id not in self.jobs and job.id != U64_MAX, f"an id twice: {frame}"
        for dependency in job.deps:
            assert dependency != job.id, f"on itself (T14): {frame}"
            if job.name != "ExtentLiveReopen":  # the one that may be sent before what it waits for
                self._check_dependency(job, dependency, frame)
        self.jobs[job.id] = self.open[job.id] = job
        if job.name not in ("ExtentLiveReopen", "ExtentLiveRepair", "ExtentLiveNoOp"):  # these wait for the close
            self._check_overtaking(job, frame)
        if job.name == "Flush":
            self.last_flush = job

    def _check_dependency(self, job, dependency, frame):
        assert dependency in self.jobs, f"on what was not sent on this connection (T14, T14a): {frame}"
        before = self.jobs[dependency]
        is_cleared = self.last_flush and before is not self.last_flush and before.at < self.last_flush.at
        # but a flush that was sent in the middle of a repair waits for its reopen, and so for all its steps
        is_step = job.name in ("ExtentLiveNoOp", "ExtentLiveRepair")
        assert not is_cleared or is_step, f"on what the last flush clears (T14): {frame}"

    def _all_before(self, job):
        """Of those that are not answered: the others have been executed."""
        found, todo = set(), list(job.deps)
        while todo:
            number = todo.pop()
            if number not in found and number in self.open:
                found.add(number)
                todo += self.open[number].deps
                if self.open[number].name == "ExtentLiveReopen":
                    todo += range(number - 3, number)  # the steps that it waits for may not have been sent yet
        return found

    def _check_overtaking(self, job, frame):
        """T12: whatever is under way, and touches the same blocks, comes first."""
        before = self._all_before(job)
        for other in self.open.values():
            if other is job or not job.touches(other):
                continue
            same_repair = "ExtentLive" in job.name and "ExtentLive" in other.name
            assert other.id in before or same_repair, f"may overtake {other.frame}: {frame}"

    def hears(self, message):
        job = self.jobs.get(message.job_id)
        if job and message.name in (JOBS[job.name], "ExtentLiveAckId"):
            self.open.pop(job.id, None)


def orders_jobs(relays, volume):
    """T12, T14, T14a: dependencies are sent before, on this connection, not cleared by a flush, and complete."""
    for frames in every_connection(relays):
        ordering = Ordering(volume)
        for frame in frames:
            if frame.direction == UP and frame.message.name in JOBS:
                ordering.sends(frame)
            elif frame.direction == DOWN and hasattr(frame.message, "job_id"):
                ordering.hears(frame.message)


def leaves_nothing_waiting(relays, _volume):
    """T14, T16: on a connection that lived to the end, every job was answered, and so was every step of a mend."""
    for relay in relays:
        frames = connections(relay)[-1]
        asked = {m.job_id for m in messages(frames, UP) if m.name in JOBS}
        done = {m.job_id for m in messages(frames, DOWN) if hasattr(m, "job_id")}
        assert asked == done, f"not answered: {sorted(asked - done)}"
        steps = {m.repair_id for m in messages(frames, UP) if m.name in MENDING}
        assert steps == {m.repair_id for m in messages(frames, DOWN) if hasattr(m, "repair_id")}


def stays_within_the_region(relays, volume):
    """T21, T29: blocks and extents that are there, at least one block, no more than 1 MiB, one context for each."""
    blocks = volume.extents * volume.extent_size
    for frames in every_connection(relays):
        for message in messages(frames, UP):
            if message.name in ("Write", "ReadRequest"):
                job = Job(message, volume)
                assert 0 <= job.first < job.end <= blocks and (job.end - job.first) * 4096 <= 1 << 20, message
            if message.name == "Write":
                assert len(message.data) == 4096 * len(message.contexts)
            if hasattr(message, "extent"):
                assert message.extent < volume.extents, message


def opens_and_closes_in_turn(relays, volume):
    """T21, T21a, T16: an extent is closed when open, repaired when closed, reopened when closed; whoever gets the reopen
    of a repair gets its other steps, too, unless its connection ends before."""
    for relay in relays:
        for frames in connections(relay):
            _check_mending(frames, volume)
            _check_repairs(frames, is_last=frames is connections(relay)[-1])


def _check_mending(frames, volume):
    is_open = [True] * volume.extents
    for message in messages(frames, UP):
        if message.name in MENDING:
            closes, needs_open = message.name == "ExtentClose", message.name in ("ExtentClose", "ExtentFlush")
            assert is_open[message.extent] == needs_open, message
            is_open[message.extent] = not closes if message.name in ("ExtentClose", "ExtentReopen") \
                else is_open[message.extent]


def _check_repairs(frames, is_last):
    steps = {}  # by the id of the close
    for message in messages(frames, UP):
        if message.name == "ExtentLiveReopen":
            steps[message.job_id - 3] = {3: message}
        elif message.name in ("ExtentLiveClose", "ExtentLiveFlushClose"):
            assert message.extent == steps[message.job_id][3].extent, message
            steps[message.job_id][0] = message
        elif message.name in ("ExtentLiveRepair", "ExtentLiveNoOp"):
            step = next((step for step in (1, 2) if message.job_id - step in steps), None)
            if step:
                assert list(message.deps) == [message.job_id - 1], message
                steps[message.job_id - step][step] = message
            else:
                assert message.name == "ExtentLiveNoOp", message  # one of its own does nothing
    for number, found in steps.items():
        assert len(found) == 4 or not is_last or number == max(steps), f"reserved, and not issued (T16): {found}"


def limits_flushes(relays, volume):
    """T3: a slot in repair is flushed and written up to the extent under repair, all others without a limit."""
    for frames in every_connection(relays):
        repaired = None  # the extent
        for message in messages(frames, UP):
            if message.name == "ExtentLiveClose":
                assert repaired is None or message.extent == repaired + 1, message
                repaired = message.extent
            elif message.name == "Flush" and repaired is not None:
                is_end = message.limit is None and repaired == volume.extents - 1
                assert is_end or message.limit == repaired, (repaired, message)
                repaired = None if is_end else repaired
            elif message.name == "Flush":
                assert message.limit is None, message
            elif message.name == "Write" and repaired is not None:
                assert message.start + len(message.contexts) <= (repaired + 1) * volume.extent_size, message


def never_stamps_twice(relays, _volume):
    """T4, W2: under a generation flush numbers only rise, above all that were seen before, and belong to one request; the
    generation is the session's, neither above nor below."""
    meaning = {}
    for relay in relays:
        highest, generation_before = 0, 0
        for frames in connections(relay):
            generation = None
            for frame in frames:
                message = frame.message
                if frame.direction == DOWN and message.name == "ExtentVersions":
                    highest = max(highest, *message.flush_numbers)
                elif frame.direction == UP and message.name == "HereIAm":
                    if message.generation != generation_before:
                        generation_before, highest = message.generation, 0
                    generation = message.generation
                elif frame.direction == UP and message.name in STAMPS:
                    assert message.generation == generation, frame
                    assert message.flush_number > highest, (highest, frame)
                    highest = message.flush_number
                    what = getattr(message, "job_id", "mend")
                    assert meaning.setdefault((generation, highest), what) == what, frame


def sends_only_what_it_needs(relays, _volume):
    """T13, T25: nothing whose effect the downstairs decides (WriteUnwritten), no snapshots, no Barrier (W9)."""
    for frames in every_connection(relays):
        for message in messages(frames, UP):
            assert message.name in JOBS or message.name in MENDING or message.name in (*GREETING, "Ruok"), message
            assert message.name != "Flush" or message.snapshot is None, message


def sends_right_hashes(relays, _volume):
    """T1: a wrong one wedges the downstairs."""
    for frames in every_connection(relays):
        for message in messages(frames, UP):
            for i, (hash_, encryption) in enumerate(message.contexts if message.name == "Write" else []):
                if (message.start + i) % 16:  # some: this hash takes its time
                    continue
                block = message.data[4096 * i:4096 * (i + 1)]
                assert hash_ == xxh64((encryption or b"") + block), message.job_id


def encrypts_once(relays, _volume):
    """T9, T10: a block that is written has the same nonce, tag and bytes on every slot and in every replay, and no nonce
    is used for two."""
    by_nonce, blocks = {}, 0
    for frames in every_connection(relays):
        for message in messages(frames, UP):
            for i, (_, encryption) in enumerate(message.contexts if message.name == "Write" else []):
                assert encryption is not None, message.job_id
                what = (message.start + i, encryption[12:], message.data[4096 * i:4096 * (i + 1)])
                assert by_nonce.setdefault(encryption[:12], what) == what, message.job_id
                blocks += 1
    assert len(by_nonce) > 100 and blocks > 2 * len(by_nonce), (len(by_nonce), blocks)
