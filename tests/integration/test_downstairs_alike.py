"""The same messages to our downstairs and to upstream's: the same answers, deaths and content."""
import random
import socket
import uuid

import pytest

from support.crucible import Closed
from support.downstairs import UPSTREAM, UPSTREAM_MISSING, OwnDownstairs, UpstreamDownstairs

pytestmark = pytest.mark.skipif(not UPSTREAM, reason=UPSTREAM_MISSING)

BLOCK, BLOCKS, EXTENTS = 512, 12, 3
EVENTS = 30  # pings at the end, each of which makes the queue be looked at once more
IDS = {"upstairs_id": uuid.UUID(int=1), "session_id": uuid.UUID(int=2)}


class Script:
    """Random messages. Jobs depend on earlier ones, and now and then on later ones or on none that there is."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.closes = self.random.random() < 0.3  # which one of the two does not survive in most cases
        self.messages = [self.message(step) for step in range(self.random.choice([10, 30, 60]))]

    def message(self, step):
        pick = self.random
        fields = {"job_id": 1000 + step,
                  "deps": [1000 + pick.randrange(step + 4) for _ in range(pick.choice([0, 0, 1, 1, 2]))]}
        name, weight = "", pick.random()
        if weight < 0.4:
            name = "Write" if weight < 0.3 else "WriteUnwritten"
            count = pick.choice([0, 1, 1, 2])
            fields["start"] = pick.randrange(BLOCKS - max(1, count) + 1)
            fields["data"] = b"".join(bytes([pick.randrange(256)]) * BLOCK for _ in range(count))
        elif weight < 0.65:
            name, count = "ReadRequest", pick.choice([0, 1, 2])
            fields |= {"start": pick.randrange(BLOCKS - max(1, count) + 1), "count": count}
        elif weight < 0.75:
            name = "Flush"
            fields |= {"flush_number": pick.randrange(100), "generation": pick.randrange(9),
                       "limit": pick.choice([None, None, 0, 1, 3])}
        elif weight < 0.8:
            name = "Barrier"
        elif weight < 0.84:
            name, fields = "Ruok", {}
        elif weight < 0.88:
            name = "ExtentFlush"
            fields = {"extent": pick.randrange(EXTENTS), "flush_number": pick.randrange(100), "repair_id": step}
        elif weight < 0.91:
            name, fields["session_id"] = "Barrier", uuid.UUID(int=9)
        elif weight < 0.96 and self.closes:
            name = pick.choice(["ExtentLiveClose", "ExtentLiveReopen", "ExtentLiveFlushClose"])
            fields["extent"] = pick.randrange(EXTENTS)
            if name == "ExtentLiveFlushClose":
                fields["flush_number"] = 7
        else:
            name = "ExtentLiveNoOp"
        return name, fields


def answers(downstairs, script):
    """What it answers; None if it dies."""
    upstairs = downstairs.run(generation=5, **IDS)
    frames = []
    for name, fields in script.messages + [("Ruok", {})] * EVENTS:
        more = {"contexts": upstairs.contexts(fields["data"])} if "data" in fields else {}
        frames.append(upstairs.frame(name, **fields, **more))
    upstairs.send_bytes(b"".join(frames))
    upstairs.socket.shutdown(socket.SHUT_WR)
    received = []
    try:
        while True:
            received.append(vars(upstairs.receive()))
    except Closed:
        pass
    pings = [message for message in received if message["name"] == "Imok"]
    if len(pings) >= EVENTS:
        return received
    assert downstairs.wait() == -6
    downstairs.start()
    return None


def content(downstairs):
    upstairs = downstairs.run(generation=100)
    return upstairs.read(0, BLOCKS), upstairs.first_versions


@pytest.mark.parametrize("seed", range(40))
def test_same_messages_same_answers(tmp_path, seed):
    script = Script(seed)
    both = [OwnDownstairs(tmp_path / "own"), UpstreamDownstairs(tmp_path / "upstream")]
    try:
        own, upstream = [answers(downstairs.start(), script) for downstairs in both]
        assert own == upstream
        (own_blocks, own_versions), (blocks, versions) = [content(downstairs) for downstairs in both]
        assert own_blocks == blocks
        if upstream is not None:  # how far a flush got that was the death is a race in upstream
            assert own_versions == versions
    finally:
        for downstairs in both:
            downstairs.close()
