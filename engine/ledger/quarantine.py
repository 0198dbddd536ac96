"""The quarantine: documents that could not be embedded, one JSON object a line, never marked, never lost.

An `_id` stands there as people write it: a number, a string, and any other type as extended JSON (`{"$oid": "..."}`).
A collection may hold any number of documents without a text: what is remembered of them lies on disk (`KeyTable`).
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from engine.errors import DamageError, SinkError
from engine.ledger import durable
from engine.ledger.key_table import KeyTable, digest_of

_PORTION_BYTES = 256 << 10


class Quarantine:
    """The quarantine file of a run.

    Attributes:
        count: Documents in it.
        reasons: How many of them are there why.
        added: Those that came since it was opened, by reason.
    """

    def __init__(self, path: Path, name_of: Callable[[str], Any] | None = None) -> None:
        """Open or create it; a torn last line (power cut) is cut off, its document will be read again.

        Args:
            name_of: What the file calls a document, by the id that the stages know it by; None for the id itself.
        """
        self._path = path
        self._name_of = name_of or _plain_id
        self._known = KeyTable(path.parent)
        self.reasons: Counter[str] = Counter()
        self.added: Counter[str] = Counter()
        end = 0
        if path.exists():
            for entry, offset in _entries(path):
                self._known.put(_digest(entry), 1)
                self.reasons[entry["reason"]] += 1
                end = offset
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        os.ftruncate(self._fd, end)
        os.lseek(self._fd, end, os.SEEK_SET)
        self._dirty = False

    @property
    def count(self) -> int:
        """Documents in quarantine."""
        return len(self._known)

    def add(self, entries: Iterable[dict[str, Any]]) -> int:
        """Append entries (`engine.records.Quarantined` as dicts); returns how many are new.

        Raises:
            SinkError: the device is full or failing.
        """
        added = 0
        lines = []
        for entry in entries:
            line = {"_id": self._name_of(entry["id"]), **{name: value for name, value in entry.items() if name != "id"}}
            digest = _digest(line)
            if self._known.get(digest):
                continue
            self._known.put(digest, 1)
            if line.get("text") is None:
                line.pop("text", None)
            lines.append(orjson.dumps(line) + b"\n")
            added += 1
            self.reasons[line["reason"]] += 1
            self.added[line["reason"]] += 1
        if lines:
            self._dirty = True
            with self._device():
                durable.write_all(self._fd, b"".join(lines))
        return added

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._fd).st_size

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Whole lines from an offset on, about so many bytes; nothing at the end."""
        with self._path.open("rb") as stream:
            stream.seek(offset)
            return b"".join(stream.readlines(n_bytes))

    def sync(self) -> None:
        """Make it durable; called before a COMMIT and at the end."""
        if self._dirty:
            with self._device():
                durable.fsync_file(self._fd)
            self._dirty = False

    @contextlib.contextmanager
    def _device(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SinkError(
                f"cannot write the quarantine file {self._path} ({error.strerror}): free space on --hot-dir, then run "
                "the same command again; a torn last line is cut off then"
            ) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
        self._known.close()


def id_text(entry: dict[str, Any]) -> str:
    """The `_id` of an entry of the file as compact JSON: what tells it from all others."""
    return orjson.dumps(entry["_id"]).decode()


def _digest(entry: dict[str, Any]) -> bytes:
    return digest_of(orjson.dumps(entry["_id"]))


def _plain_id(identity: str) -> Any:
    """The value that stands in the file for an `_id` in canonical extended JSON; one that was cut stays a text."""
    try:
        value = orjson.loads(identity)
    except orjson.JSONDecodeError:
        return identity
    if isinstance(value, dict) and value.keys() & {"$numberInt", "$numberLong"}:
        return int(next(iter(value.values())))
    return value


def read_quarantine(path: Path) -> list[dict[str, Any]]:
    """All entries of a quarantine file, oldest first; none when there is no file."""
    return list(each_entry(path))


def each_entry(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a quarantine file one by one, oldest first; none when there is no file."""
    if path.exists():
        for entry, _ in _entries(path):
            yield entry


def _entries(path: Path) -> Iterable[tuple[dict[str, Any], int]]:
    """Every whole entry with the offset behind it."""
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            offset += len(line)
            if not line.endswith(b"\n"):
                return
            try:
                entry = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise DamageError(
                    f"the quarantine file {path} is damaged before byte {offset}: repair or remove that line"
                ) from error
            yield entry, offset


def replace_quarantine(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write the file anew with `entries` only (what `engine quarantine retry` leaves); few are in memory at a time.

    The caller holds the run's lock, so a temporary of somebody else's is one that was killed.
    """
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        durable.unlink(left)
    durable.replace_file(path, _portions(entries))


def _portions(entries: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    portion = bytearray()
    for entry in entries:
        portion += orjson.dumps(entry) + b"\n"
        if len(portion) >= _PORTION_BYTES:
            yield bytes(portion)
            portion.clear()
    yield bytes(portion)
