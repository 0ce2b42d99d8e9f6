"""One hint: an order of files, positions or seeds, made into a request and sent."""

from __future__ import annotations

import json
import logging
import operator
import os
from dataclasses import dataclass
from typing import Any, Callable, Iterable, List, Optional, Set, Tuple, Union

from ._daemon import HintError, find, post

#: Anything that names a file.
PathLike = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

#: How long a step of a hint may take: the daemon lists what it has not listed yet.
TIMEOUT_S = 60.0

_log = logging.getLogger("feedline")

#: What was warned of. A few kinds for a few folders.
_warned: Set[Tuple[str, str]] = set()


@dataclass(frozen=True)
class Outcome:
    """What became of a hint. True if it was taken."""

    #: A daemon took it.
    sent: bool
    #: Files of the data set.
    files: int = 0
    #: Entries that name one of them; the others are ignored.
    matched: int = 0
    #: What else is to be said: why nothing was sent, or what was ignored.
    message: str = ""

    def __bool__(self) -> bool:
        return self.sent


def warn_once(root: str, kind: str, message: str) -> None:
    """Logs a warning, once for a folder and a kind of trouble."""
    if (root, kind) not in _warned:
        _warned.add((root, kind))
        _log.warning("%s", message)


def harmless(root: str, strict: bool, work: Callable[[], Outcome]) -> Outcome:
    """Runs ``work``; whatever it raises is logged once instead, unless ``strict``."""
    try:
        return work()
    except Exception as error:  # A training loop must not end because of a hint.
        if strict:
            raise error if isinstance(error, HintError) else HintError(f"{type(error).__name__}: {error}") from error
        message = f"no hint for {root}: {error or type(error).__name__}"
        warn_once(root, type(error).__name__, message)
        return Outcome(False, message=message)


def hint(
    path: PathLike,
    files: Optional[Iterable[PathLike]] = None,
    positions: Optional[Iterable[Any]] = None,
    torch_seeds: Optional[Iterable[int]] = None,
    *,
    strict: bool = False,
    run_dir: Optional[str] = None,
) -> Outcome:
    """Tells the daemon in which order the files below ``path`` will be read.

    Exactly one of:

    - ``files``: their paths, below ``path`` or beginning with it, in the order in which they will be read;
    - ``positions``: their places from 0 in the sorted list of the data set's files (class folders sorted, names
      sorted in each), as ``ImageFolder`` and DALI number them;
    - ``torch_seeds``: seeds of ``torch.randperm``, one an epoch.

    Entries that name no file are ignored and counted. Nothing happens if ``path`` is in no Feedline mount. Nothing is
    raised unless ``strict``: trouble is logged once. ``run_dir`` is where daemons registered, if not where they do by
    default.

    Cost for a million files: one or two seconds, and 150 bytes a file while it is sent (positions: 50).
    """
    root = _text(path)

    def send() -> Outcome:
        given = {"files": files, "positions": positions, "torch_seeds": torch_seeds}
        chosen = [name for name, value in given.items() if value is not None]
        if len(chosen) != 1:
            raise HintError(f"give exactly one of files, positions and torch_seeds, not {chosen or 'none'}")
        found = find(root, run_dir)
        if found is None:
            message = f"{root} is in no folder that Feedline has mounted"
            if strict:
                raise HintError(message)
            return Outcome(False, message=message)
        entries, ignored = _entries(chosen[0], given[chosen[0]], root)
        if not entries:
            raise HintError(f"no entry of the order can name a file ({ignored} cannot)")
        daemon, below = found
        body = json.dumps({"path": below, "from": os.getpid(), "order": {chosen[0]: entries}}, ensure_ascii=False, separators=(",", ":"))
        given_count = len(entries) + ignored
        del entries
        answer = post(daemon, "/v1/hint", body.encode(), TIMEOUT_S)
        files_known, matched = answer.get("files"), answer.get("matched")
        if not isinstance(files_known, int) or not isinstance(matched, int):
            raise HintError(f"the answer of the Feedline daemon of {daemon.mountpoint} makes no sense")
        taken = Outcome(True, files_known, matched)
        if taken.matched == given_count:
            return taken
        message = f"{given_count - taken.matched} of {given_count} entries of the order name no file below {root}"
        warn_once(root, "ignored", message)
        return Outcome(True, taken.files, taken.matched, message)

    return harmless(root, strict, send)


def _text(path: PathLike) -> str:
    return os.fsdecode(os.fspath(path))


def _entries(kind: str, given: Any, root: str) -> Tuple[List[Any], int]:
    """What is sent of an order, and how many entries were left out because they cannot name anything."""
    if kind == "files":
        if isinstance(given, (str, bytes)):
            raise HintError("files is one path: give a list")
        return _relative(given, root)
    numbers = given.tolist() if hasattr(given, "tolist") else given
    numbers = list(map(int, map(operator.index, numbers)))
    largest = 2**32 if kind == "positions" else 2**64
    valid = [number for number in numbers if 0 <= number < largest]
    return valid, len(numbers) - len(valid)


def _relative(files: Iterable[PathLike], root: str) -> Tuple[List[str], int]:
    """Paths below ``root``, however they begin; those that are not UTF-8, as every name in a bucket is, are left out."""
    usual = root.rstrip("/") + "/"
    length = len(usual)
    others = [one.rstrip("/") + "/" for one in (os.path.abspath(root), os.path.realpath(root))]

    def unusual(path: PathLike) -> str:
        text = _text(path)
        for prefix in (usual, *others, "./"):
            if text.startswith(prefix):
                return text[len(prefix) :]
        return text

    paths = [path[length:] if type(path) is str and path.startswith(usual) else unusual(path) for path in files]
    if _is_utf8("".join(paths)):
        return paths, 0
    valid = [path for path in paths if _is_utf8(path)]
    return valid, len(paths) - len(valid)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def common_folder(paths: Iterable[PathLike]) -> str:
    """The deepest folder that holds all of ``paths``. Cost: one pass."""
    first = last = ""
    for index, path in enumerate(paths):
        text = path if type(path) is str else _text(path)
        if index == 0:
            first = last = text
        elif text < first:
            first = text
        elif text > last:
            last = text
    if first == last:
        return os.path.dirname(first)
    return os.path.dirname(os.path.commonprefix([first, last]) + "x")
