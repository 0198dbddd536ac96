"""Durable I/O: every act that has to survive a power cut, and the fail points that prove it.

All durable I/O of the engine goes through this module, so that a test can fail, kill or delay its N-th call for
N = 1, 2, 3, ... until a run needs no more. The rules it keeps (docs/protocols/commit.md):

* a file is fsynced before it is named, and its folder after;
* a final name is taken by `link`, which never replaces an existing file; a file system without hard links (exFAT,
  many FUSE and cloud mounts) gets a rename that never replaces (`renameat2` with RENAME_NOREPLACE), which is as safe;
* where a folder cannot be fsynced (SMB shares), its whole file system is (`syncfs`);
* an error of `fsync` is final for that file: Linux may report success the next time although the pages are gone
  (Source: PostgreSQL, "PANIC on fsync() failure"), so nobody calls it twice;
* small files are replaced whole: temporary, fsync, rename, fsync of the folder.

Fail points come from `ENGINE_FAILPOINTS`: `[role/]name[#hit]=action` separated by `;`. Names are those passed to
`point()`, or `durable` for every durable call of the process. Actions: `kill` (SIGKILL to oneself), `kill_once:FILE`
(the same, unless FILE is there already; it is made first), `stop` (SIGSTOP), `sleep:SECONDS`,
`sleep_while:SECONDS:FILE` (only while FILE is there), `hold:FILE` (until FILE is gone), or an errno name such as
`ENOSPC`. Without that variable a point costs one comparison.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.telemetry.metrics import Stopwatch

FAILPOINTS_ENV = "ENGINE_FAILPOINTS"
TRACE_ENV = "ENGINE_DURABLE_TRACE"

fsyncs = Stopwatch()
"""Of the files of this process; the writer's lie on cold storage, the supervisor's on hot storage."""
writes = Stopwatch()
"""Likewise."""


@dataclass(slots=True, kw_only=True)
class _FailPoint:
    name: str
    hit: int  # fires at this visit; 0 fires at every visit
    action: str
    visits: int = 0


@dataclass(slots=True)
class _FailPoints:
    """The armed fail points of this process."""

    armed: list[_FailPoint] = field(default_factory=list)
    trace: str | None = None

    def visit(self, name: str) -> None:
        for fail in self.armed:
            if fail.name not in (name, "durable" if name.startswith("durable.") else name):
                continue
            fail.visits += 1
            if fail.hit in (0, fail.visits):
                _act(fail.action, name)
        if self.trace is not None and name.startswith("durable."):
            with open(self.trace, "a", encoding="utf-8") as out:
                out.write(f"{os.getpid()} {name}\n")


_points = _FailPoints()


def arm(role: str, spec: str | None = None) -> None:
    """Arm the fail points of `spec` (default: the environment) that are meant for `role` or for every role.

    Raises:
        ConfigError: the specification cannot be read.
    """
    text = os.environ.get(FAILPOINTS_ENV, "") if spec is None else spec
    _points.armed = []
    _points.trace = os.environ.get(TRACE_ENV)
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        target, equals, action = part.partition("=")
        if not equals or not action:
            raise ConfigError(f"{FAILPOINTS_ENV}: {part!r} is not of the form [role/]name[#hit]=action")
        owner, slash, name = target.rpartition("/")
        if slash and owner != role and not (owner == "client" and role.startswith("client")):
            continue
        name, _, hit = name.partition("#")
        _points.armed.append(_FailPoint(name=name, hit=int(hit or 1), action=action))


def point(name: str) -> None:
    """Mark a numbered step of a protocol; a test may have armed it."""
    if _points.armed or _points.trace is not None:
        _points.visit(name)


def _act(action: str, name: str) -> None:
    if action == "kill" or (action.startswith("kill_once:") and _is_first(Path(action[10:]))):
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # the signal is on its way; nothing after this line may run
    elif action.startswith("kill_once:"):
        return
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action.startswith("sleep:"):
        time.sleep(float(action[6:]))
    elif action.startswith("sleep_while:"):
        _, seconds, witness = action.split(":", 2)
        if Path(witness).exists():
            time.sleep(float(seconds))
    elif action.startswith("hold:"):
        while Path(action[5:]).exists():
            time.sleep(0.02)
    else:
        code = getattr(errno, action, None)
        if code is None:
            raise ConfigError(f"{FAILPOINTS_ENV}: {action!r} is neither kill, stop, sleep:SECONDS nor an errno name")
        raise OSError(code, f"{os.strerror(code)} (injected at {name})")


def _is_first(witness: Path) -> bool:
    try:
        os.close(os.open(witness, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    except FileExistsError:
        return False
    return True


def create_exclusive(path: Path, mode: int = 0o640) -> int:
    """Open a new file for writing and return its descriptor; it must not exist.

    Raises:
        FileExistsError: something of that name is there already.
    """
    point("durable.create")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`; a short write is continued, never ignored."""
    with writes:
        point("durable.write")
        view = memoryview(data).cast("B")
        while len(view):
            written = os.write(fd, view)
            view = view[written:]


def fsync_file(fd: int) -> None:
    """Make a file's bytes durable; after an error the file is lost and must be thrown away."""
    with fsyncs:
        point("durable.fsync_file")
        os.fsync(fd)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable, with the whole file system where a folder alone cannot be."""
    point("durable.fsync_folder")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            point("durable.fsync_folder_alone")
            os.fsync(fd)
        except OSError as error:
            if error.errno not in _NO_FOLDER_FSYNC:
                raise  # EIO among others: what was lost stays lost, and nobody may ask a second time
            _system_call("syncfs", fd)
    finally:
        os.close(fd)


def name_new(source: Path, target: Path) -> None:
    """Give `source` its final name; never replaces. It may keep its old name too, so the caller removes that.

    Raises:
        FileExistsError: the final name is taken: a second writer or a foreign file.
        OSError: the device refuses; EOPNOTSUPP when its file system knows neither of the two ways.
    """
    try:
        point("durable.link")
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_new(source, target)


_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
"""What `link` says where there are no hard links: EPERM on exFAT, vFAT and FUSE, the others elsewhere."""
_NO_RENAME = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
_NO_FOLDER_FSYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.EBADF, errno.EOPNOTSUPP, errno.ENOTSUP})


def _rename_new(source: Path, target: Path) -> None:
    point("durable.rename_new")
    try:
        _system_call("renameat2", _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise OSError(error.errno, error.strerror, str(target)) from error
        why = "the file system has neither hard links nor a rename that never replaces an existing file"
        raise OSError(errno.EOPNOTSUPP, why, str(target)) from error


def _system_call(name: str, *arguments: int | bytes) -> None:
    """A call of the C library that Python has no name for.

    Raises:
        OSError: it failed; ENOSYS when this C library does not have it.
    """
    function = _of_c_library(name)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@functools.cache
def _of_c_library(name: str) -> Callable[..., Any] | None:
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)


def unlink(path: Path) -> None:
    """Remove a name; its absence is not an error, because a crash may have come after the removal."""
    point("durable.unlink")
    path.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes | Iterable[bytes], mode: int = 0o640) -> None:
    """Replace a file as a whole: a reader sees the old or the new one, also after a power cut.

    Args:
        data: What it is to hold, or portions of that, of which one at a time is held in memory.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            for portion in (data,) if isinstance(data, bytes) else data:
                write_all(fd, portion)
            fsync_file(fd)
        finally:
            os.close(fd)
        point("durable.rename")
        temporary.replace(path)
    except BaseException:  # whoever makes the portions may fail in any way
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def make_folder(path: Path, mode: int = 0o750) -> None:
    """Create a folder and its missing parents; every new name is made durable in its parent."""
    missing = []
    step = path
    while not step.exists():
        missing.append(step)
        step = step.parent
    for folder in reversed(missing):
        folder.mkdir(mode=mode, exist_ok=True)
        fsync_folder(folder.parent)


class Reserve:
    """A pre-allocated file that is given up when the device is full."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(fd, 0, size_bytes)
        finally:
            os.close(fd)

    def release(self) -> None:
        """Give the space back."""
        self._path.unlink(missing_ok=True)
