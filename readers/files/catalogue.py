"""The catalogue: which files a ledger knows, what has become of them, and what the reader is told of each.

A file gets its number when it is first seen, for good: positions begin with it. The ledger keeps its name, size, time
and checksum, and of an object its ETag (FILES records); a file that differs is refused by name, because its rows may no
longer be those that were embedded. A file that is gone is passed over, its rows stay; new files are appended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from engine.errors import ConfigError
from readers.files.opening import FilePath, at_once, checksum
from readers.files.place import FoundFile, Place

if TYPE_CHECKING:
    from readers.files.objects import SourceStore

FILES_PER_RECORD = 1000

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that the reader reads.

    Attributes:
        number: Its number in the ledger's list.
        name, path, bytes, mtime_ns: See `readers.files.place.FoundFile`; `path` is None for a file that is gone.
        settled: Stretches of rows that are in committed shards.
    """

    number: int
    name: str
    path: FilePath | None
    bytes: int
    mtime_ns: int
    settled: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The files of a run.

    Attributes:
        files: Those that the ledger knows and the new ones, by number.
        new: What the ledger has to take in before anything of the new ones is read.
    """

    files: tuple[SourceFile, ...]
    new: tuple[Record, ...]

    @property
    def names(self) -> list[str]:
        """Names by number."""
        return [file.name for file in self.files]

    @property
    def n_gone(self) -> int:
        """Files that the ledger knows and that are not there any more."""
        return sum(file.path is None for file in self.files)

    def new_records(self) -> Iterator[Record]:
        """The ledger's records for the new files, each of a bounded size."""
        for start in range(0, len(self.new), FILES_PER_RECORD):
            yield {"type": "FILES", "files": list(self.new[start : start + FILES_PER_RECORD])}


def catalogue(known: Sequence[Record], found: Sequence[FoundFile], place: Place) -> Catalogue:
    """Compare what is there with what the ledger knows.

    Raises:
        ConfigError: a file has changed or was renamed, or these are other files altogether; names the file.
        SourceError: a file cannot be read.
    """
    there = {file.name: file for file in found}
    numbers = {record["name"]: number for number, record in enumerate(known)}
    if known and numbers.keys().isdisjoint(there):
        raise ConfigError(
            f"none of the {len(known)} files of this data set (for example {known[0]['name']}) lies in {place.root}: "
            "name the --source of before, or begin another data set with another --name"
        )
    files = [_known_file(number, record, there.get(record["name"])) for number, record in enumerate(known)]
    gone = {_content(known[file.number]): file.name for file in files if file.path is None}
    new: list[Record] = []
    unknown = [one for one in found if one.name not in numbers]
    for one, its_checksum in zip(unknown, at_once(checksum, [one.path for one in unknown]), strict=True):
        record = {"name": one.name, "bytes": one.bytes, "mtime_ns": one.mtime_ns, "checksum": its_checksum}
        if one.e_tag:
            record["e_tag"] = one.e_tag
        if (before := gone.get(_content(record))) is not None:
            raise ConfigError(
                f"the source file {one.path} is {before} under another name, whose rows would be embedded once more: "
                "give it its name back, or begin another data set with another --name"
            )
        files.append(SourceFile(len(known) + len(new), one.name, one.path, one.bytes, one.mtime_ns))
        new.append(record)
    return Catalogue(files=tuple(files), new=tuple(new))


def _content(record: Record) -> tuple[int, int | str, str]:
    return record["bytes"], record.get("e_tag") or record["mtime_ns"], record["checksum"]


def _known_file(number: int, record: Record, found: FoundFile | None) -> SourceFile:
    if found is None:
        return SourceFile(number, record["name"], None, record["bytes"], record["mtime_ns"])
    differs = None
    if found.bytes != record["bytes"]:
        differs = f"it has {found.bytes:,} bytes, it had {record['bytes']:,}"
    elif found.e_tag and "e_tag" in record:  # the same ETag is the same content, whenever it was stored
        differs = None if found.e_tag == record["e_tag"] else "it was replaced since"
    elif found.mtime_ns != record["mtime_ns"]:
        differs = "it was written to since"
    elif checksum(found.path) != record["checksum"]:
        differs = "its head or its end holds something else"
    if differs is not None:
        raise ConfigError(
            f"the source file {found.path} has changed since this data set first read it ({differs}): put it back as "
            "it was (its time included), put what is new into a new file, or begin another data set with another --name"
        )
    return SourceFile(number, found.name, found.path, found.bytes, found.mtime_ns)


def write_plan(path: Path, files: Sequence[SourceFile]) -> None:
    """Write what the reader's and the writer's process read; a temporary that every generation gets anew.

    Raises:
        OSError: the device is full or failing.
    """
    with path.open("wb") as stream:
        for file in files:
            line = {
                "name": file.name,
                "path": str(file.path.absolute()) if isinstance(file.path, Path) else None,
                "object": None if file.path is None or isinstance(file.path, Path) else file.path.version,
                "bytes": file.bytes,
                "mtime_ns": file.mtime_ns,
                "settled": file.settled,
            }
            stream.write(orjson.dumps(line) + b"\n")


def read_plan(path: Path, store: SourceStore | None = None) -> list[SourceFile]:
    """The files that `write_plan` wrote, by number.

    Args:
        store: Where they are when they are objects.
    """
    files = []
    with path.open("rb") as stream:
        for number, line in enumerate(stream):
            item = orjson.loads(line)
            where: FilePath | None = None if item["path"] is None else Path(item["path"])
            if store is not None and item["object"] is not None:
                where = store.path(*item["object"])
            settled = tuple((first, last) for first, last in item["settled"])
            files.append(SourceFile(number, item["name"], where, item["bytes"], item["mtime_ns"], settled))
    return files
