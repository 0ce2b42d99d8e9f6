#!/usr/bin/env python3
"""Records in which order real DALI reads a data set, for crates/oracle/tests/golden/dali.txt.

The committed file was made by DALI 2.4.0 (nvidia-dali-cuda130) under Python 3.11, without a GPU:

    python3 -m venv /tmp/venv-dali
    /tmp/venv-dali/bin/pip install --no-deps nvidia-dali-cuda130==2.4.0 'nvidia-nvimgcodec-cu13>=0.9,<0.10' \\
        numpy optree typing_extensions astunparse gast six packaging
    /tmp/venv-dali/bin/python scripts/record_orders_dali.py > crates/oracle/tests/golden/dali.txt

Each file of the data set holds its own position in the sorted listing, and the reader's sample buffer holds
one sample (initial_fill=1), so that the samples come out in the order in which the files are read.

One line per run: mode, files, shards, shard, opens, a 64-bit FNV-1a hash over all positions (little-endian
u32), and after a colon the first positions.
"""

import os
import sys
import tempfile

import numpy as np
from nvidia.dali import fn, pipeline_def

FIRST = 160

MODES = {
    "shuffled": {"random_shuffle": True},
    "shuffled-stick": {"random_shuffle": True, "stick_to_shard": True},
    "sequential": {},
    "sequential-stick": {"stick_to_shard": True},
    "after-epoch": {"shuffle_after_epoch": True},
    "after-epoch-checkpointing": {"shuffle_after_epoch": True},
}


def make(root, files):
    """Writes a data set of folders of 10 files, each holding its own position."""
    for position in range(files):
        folder = os.path.join(root, f"class{position // 10:05d}")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, f"image{position:06d}.jpg"), "wb") as file:
            file.write(position.to_bytes(4, "little"))


def read(root, mode, shards, shard, opens):
    """The positions in the order one pipeline reads them."""

    @pipeline_def(
        batch_size=1, num_threads=1, device_id=None, seed=7,
        enable_checkpointing=mode.endswith("checkpointing"),
    )
    def pipeline():
        files, _ = fn.readers.file(
            file_root=root, initial_fill=1, num_shards=shards, shard_id=shard, device="cpu",
            name="reader", **MODES[mode],
        )
        return files

    pipe = pipeline()
    pipe.build()
    positions = []
    for _ in range(opens):
        (sample,) = pipe.run()
        positions.append(int.from_bytes(np.array(sample.at(0)).tobytes(), "little"))
    return positions


def fnv(positions):
    """64-bit FNV-1a over little-endian 32-bit numbers."""
    value = 0xCBF29CE484222325
    for position in positions:
        for byte in position.to_bytes(4, "little"):
            value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def main():
    for files in (10, 97, 1000, 6000):
        with tempfile.TemporaryDirectory() as root:
            make(root, files)
            for mode in MODES:
                for shards, shard in ((1, 0), (3, 0), (3, 2), (8, 5)):
                    opens = files * 7 // 2 if shards == 1 else files * 7 // (2 * shards) + 20
                    positions = read(root, mode, shards, shard, opens)
                    first = " ".join(map(str, positions[:FIRST]))
                    print(mode, files, shards, shard, opens, f"{fnv(positions):016x}:", first)
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
