#!/usr/bin/python3
"""How fast `tb4 volume import` fills a Crucible volume from an image, beside sequential writes of the same bytes through the
gateway: fio, 1 MiB, depth 4. Three real crucible-downstairs on tmpfs, fresh regions for every run, as a first write costs more.

    bench-import.py [--rounds N] [--size GIB] [--data PERCENT]

The image has data in so much of it, in pieces of 16 MiB; the rest are holes. Needs about four times that of memory, for
the image and three regions. Gate: 0.7 of the rate of fio, by the bytes of data. Exit status 1 if it does not hold.
"""
import argparse
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.downstairs import UPSTREAM  # noqa: E402
from support.node import Node  # noqa: E402
from support.volume import BLOCK, MIB, Volume  # noqa: E402

PIECE, EXTENT_SIZE, GATE = 16 * MIB, 16384, 0.7


def make_image(path, size, percent):
    """Returns how much of it is data."""
    dice, count = random.Random(1), size // PIECE
    chosen = sorted(dice.sample(range(count), count * percent // 100))
    block = dice.randbytes(MIB)
    with open(path, "wb") as file:
        file.truncate(size)
        for piece in chosen:
            file.seek(piece * PIECE)
            for _ in range(PIECE // MIB):
                block = block[4096:] + dice.randbytes(4096)
                file.write(block)
    return len(chosen) * PIECE


class Run:
    """A fresh volume on three fresh regions."""

    def __init__(self, directory, size):
        self.directory = directory
        directory.mkdir()
        self.volume = Volume(directory, "upstream", extents=size // (EXTENT_SIZE * BLOCK), extent_size=EXTENT_SIZE)
        (directory / "node").mkdir()
        self.node = Node(directory / "node")
        self.node.tb4("volume", "create", 200, size, "--backend", "crucible", *self.volume.target_options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.node.close()
        self.volume.close()
        shutil.rmtree(self.directory)


def import_seconds(run, image):
    began = time.monotonic()
    run.node.tb4("volume", "import", "200", image)
    return time.monotonic() - began


def fio_seconds(run, data):
    gateway = run.node.start()
    began = time.monotonic()
    subprocess.run(["fio", "--name=fill", "--ioengine=nbd", f"--uri={gateway.uri('vm-200-disk-0')}", "--rw=write", "--bs=1M",
                    "--iodepth=4", f"--size={data}", "--end_fsync=1", "--refill_buffers"], check=True, capture_output=True)
    seconds = time.monotonic() - began
    gateway.stop()
    return seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=10)
    parser.add_argument("--data", type=int, default=25)
    options = parser.parse_args()
    if not UPSTREAM:
        sys.exit("not installed: crucible-downstairs")
    size = options.size << 30
    directory = Path(tempfile.mkdtemp(prefix="tb4-bench-", dir="/dev/shm"))
    seconds = {"raw": [], "qcow2": [], "fio": []}
    try:
        data = make_image(directory / "raw", size, options.data)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", directory / "raw", directory / "qcow2"], check=True)
        for number in range(options.rounds):
            for name, runs in seconds.items():
                with Run(directory / f"{name}-{number}", size) as run:
                    runs.append(fio_seconds(run, data) if name == "fio" else import_seconds(run, directory / name))
    finally:
        shutil.rmtree(directory)
    rates = {name: data / MIB / statistics.median(runs) for name, runs in seconds.items()}
    print(f"{options.size} GiB, {data >> 20} MiB of them data:")
    for name, rate in rates.items():
        print(f"  {name}: {rate:.0f} MiB/s ({', '.join(f'{run:.1f}' for run in seconds[name])} s)")
    good = True
    for name in ("raw", "qcow2"):
        ratio = rates[name] / rates["fio"]
        good = good and ratio >= GATE
        print(f"{'ok  ' if ratio >= GATE else 'MISS'} {name} / fio: {ratio:.2f} (at least {GATE})")
    return 0 if good else 1


sys.exit(main())
