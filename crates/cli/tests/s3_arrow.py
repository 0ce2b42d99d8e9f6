"""What pyarrow sees of a node: a folder listed, a file read whole, by parts and as a stream, a write refused.

Arguments: the node's HOST:PORT. The keys come from the environment. Prints `done` when all holds.
"""

import hashlib
import sys

from pyarrow import fs

SIZES = {"b/big": 9 << 20, "b/train/a.jpg": 110_000, "b/train/b.jpg": 70_000, "b/val/c.jpg": 110_001}


def content(key, size):
    """As sandbox.rs makes it."""
    mask = (1 << 64) - 1
    state = 0x9E3779B97F4A7C15
    for byte in key.encode():
        state = ((state ^ byte) * 0x100000001B3) & mask
    out = bytearray()
    while len(out) < size:
        state ^= (state << 13) & mask
        state ^= state >> 7
        state ^= (state << 17) & mask
        out += state.to_bytes(8, "little")
    return bytes(out[:size])


node = fs.S3FileSystem(endpoint_override=sys.argv[1], scheme="http", region="us-east-1", background_writes=False)
found = node.get_file_info(fs.FileSelector("b", recursive=True))
files = {it.path: it.size for it in found if it.is_file}
assert files == SIZES, files
folders = {it.path for it in found if it.type == fs.FileType.Directory}
assert folders == {"b/train", "b/val"}, folders
train = node.get_file_info(fs.FileSelector("b/train"))
assert {it.base_name for it in train} == {"a.jpg", "b.jpg"}, train
assert node.get_file_info("b/train/none").type == fs.FileType.NotFound

for path, size in SIZES.items():
    expected = content(path.removeprefix("b/"), size)
    with node.open_input_stream(path) as stream:
        assert hashlib.sha256(stream.read()).digest() == hashlib.sha256(expected).digest(), path
    with node.open_input_file(path) as file:
        assert file.size() == size
        # In the middle, over the end of a page of the cache, and the last bytes.
        for start, length in [(1_000, 5_000), ((8 << 20) - 10, 20), (size - 7, 7)]:
            part = expected[start : start + length]
            assert file.read_at(len(part), start) == part if part else True, (path, start)

try:
    with node.open_output_stream("b/train/new") as stream:
        stream.write(b"x")
except (OSError, NotImplementedError):
    pass
else:
    raise AssertionError("a write was not refused")
print("done")
