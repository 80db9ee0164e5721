"""Three downstairs of one volume, and that volume on a node."""
from .downstairs import OwnDownstairs, UpstreamDownstairs
from .node import run, wait_until

BLOCK = 4096
KINDS = {"own": OwnDownstairs, "upstream": UpstreamDownstairs}


class Sleds:
    def __init__(self, directory, kind="own", key=None, extent_size=256, extent_count=64):
        self.directory, self.key, self.key_file = directory, key, None
        self.downstairs = [KINDS[kind](directory / f"region-{i}", block_size=BLOCK, extent_size=extent_size,
                                       extent_count=extent_count, encrypted=bool(key)) for i in range(3)]
        self.size = BLOCK * extent_size * extent_count
        if key:
            self.key_file = directory / "key"
            self.key_file.write_bytes(key)
            self.key_file.chmod(0o600)
        for one in self.downstairs:
            one.start()

    def options(self):
        targets = [word for one in self.downstairs for word in ("--target", f"127.0.0.1:{one.port}")]
        return ["--backend", "crucible", *targets, *(["--key-file", self.key_file] if self.key else [])]

    def create(self, node, vmid=200, size=None):
        node.tb4("volume", "create", vmid, size or self.size, *self.options())

    def contents(self):
        """The bytes of each region, as they lie in its files."""
        return [b"".join(one.extent_path(extent).read_bytes()[:one.extent_size * BLOCK]
                         for extent in range(one.extent_count)) for one in self.downstairs]

    def assert_equal(self):
        """All three hold the same; after an orderly stop."""
        first, *others = self.contents()
        for other in others:
            at = next((i for i in range(0, len(first), BLOCK) if first[i:i + BLOCK] != other[i:i + BLOCK]), None)
            assert at is None, f"the regions differ at {at}"

    def close(self):
        for one in self.downstairs:
            one.close()


def slots(gateway):
    return gateway.volume_status()["crucible"]["slots"]


def wait_for_slot(gateway, slot, *states, timeout=60):
    wait_until(lambda: slots(gateway)[slot]["state"] in states, f"slot {slot} {' or '.join(states)}", timeout)


def copy_in(gateway, path):
    run("nbdcopy", path, gateway.uri())


def copy_out(gateway, path):
    run("nbdcopy", gateway.uri(), path)
