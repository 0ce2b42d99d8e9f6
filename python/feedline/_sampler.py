"""A wrapper of a torch sampler that tells the mount the order of each epoch. Needs no torch itself."""

from __future__ import annotations

import bisect
import itertools
import os
from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple

from ._daemon import HintError, find
from ._hint import Outcome, common_folder, harmless, hint, warn_once

#: Indices drawn ahead for each file of the data set: a sampler without an end must not hang.
DRAWN_PER_FILE_MAX = 4

#: Indices drawn ahead for any data set. Both limits are the daemon's.
DRAWN_ANY = 65_536

#: How many files, and the paths of those at some indices.
_Files = Tuple[int, Callable[[Iterable[int]], List[Any]]]


class Sampler:
    """Yields exactly what ``sampler`` yields, and tells the order to the Feedline mount that holds the files::

        sampler = feedline.Sampler(RandomSampler(ds), ds)
        loader = DataLoader(ds, batch_size=256, sampler=sampler, num_workers=8)

    ``dataset_or_paths`` says which file an index means: a list of paths, or a data set with ``samples``, ``imgs``,
    ``paths`` or ``files`` (``ImageFolder`` and the like; also ``Subset`` and ``ConcatDataset`` of them). ``root`` is the
    data set's folder; by default the data set's own ``root``, else the deepest folder that holds all files.

    Each ``iter()`` draws the whole order from ``sampler`` once, sends it, and yields it: with ``DistributedSampler`` each
    rank its own part, with a batch sampler its batches. ``len()``, ``set_epoch()`` and every other attribute are those
    of ``sampler``. It is iterated in the main process, so the number of DataLoader workers does not matter.

    On files that are in no Feedline mount, nothing is drawn ahead and nothing is sent. Trouble is logged once, and the
    indices are yielded all the same; ``strict`` raises HintError instead.

    Cost of each ``iter()`` for a million files: 8 bytes an index beyond the numbers themselves until the epoch ends;
    while it is sent, about three seconds and 150 bytes a file.
    """

    def __init__(
        self,
        sampler: Any,
        dataset_or_paths: Any,
        root: Optional[Any] = None,
        *,
        strict: bool = False,
        run_dir: Optional[str] = None,
    ) -> None:
        own = self.__dict__
        own["_sampler"], own["_dataset"], own["_root"] = sampler, dataset_or_paths, root
        own["_strict"], own["_run_dir"], own["last_hint"] = strict, run_dir, None

    def __iter__(self) -> Iterator[Any]:
        name = str(self._root or repr(self))
        outcome = harmless(name, self._strict, self._locate)
        drawn: List[Any] = []
        drawing = iter(self._sampler)
        if outcome:
            count, _ = _files_of(self._dataset)
            drawn.extend(itertools.islice(drawing, max(DRAWN_ANY, DRAWN_PER_FILE_MAX * count)))
            outcome = harmless(name, self._strict, lambda: self._send(drawn))
        self.__dict__["last_hint"] = outcome
        return itertools.chain(drawn, drawing)

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        # Found on the wrapped sampler; what belongs to an object itself (copying, pickling) is not.
        if name.startswith("__") or "_sampler" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["_sampler"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_sampler"], name, value)

    def __repr__(self) -> str:
        return f"feedline.Sampler({self._sampler!r})"

    def _locate(self) -> Outcome:
        """Whether a daemon serves the files."""
        root = self._root or getattr(_innermost(self._dataset), "root", None)
        if root is None:
            count, paths_of = _files_of(self._dataset)
            root = common_folder(paths_of(range(count)))
        root = os.fsdecode(os.fspath(root))
        self.__dict__["_root"] = root
        if find(root, self._run_dir) is not None:
            return Outcome(True)
        message = f"{root} is in no folder that Feedline has mounted"
        if self._strict:
            raise HintError(message)
        return Outcome(False, message=message)

    def _send(self, drawn: List[Any]) -> Outcome:
        root = str(self._root)
        count, paths_of = _files_of(self._dataset)
        indices = _flat(drawn)
        files = paths_of([index for index in indices if 0 <= index < count])
        outside = len(indices) - len(files)
        if outside:
            message = f"{outside} of {len(indices)} indices of the sampler are outside of the {count} files of {root}"
            if not files:
                raise HintError(message)
            warn_once(root, "outside", message)
        return hint(root, files=files, strict=self._strict, run_dir=self._run_dir)


def _flat(drawn: List[Any]) -> List[Any]:
    """The indices one by one, whether they were drawn so or in batches."""
    if not any(issubclass(kind, (list, tuple)) for kind in set(map(type, drawn))):
        return drawn
    return [index for batch in drawn for index in (batch if isinstance(batch, (list, tuple)) else [batch])]


def _innermost(dataset: Any) -> Any:
    """The data set that a ``Subset`` is a part of."""
    while hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        dataset = dataset.dataset
    return dataset


def _files_of(dataset: Any) -> _Files:
    """The files of a data set by index, without copying them."""
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        _, inner = _files_of(dataset.dataset)
        places = dataset.indices
        return len(places), lambda indices: inner([places[index] for index in indices])
    if hasattr(dataset, "datasets") and hasattr(dataset, "cumulative_sizes"):
        parts = [_files_of(part)[1] for part in dataset.datasets]
        ends = list(dataset.cumulative_sizes)

        def of_part(index: int) -> Any:
            part = bisect.bisect_right(ends, index)
            return parts[part]([index - (ends[part - 1] if part else 0)])[0]

        return (ends[-1] if ends else 0), lambda indices: [of_part(index) for index in indices]
    for name in ("samples", "imgs", "paths", "files"):
        listed = getattr(dataset, name, None)
        if listed is not None and hasattr(listed, "__getitem__"):
            return len(listed), lambda indices: _paths(listed, indices)
    if isinstance(dataset, (list, tuple)):
        return len(dataset), lambda indices: _paths(dataset, indices)
    raise HintError(
        f"{type(dataset).__name__} has none of samples, imgs, paths and files: give the list of its paths, in its order"
    )


def _paths(listed: Any, indices: Iterable[int]) -> List[Any]:
    """The paths of samples: each is one, or (path, class)."""
    samples = [listed[index] for index in indices]
    return [sample[0] if isinstance(sample, (list, tuple)) else sample for sample in samples]
