"""The errors of the engine, by what the caller can do about them.

    EngineError
    |-- ConfigError            fix the command, the file or the environment          exit 2
    |   |-- FingerprintMismatch  the data set belongs to another vector space        exit 2
    |   `-- MarksRefused         documents of committed rows that cannot be marked   exit 2
    |-- SourceError            MongoDB does not answer, or not as it must            exit 6
    |-- ServersUnavailable     no healthy embedding server within the limit          exit 7
    |   `-- SeveralBackends      unlike backends answer behind one URL             exit 7
    |-- SinkError              an output device is full or failing                   exit 5
    |   |-- CommitFailed         nothing became durable; safe to redo                exit 5
    |   `-- CommitUnknown        it may have become durable; look before redoing     exit 5
    |-- DamageError            durable data is not what was written                  exit 4
    |-- LockHeld               another run owns the run folder or the collection     exit 11
    |-- WorkerDied             a child process ended when it should not have         exit 1
    `-- ProtocolError          our bug: a move that the protocol does not allow      exit 1

Errors of a single request to a server live in `gpu_clients.errors`: they decide about retries and never end a run.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Sequence


class Exit(enum.IntEnum):
    """Exit codes of every command; an unknown code means failure."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    QUARANTINED = 3
    VERIFICATION = 4
    OUTPUT_DEVICE = 5
    MONGODB = 6
    SERVERS = 7
    LIMIT = 8
    NO_OPERATING_POINT = 9
    LOCKED = 11
    SIGINT = 130
    SIGTERM = 143

    __str__ = int.__repr__  # as Python 3.11 and newer have it: 130, not Exit.SIGINT


class EngineError(Exception):
    """Root of the tree: one sentence that says what failed, which one, what was expected, what to do."""

    exit_code: Exit = Exit.UNEXPECTED


class ConfigError(EngineError):
    """The command, its configuration or its environment has to change."""

    exit_code = Exit.USAGE


class FingerprintMismatch(ConfigError):
    """The vectors asked for and the vectors already there are not in one vector space (G9)."""


_SHOWN_IDS = 10


class MarksRefused(ConfigError):
    """Some documents cannot take their mark; their rows are committed, and all others are marked.

    Attributes:
        why: What keeps them from it.
        ids: The `_id`s of the documents as text.
    """

    def __init__(self, why: str, ids: Sequence[str] = ()) -> None:
        shown = ", ".join(ids[:_SHOWN_IDS]) + (", ..." if len(ids) > _SHOWN_IDS else "")
        super().__init__(
            f"{why}: {len(ids):,} documents cannot be marked (_id {shown}), the others of their shards are, and every "
            "row is safe: let the collection take the field (its validator, a unique index) or mend these documents, "
            "then the same command marks them and goes on; or go on with --no-mark"
        )
        self.why = why
        self.ids = tuple(ids)


class SourceError(EngineError):
    """MongoDB is unavailable, or refuses, beyond the limit."""

    exit_code = Exit.MONGODB


class ServersUnavailable(EngineError):
    """No healthy embedding server beyond the limit."""

    exit_code = Exit.SERVERS


class SeveralBackends(ServersUnavailable):
    """Unlike backends answer behind one URL: what one of them gives says nothing of the next."""


class SinkError(EngineError):
    """An output device is full, failing or not writable."""

    exit_code = Exit.OUTPUT_DEVICE


class CommitFailed(SinkError):
    """A commit did not happen; nothing of it is durable, so it is safe to redo."""


class CommitUnknown(SinkError):
    """A commit may or may not be durable; read the ledger again before redoing."""


class DamageError(EngineError):
    """Durable data differs from what was written; nothing is guessed."""

    exit_code = Exit.VERIFICATION


class LockHeld(EngineError):
    """Another run owns this run folder, or marks the same documents."""

    exit_code = Exit.LOCKED


class WorkerDied(EngineError):
    """A child process ended when it should not have."""


class ProtocolError(EngineError):
    """A move that the protocol does not allow: a bug of ours, never the user's fault."""


_MEND = {
    errno.EMFILE: (EngineError, "raise the limit of open files (ulimit -n), then run the same command again"),
    errno.ENFILE: (EngineError, "the machine has no more open files to give: free some, then run the command again"),
    errno.ENOSPC: (SinkError, "free space, then run the same command again"),
    errno.EDQUOT: (SinkError, "free space, then run the same command again"),
    errno.EIO: (SinkError, "repair the device, then run the same command again"),
    errno.EROFS: (SinkError, "the device is mounted read-only: make it writable, or name another folder"),
    errno.EACCES: (ConfigError, "change its permissions, or run as its owner"),
    errno.EPERM: (ConfigError, "change its permissions, or run as its owner"),
    errno.ENOENT: (ConfigError, "check the name"),
    errno.ENOTDIR: (ConfigError, "check the name"),
    errno.EISDIR: (ConfigError, "check the name"),
}


def of_os_error(error: OSError) -> EngineError:
    """An error of ours for an OSError that nobody has translated; for the edge of the command line."""
    kind, mend = _MEND.get(error.errno or 0, (EngineError, "run again with --debug and report it"))
    what = f"cannot use {error.filename}" if error.filename else "the operating system refuses"
    return kind(f"{what} ({error.strerror or error}): {mend}")


BY_NAME: dict[str, type[EngineError]] = {
    kind.__name__: kind
    for kind in (
        ConfigError,
        FingerprintMismatch,
        SourceError,
        ServersUnavailable,
        SeveralBackends,
        SinkError,
        CommitFailed,
        CommitUnknown,
        DamageError,
        LockHeld,
        WorkerDied,
        ProtocolError,
    )
}
"""Name -> type, so that an error raised in a child keeps its exit code in the supervisor."""
