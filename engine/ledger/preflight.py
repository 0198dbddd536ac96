"""The preflight of a folder: every act that a run will need there is tried before anything is embedded.

File systems differ in what they can do: exFAT has no hard links, a cloud mount cannot append, an NFS mount may refuse
locks. Found at the first shard, that would cost all the work until then. So the acts are done once with a small file
of the engine's own, by the same calls of `engine.ledger.durable` that the run makes, and what fails is named.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from engine.errors import SinkError
from engine.ledger import durable

_log = logging.getLogger("engine.preflight")

_BYTES = b"the engine tries what it will need here\n"
MIN_FREE_BYTES = 1 << 20
"""Less than that holds no shard at all."""


def check_ledger_folder(folder: Path, lock: Path, needed_bytes: int, name: str) -> None:
    """Try what a ledger needs: create, append, cut, fsync, replace by rename, lock, space.

    Args:
        folder: Where the ledger lies; the caller holds `lock`, which lies there too.
        lock: The lock file; a second opening of it must not get the lock.
        needed_bytes: Space that the run takes at once.
        name: Told apart from other runs' trials in the same folder.

    Raises:
        SinkError: something is missing; the sentence says what, and in which folder.
    """
    with _needs(folder, "keep a lock (flock)"):
        _require_exclusion(lock)
    with _Trial(folder, name) as trial:
        trial.write_and_cut()
        with _needs(folder, "replace a file by rename"):
            durable.replace_file(trial.path, _BYTES)
        trial.require(trial.path)
    _require_space(folder, needed_bytes)


def check_shards_folder(folder: Path, shard_bytes: int, name: str) -> None:
    """Try what shards need: create, fsync, a final name that never replaces, fsync of the folder, space.

    Args:
        shard_bytes: Size of a full shard; less space than two of them is worth a warning.
        name: See `check_ledger_folder`.

    Raises:
        SinkError: see `check_ledger_folder`.
    """
    check_final_names(folder, name)
    _require_file_size(folder, shard_bytes)
    free = _free_bytes(folder)
    if free is not None and free < 2 * shard_bytes:
        _log.warning(
            "little_space folder=%s free=%d MiB shard_bytes=%d MiB: a full device ends the run (exit 5), "
            "and nothing that is committed is lost",
            folder,
            free >> 20,
            shard_bytes >> 20,
        )


def check_final_names(folder: Path, name: str) -> None:
    """Try what files with final names need: create, fsync, a name that never replaces, fsync of the folder, space.

    Args:
        name: See `check_ledger_folder`.

    Raises:
        SinkError: see `check_ledger_folder`.
    """
    with _Trial(folder, name) as trial:
        trial.write_and_cut()
        with _needs(folder, "give a file a new name"):
            durable.name_new(trial.path, trial.named)
        trial.require(trial.named)
        with _needs(folder, "remove a file"):
            durable.unlink(trial.path)
        trial.write_and_cut()
        with _needs(folder, "refuse a name that is taken"):
            try:
                durable.name_new(trial.path, trial.named)
            except FileExistsError:
                pass
            else:
                raise OSError(0, "it gave the name a second time, so files could replace each other there")
        with _needs(folder, "fsync a folder"):
            durable.fsync_folder(folder)
    _require_space(folder, MIN_FREE_BYTES)


class _Trial:
    """The small file that things are tried with; what a killed start left of it goes first."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self.path = folder / f".{name}.preflight"
        self.named = folder / f".{name}.preflight-named"

    def __enter__(self) -> _Trial:
        self._clean()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._clean()
        except SinkError:
            if kind is None:
                raise  # otherwise the first refusal is the one to tell

    def _clean(self) -> None:
        with _needs(self._folder, "remove a file"):
            durable.unlink(self.path)
            durable.unlink(self.named)

    def write_and_cut(self) -> None:
        """Create, write, append, cut back, fsync, read."""
        with _needs(self._folder, "create a file"):
            fd = durable.create_exclusive(self.path)
        try:
            with _needs(self._folder, "write a file"):
                durable.write_all(fd, _BYTES)
            with _needs(self._folder, "fsync a file"):
                durable.fsync_file(fd)
            with _needs(self._folder, "append to a file and cut it back"):
                durable.write_all(fd, _BYTES)
                os.ftruncate(fd, len(_BYTES))
                durable.fsync_file(fd)
        finally:
            os.close(fd)
        self.require(self.path)

    def require(self, path: Path) -> None:
        """Make sure that the file holds what was written."""
        with _needs(self._folder, "read back what was written"):
            if path.read_bytes() != _BYTES:
                raise OSError(0, "it gave other bytes")


@contextlib.contextmanager
def _needs(folder: Path, act: str) -> Iterator[None]:
    """What the operating system says to an act becomes a sentence that names it."""
    try:
        yield
    except OSError as error:
        raise SinkError(
            f"the folder {folder} cannot do what is needed there: {act} ({error.strerror or error}); nothing was "
            "begun: name a folder on another file system, or mend this one"
        ) from error


def _require_exclusion(lock: Path) -> None:
    fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(fd)
    raise OSError(0, "two hold it at once, so two runs could write the same ledger")


def _free_bytes(folder: Path) -> int | None:
    """Space for this user; None where the file system does not count, as cloud mounts do not."""
    try:
        figures = os.statvfs(folder)
    except OSError:
        return None
    return figures.f_bavail * figures.f_frsize if figures.f_blocks else None


def _require_space(folder: Path, needed_bytes: int) -> None:
    free = _free_bytes(folder)
    if free is not None and free < needed_bytes:
        raise SinkError(
            f"the device of {folder} is full: {free >> 10:,} KiB are free, {needed_bytes >> 10:,} KiB are needed at "
            "least; free space, then run the same command again"
        )


def _require_file_size(folder: Path, shard_bytes: int) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit not in (resource.RLIM_INFINITY, -1) and limit < 2 * shard_bytes:
        raise SinkError(
            f"this process may write files of {limit >> 10:,} KiB at most, and a shard in {folder} may get as large as "
            f"{2 * shard_bytes >> 10:,} KiB: raise the limit (ulimit -f), or lower --shard-bytes"
        )
