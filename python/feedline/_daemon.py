"""Finds the daemon that serves a path, and talks to it: HTTP over its Unix socket.

A daemon registers in a run directory: one folder a mount, with ``mount.json`` and ``admin.sock`` in it.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import stat
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

#: The longest body that a daemon takes: 10 million positions fit.
BODY_BYTES_MAX = 128 << 20

#: The longest answer that is read: an answer is two numbers, or a sentence.
ANSWER_BYTES_MAX = 1 << 20


class HintError(RuntimeError):
    """A hint that was not taken; the message says why and what to do."""


class Daemon(NamedTuple):
    """A daemon that has registered, alive or not."""

    mountpoint: str
    sources: List[str]
    socket: str


class Mount(NamedTuple):
    """A Feedline mount as the kernel shows it to this process."""

    mountpoint: str
    #: What of it is visible here; a container may see a folder of it alone.
    root: str
    source: str


def default_run_dir() -> str:
    """Where this user's daemons register."""
    named = os.environ.get("FEEDLINE_RUN_DIR")
    if named:
        return named
    if os.getuid() == 0:
        return "/run/feedline"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(runtime, "feedline") if runtime else f"/tmp/feedline-{os.getuid()}"


def _refuse_planted(run_dir: str) -> None:
    """Where everybody may write, only a directory of one's own that is closed to others is believed."""
    above = os.stat(os.path.dirname(os.path.abspath(run_dir)))
    if not above.st_mode & stat.S_IWOTH:
        return
    found = os.lstat(run_dir)
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or mode != 0o700:
        raise HintError(f"{run_dir}: not a private directory of this user, in a place where everybody may write")


def daemons(run_dir: str) -> List[Daemon]:
    """Every daemon registered in ``run_dir``; none if it does not exist.

    Raises HintError if it is not safe, OSError if it cannot be read.
    """
    found = []
    try:
        names = os.listdir(run_dir)
        _refuse_planted(run_dir)
    except (FileNotFoundError, NotADirectoryError):
        return []
    for name in names:
        folder = os.path.join(run_dir, name)
        try:
            with open(os.path.join(folder, "mount.json"), "rb") as file:
                entry = json.load(file)
            mountpoint, sources = str(entry["mountpoint"]), [str(url) for url in entry["sources"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # It ends at this moment, or it is not one of ours.
        found.append(Daemon(mountpoint, sources, os.path.join(folder, "admin.sock")))
    return found


def below(path: str, root: str) -> Optional[str]:
    """What is left of ``path`` below ``root``: ``""`` if they are the same, None if it is elsewhere."""
    root = root.rstrip("/")
    if path == root or (path == "/" and not root):
        return ""
    return path[len(root) + 1 :] if path.startswith(root + "/") else None


def mount_of(path: str, mountinfo: str) -> Optional[Mount]:
    """The Feedline mount that ``path`` lies in, from the text of ``/proc/self/mountinfo``; None: another one."""
    best: Optional[Tuple[str, str, str, str]] = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(rest) < 2:
            continue
        root, mountpoint, source = (_unescape(text) for text in (fields[3], fields[4], rest[1]))
        # The last of those at one place covers the others.
        if below(path, mountpoint) is not None and (best is None or len(best[0]) <= len(mountpoint)):
            best = (mountpoint, root, source, rest[0])
    if best is None or best[3] != "fuse.feedline":
        return None
    return Mount(*best[:3])


def _unescape(text: str) -> str:
    """A field of mountinfo: space, tab, line feed and backslash are octal there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), text)


def find(path: str, run_dir: Optional[str] = None) -> Optional[Tuple[Daemon, str]]:
    """The daemon that serves ``path`` and the path relative to its mount; None if nobody does.

    Raises HintError if the path lies in a Feedline mount whose daemon cannot be found.
    """
    run_dir = run_dir or default_run_dir()
    known = daemons(run_dir)
    for absolute in (os.path.abspath(path), os.path.realpath(path)):
        holding = [(len(one.mountpoint), one) for one in known if below(absolute, one.mountpoint) is not None]
        if holding:
            daemon = max(holding)[1]
            return daemon, below(absolute, daemon.mountpoint) or ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mount = mount_of(os.path.realpath(path), file.read())
    except OSError:
        return None
    return None if mount is None else _in_container(os.path.realpath(path), mount, known, run_dir)


def _in_container(path: str, mount: Mount, known: List[Daemon], run_dir: str) -> Tuple[Daemon, str]:
    """The daemon of a mount that this process sees elsewhere than the daemon does: the one with its source."""
    same = [daemon for daemon in known if daemon.sources == [mount.source]]
    if len(same) != 1:
        raise HintError(
            f"{mount.mountpoint} is a Feedline mount, and its daemon is not in {run_dir}: it runs as another user or "
            "outside of this container; make its run directory visible here and name it with FEEDLINE_RUN_DIR"
        )
    parts = [mount.root.strip("/"), below(path, mount.mountpoint) or ""]
    return same[0], "/".join(part for part in parts if part)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("feedline", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def post(daemon: Daemon, endpoint: str, body: bytes, timeout_s: float) -> Dict[str, Any]:
    """Posts JSON and returns the answer's JSON. Raises HintError; waits ``timeout_s`` for each step at most."""
    if len(body) > BODY_BYTES_MAX:
        raise HintError(
            f"the order takes {len(body)} bytes, at most {BODY_BYTES_MAX}: send positions, or a part of the order"
        )
    connection = _UnixConnection(daemon.socket, timeout_s)
    try:
        connection.request("POST", endpoint, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read(ANSWER_BYTES_MAX)
    except PermissionError:
        raise HintError(f"the Feedline daemon of {daemon.mountpoint} belongs to another user") from None
    except (ConnectionRefusedError, FileNotFoundError):
        raise HintError(f"no Feedline daemon serves {daemon.mountpoint} any more") from None
    except (OSError, http.client.HTTPException) as error:
        raise HintError(f"the Feedline daemon of {daemon.mountpoint} did not answer: {error or type(error)}") from error
    finally:
        connection.close()
    try:
        value = json.loads(answer)
        if not isinstance(value, dict):
            raise ValueError("no object")
    except ValueError as error:
        hint = "; is it older than this package?" if response.status == 404 else ""
        raise HintError(f"the Feedline daemon answered with status {response.status}, and no JSON{hint}") from error
    if response.status != 200:
        raise HintError(str(value.get("message", f"status {response.status}")))
    return value
