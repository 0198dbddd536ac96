"""The ledger: an append-only file of framed records, and with MongoDB the only truth.

One record a line: `length crc json`, both numbers as eight hexadecimal digits, the CRC-32 over the JSON bytes. A
line can be read with `less`, and a reader finds the next record after damage by the line break.

A damaged *tail* is what a power cut during an append leaves: it is dropped (and cut off before the next append).
Damage with a sound record behind it cannot come from a torn append: it is an error, never skipped (exit 4).
Losing the tail is always safe: a COMMIT that is lost leaves a shard that recovery verifies and adopts, a MARKED
that is lost leaves marks that are set again.

Record types of a run: `RUN` (once: ledger id, fingerprint, schema), `EPOCH` (every start), `COMMIT` (a shard is
durable; of files as a source also which rows it holds), `MARKED` (its documents are marked), `FILES` (source files that
the run found), `ACCEPTED` (the user has agreed to servers with other vectors of the canary texts, with their cosine),
`STOP` (a clean end, with its exit code). A merge keeps a ledger of
its own beside its outputs, so that it may work while a run goes on.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import orjson

from engine.errors import CommitFailed, ConfigError, DamageError
from engine.ledger import durable

Record = dict[str, Any]
FORMAT = 1
"""Of the records; the first one of a ledger says which it has. Raised when older versions could no longer read them:
record types and fields that they do not know are left alone. Older formats must stay readable (tests/golden)."""
_FRAME_BYTES = 18  # two times eight hexadecimal digits, each followed by a blank


def frame(record: Record) -> bytes:
    """One record as the line that stands in the file."""
    body = orjson.dumps(record)
    return b"%08x %08x %b\n" % (len(body), zlib.crc32(body), body)


def _parse(line: bytes) -> Record | None:
    """The record of a line without its line break, or None when the line is damaged."""
    try:
        length, crc = int(line[:8], 16), int(line[9:17], 16)
    except ValueError:
        return None
    body = line[_FRAME_BYTES:]
    if len(body) != length or zlib.crc32(body) != crc or line[8:9] != b" " or line[17:18] != b" ":
        return None
    try:
        record = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def read_records(path: Path) -> tuple[list[Record], int]:
    """All sound records and the offset behind the last of them.

    Raises:
        ConfigError: a newer version wrote it, in a format that this one does not know.
        DamageError: a damaged record stands before a sound one.
    """
    records: list[Record] = []
    sound_end = 0
    damaged_at: int | None = None
    offset = 0
    for line, complete in _lines(path):
        record = _parse(line) if complete else None
        if record is None:
            damaged_at = offset if damaged_at is None else damaged_at
        elif damaged_at is not None:
            raise DamageError(
                f"the ledger {path} is damaged at byte {damaged_at}, with sound records behind it: "
                "restore it from a copy; nothing was changed"
            )
        else:
            _refuse_newer_format(path, record)
            records.append(record)
            sound_end = offset + len(line) + 1
        offset += len(line) + complete
    return records, sound_end


def each_record(path: Path) -> Iterator[Record]:
    """The records of a ledger one by one, as far as they are sound; for a ledger that `read_records` has read."""
    for line, complete in _lines(path):
        record = _parse(line) if complete else None
        if record is None:
            return
        yield record


def _refuse_newer_format(path: Path, record: Record) -> None:
    if record.get("format", 0) > FORMAT:
        raise ConfigError(
            f"the ledger {path} has format {record['format']}, this version knows {FORMAT}: use the newer version of "
            "engine that wrote it; nothing was changed"
        )


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Every line without its break, and whether the break was there."""
    with path.open("rb") as stream:
        for line in stream:
            yield (line[:-1], True) if line.endswith(b"\n") else (line, False)


class State(Protocol):
    """The state that a ledger's records amount to; it takes them in one by one."""

    def apply(self, record: Record) -> None:
        """Take one record in."""


StateT = TypeVar("StateT", bound=State)


class Ledger(Generic[StateT]):
    """An open ledger that can be appended to; one process at a time (the run folder's lock says which).

    Attributes:
        path: The file.
        state: What the records so far amount to.
    """

    def __init__(self, path: Path, state: StateT) -> None:
        """Open or create a ledger, cutting off a torn tail.

        Raises:
            ConfigError: a newer version wrote it.
            DamageError: damage that a torn append cannot explain.
            OSError: the file cannot be opened or made durable.
        """
        self.path = path
        self.state = state
        if path.exists():
            records, end = read_records(path)
            for record in records:
                self.state.apply(record)
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            if end != os.fstat(self._fd).st_size:
                os.ftruncate(self._fd, end)
                durable.fsync_file(self._fd)
            os.lseek(self._fd, end, os.SEEK_SET)
        else:
            self._fd = durable.create_exclusive(path)
            durable.fsync_file(self._fd)
            durable.fsync_folder(path.parent)
        self._end = os.lseek(self._fd, 0, os.SEEK_CUR)

    def append(self, record: Record) -> None:
        """Append one record and make it durable; only then the state knows it.

        Raises:
            CommitFailed: the record is not in the ledger (a part of it was cut off again).
        """
        data = frame(record)
        try:
            durable.write_all(self._fd, data)
            durable.fsync_file(self._fd)
        except OSError as error:
            self._cut_back()
            raise CommitFailed(
                f"cannot append to the ledger {self.path} ({error.strerror}): free space or repair the device, "
                "then run the same command again"
            ) from error
        if not os.fstat(self._fd).st_nlink:  # writing to a removed file works for as long as it is open
            raise CommitFailed(
                f"the ledger {self.path} was removed while it was in use: put it back from a copy; "
                "what it says until then counts"
            )
        self._end += len(data)
        self.state.apply(record)

    def _cut_back(self) -> None:
        """Take a part-written record off again; when even that fails, the next start drops the tail."""
        try:
            os.ftruncate(self._fd, self._end)
            os.lseek(self._fd, self._end, os.SEEK_SET)
        except OSError:
            pass

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


@dataclass(slots=True)
class RunState:
    """The state that the records of a run's ledger amount to.

    Attributes:
        run: The RUN record, or None in a new ledger.
        epoch: The last epoch, 0 before the first start.
        commits: COMMIT records by shard name, in commit order.
        marked: Names of shards whose documents are marked.
        positioned: Names of shards whose COMMIT says which rows of files they hold: what is done is known without them.
        rows: Rows in all committed shards.
        gone: Rows whose document had been deleted when it was to be marked.
        stop: The last STOP record since the last start, or None while running and after a crash.
        last_epoch_record: The last EPOCH record.
        files: The source files of a run that reads files, in the order of their numbers.
        accepted: ACCEPTED records, in their order.
    """

    run: Record | None = None
    epoch: int = 0
    commits: dict[str, Record] = field(default_factory=dict)
    marked: set[str] = field(default_factory=set)
    positioned: set[str] = field(default_factory=set)
    rows: int = 0
    gone: int = 0
    stop: Record | None = None
    last_epoch_record: Record | None = None
    files: list[Record] = field(default_factory=list)
    accepted: list[Record] = field(default_factory=list)

    def apply(self, record: Record) -> None:
        """Take one record in; types it does not know are left alone."""
        kind = record.get("type")
        if kind == "RUN":
            self.run = record
        elif kind == "EPOCH":
            self.epoch = int(record["epoch"])
            self.last_epoch_record = record
            self.stop = None
        elif kind == "COMMIT":
            self.commits[record["shard"]] = {name: value for name, value in record.items() if name != "positions"}
            self.rows += int(record["rows"])
            if record.get("positions") is not None:
                self.positioned.add(record["shard"])
        elif kind == "MARKED":
            self.marked.add(record["shard"])
            self.gone += int(record["gone"])
        elif kind == "FILES":
            self.files += record["files"]
        elif kind == "ACCEPTED":
            self.accepted.append(record)
        elif kind == "STOP":
            self.stop = record

    @classmethod
    def of(cls, path: Path) -> RunState:
        """The state that a ledger file amounts to, read without a lock; a torn tail is simply not yet there.

        Raises:
            ConfigError, DamageError: see `read_records`.
            OSError: the file cannot be read.
        """
        state = cls()
        for record in read_records(path)[0]:
            state.apply(record)
        return state

    def unmarked(self) -> list[Record]:
        """COMMIT records without a MARKED, in commit order."""
        return [commit for name, commit in self.commits.items() if name not in self.marked]
