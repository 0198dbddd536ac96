"""The folders of a run: what lies where, and the lock that says whose they are."""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError, LockHeld, SinkError
from engine.ledger import durable
from engine.objects.url import ColdUrl

LOCK_GRACE_S = 5.0
"""How long a start waits for the orphans of a killed supervisor; they end within 2 s (G6)."""

RESERVE_BYTES = 4 << 20
IN_PROGRESS = ".inprogress"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolders:
    """The paths of everything that a run keeps.

    Attributes:
        hot: `HOT/<database>.<collection>.<done-field>/`: lock, ledger, config, quarantine, status.
        cold: `COLD/<database>.<collection>/`; with a URL `cold/` in the run folder, where shards lie on their way.
        url: The store, when cold is one.
        namespace: `<database>.<collection>`, the prefix on the store.
    """

    hot: Path
    cold: Path
    url: ColdUrl | None = None
    namespace: str = ""

    @classmethod
    def of(cls, hot_dir: Path, cold_dir: Path | ColdUrl, database: str, collection: str, done_field: str) -> RunFolders:
        """The folders that belong to one collection and one done field."""
        hot = hot_dir / f"{database}.{collection}.{done_field}"
        if isinstance(cold_dir, ColdUrl):
            return cls(hot=hot, cold=hot / "cold", url=cold_dir, namespace=f"{database}.{collection}")
        return cls(hot=hot, cold=cold_dir / f"{database}.{collection}", namespace=f"{database}.{collection}")

    @property
    def shards(self) -> Path:
        """Committed shards, and the open one under `.inprogress`."""
        return self.cold / "shards"

    @property
    def where(self) -> str:
        """Where committed shards are, for a person: a path, or a URL."""
        return str(self.shards) if self.url is None else f"{self.url}/{self.namespace}/shards"

    @property
    def consolidated(self) -> Path:
        """What `engine merge` writes."""
        return self.cold / "consolidated"

    @property
    def ledger(self) -> Path:
        """The ledger."""
        return self.hot / "ledger"

    @property
    def lock(self) -> Path:
        """The lock file; the lock is the kernel's `flock`, the file only says whose it is."""
        return self.hot / "lock"

    @property
    def config(self) -> Path:
        """The resolved configuration, without secrets."""
        return self.hot / "config.toml"

    @property
    def quarantine(self) -> Path:
        """Documents that could not be embedded, one JSON object a line."""
        return self.hot / "quarantine.jsonl"

    @property
    def status(self) -> Path:
        """The live figures of a run, replaced about once a second."""
        return self.hot / "status.json"

    @property
    def history(self) -> Path:
        """The recording of what every run did and how fast (`engine.recording`)."""
        return self.hot / "history"

    @property
    def reserve(self) -> Path:
        """Space held back for a clean stop on a full device."""
        return self.hot / "reserve"

    def require_run(self) -> None:
        """Refuse a folder in which no run was ever started: a mistyped name must not look like an empty run.

        Raises:
            ConfigError: there is no ledger.
        """
        if not self.ledger.exists():
            raise ConfigError(
                f"no run in {self.hot}: check --hot-dir, --database, --collection, --done-field, or start `engine run`"
            )

    def make(self) -> None:
        """Create what is missing.

        Raises:
            SinkError: a folder cannot be created or written.
        """
        for folder in (self.hot, self.shards):
            try:
                durable.make_folder(folder)
            except OSError as error:
                raise SinkError(
                    f"cannot create the folder {folder} ({error.strerror}): name a writable --hot-dir and --cold-dir"
                ) from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise SinkError(f"the folder {folder} is not writable: change its permissions or name another one")


class RunLock:
    """The exclusive right to a run folder; the kernel gives it back when the last holder ends.

    The descriptor is handed to every child. So while an orphan of a killed supervisor still lives, nobody else can
    start a new epoch: an orphan can never write beside its successor.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            LockHeld: another run holds it and its supervisor lives.
            SinkError: the file system keeps no locks.
            OSError: the file cannot be opened.
        """
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        deadline = time.monotonic() + LOCK_GRACE_S
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = _owner(self.fd)
                if (owner is not None and _lives(owner)) or time.monotonic() > deadline:
                    os.close(self.fd)
                    raise LockHeld(
                        f"another run (process {owner or 'unknown'}) holds {path}: wait for it, stop it, "
                        "or run another collection"
                    ) from None
                time.sleep(0.05)
            except OSError as error:  # ENOLCK, ENOSYS, EOPNOTSUPP: NFS without its lock service, Lustre without flock
                os.close(self.fd)
                raise SinkError(
                    f"the file system of {path} keeps no locks ({error.strerror}), so two runs could write there at "
                    "once: name a --hot-dir on another one, or mount this one with locks"
                ) from error
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back."""
        os.ftruncate(self.fd, 0)
        os.close(self.fd)


def _owner(fd: int) -> int | None:
    text = os.pread(fd, 32, 0).split()
    return int(text[0]) if text and text[0].isdigit() else None


def _lives(pid: int) -> bool:
    """Whether a process runs; a zombie holds nothing any more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return not Path("/proc/self").exists() and _takes_signals(pid)
    return stat.rpartition(")")[2].split()[:1] not in (["Z"], ["X"])


def _takes_signals(pid: int) -> bool:
    """Whether there is such a process, asked without /proc; zombies count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def lock_owner(path: Path) -> int | None:
    """The process that holds a run folder's lock now, or None; never waits and takes nothing."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(fd) or 0
    finally:
        os.close(fd)
    return None


def check_folder_name(label: str, value: str) -> None:
    """Refuse a name that would leave its folder.

    Raises:
        ConfigError: empty, or with a path separator.
    """
    if not value or "/" in value or "\0" in value or value in (".", ".."):
        raise ConfigError(f"{label} is {value!r}; expected a plain name without '/'")
