"""The handshake phase, option by option, with right and wrong data."""
import struct

import pytest

from support import wire
from support.wire import Closed


def test_go_gives_the_exact_size_and_flags(gateway):
    with gateway.client().greet() as client:
        client.go("vm-200-disk-0")
        assert client.size == 64 << 20
        wanted = (wire.FLAG_HAS_FLAGS | wire.FLAG_SEND_FLUSH | wire.FLAG_SEND_FUA | wire.FLAG_SEND_TRIM |
                  wire.FLAG_SEND_WRITE_ZEROES | wire.FLAG_CAN_MULTI_CONN | wire.FLAG_SEND_CACHE |
                  wire.FLAG_SEND_FAST_ZERO)
        assert client.flags == wanted


def test_unknown_option_is_unsupported_and_the_session_goes_on(gateway):
    with gateway.client().greet() as client:
        for option in (4, 12, 0xFFFF, 0x7FFFFFFF):
            kind, _ = client.option(option, b"whatever")
            assert kind == wire.ERR_UNSUP
        client.go()
        assert client.read(0, 512) == bytes(512)


@pytest.mark.parametrize("magic", [0, 0x49484156454F5055])
def test_option_without_its_magic_costs_the_connection(gateway, magic):
    with gateway.client().greet() as client:
        client.send_option(wire.OPT_LIST, magic=magic)
        with pytest.raises(Closed):
            client.read_option_reply()
    gateway.wait_for_log("without its magic number: dropped")
