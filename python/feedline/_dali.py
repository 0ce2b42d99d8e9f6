"""The order of a DALI file reader that was given a list of files.

DALI's own listing of ``file_root`` needs no hint: the daemon recognises it, shuffled or not, and its shards. A list is
in an order of its own; shuffled, it is shuffled as DALI does with everything: libstdc++'s ``std::shuffle`` with a
constant seed.
"""

from __future__ import annotations

import os
import random
import re
from typing import Any, Iterable, List, Optional

from ._daemon import HintError
from ._hint import Outcome, PathLike, common_folder, harmless, hint

#: The constant that DALI seeds its generator with.
DALI_SEED = 524_287

_WORD = 0xFFFF_FFFF


def dali_hint(
    file_root: Optional[PathLike] = None,
    *,
    files: Optional[Iterable[PathLike]] = None,
    file_list: Optional[PathLike] = None,
    random_shuffle: bool = False,
    shuffle_after_epoch: bool = False,
    shard_id: int = 0,
    num_shards: int = 1,
    stick_to_shard: bool = False,
    strict: bool = False,
    run_dir: Optional[str] = None,
) -> Outcome:
    """Tells the order in which ``fn.readers.file`` with the same arguments reads.

    Call it once before the pipeline is built, in each process. Without ``files`` and ``file_list`` nothing is sent,
    because nothing is needed: the daemon recognises DALI's order of ``file_root`` by itself. With
    ``shuffle_after_epoch`` nothing is sent either: that order is another one in each epoch. The outcome's message says so.

    Trouble is logged once; ``strict`` raises HintError instead. Cost: about two seconds for a million files, shuffled.
    """
    root = os.fsdecode(os.fspath(file_root)) if file_root is not None else ""

    def send() -> Outcome:
        if files is None and file_list is None:
            return Outcome(False, message="nothing is needed: DALI's order of a folder is recognised by itself")
        if files is not None and file_list is not None:
            raise HintError("give files or file_list, not both")
        if shuffle_after_epoch:
            return Outcome(False, message="nothing was sent: with shuffle_after_epoch each epoch has another order")
        if not 0 <= shard_id < num_shards:
            raise HintError(f"shard_id {shard_id} is not below num_shards {num_shards}")
        folder, order = root, list(files) if files is not None else _listed(file_list)
        if file_list is not None and not folder:
            folder = os.path.dirname(os.fsdecode(os.fspath(file_list))) or "."
        if not order:
            raise HintError("the list of files is empty")
        if not folder:
            folder = common_folder(order)
        if random_shuffle:
            std_shuffle(order, DALI_SEED)
        order = _of_shard(order, shard_id, num_shards, stick_to_shard)
        return hint(folder, files=order, strict=strict, run_dir=run_dir)

    return harmless(root or "a DALI reader", strict, send)


def _listed(file_list: Any) -> List[str]:
    """The files of a list in DALI's format: a path and a label a line."""
    with open(file_list, encoding="utf-8", errors="surrogateescape") as file:
        lines = (line.strip() for line in file)
        return [re.sub(r"\s+-?\d+$", "", line) for line in lines if line]


def _of_shard(order: List[Any], shard: int, shards: int, sticks: bool) -> List[Any]:
    """What the process of a shard reads: its part, and in the next epoch the next shard's, unless it sticks to it."""
    begin, end = len(order) * shard // shards, len(order) * (shard + 1) // shards
    return order[begin:end] if sticks else order[begin:] + order[:begin]


def std_shuffle(items: List[Any], seed: int) -> None:
    """Shuffles in place as libstdc++'s ``std::shuffle`` does with ``std::mt19937(seed)``."""
    draw = _mt19937(seed)

    def below(limit: int) -> int:
        # Lemire's bounded draw.
        product = draw(32) * limit
        if product & _WORD < limit:
            threshold = (2**32 - limit) % limit
            while product & _WORD < threshold:
                product = draw(32) * limit
        return product >> 32

    count = len(items)
    if not count:
        return
    if _WORD // count < count:
        for index in range(1, count):
            other = below(index + 1)
            items[index], items[other] = items[other], items[index]
        return
    # Two places from one draw while the square of the range fits the generator.
    index = 1
    if count % 2 == 0:
        other = below(2)
        items[1], items[other] = items[other], items[1]
        index = 2
    while index < count:
        first, second = divmod(below((index + 1) * (index + 2)), index + 2)
        items[index], items[first] = items[first], items[index]
        items[index + 1], items[second] = items[second], items[index + 1]
        index += 2


def _mt19937(seed: int) -> Any:
    """Python's own generator in the state of ``std::mt19937(seed)``: Python seeds it in another way."""
    state = [seed & _WORD]
    for index in range(1, 624):
        state.append((1_812_433_253 * (state[-1] ^ (state[-1] >> 30)) + index) & _WORD)
    generator = random.Random()
    generator.setstate((3, (*state, 624), None))
    return generator.getrandbits
