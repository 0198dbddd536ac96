"""Documents of files: rows become documents whose id is their position, page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.memory.ids import IdType
from engine.part import Part
from readers.batching.paths import getter
from readers.batching.ports import Document, UnreadableDocument
from readers.files.catalogue import SourceFile
from readers.files.formats import BLANK, Unreadable, chunks
from readers.files.ids import position_of
from readers.files.opening import reading
from readers.files.settled import Settled, SettledOrForeign
from readers.files.values import id_check, misfit_of

ID_VALUE = "\0id"
"""Where a document keeps the value of its id field, because `_id` is its position; no field is called so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Which fields are needed.

    Attributes:
        needed: Dotted paths of all of them.
        id_field: That of the id, or None.
        id_type: Type of the id column.
    """

    needed: tuple[str, ...]
    id_field: str | None = None
    id_type: IdType = IdType.STRING

    @classmethod
    def of(cls, text_field: str, columns: tuple[str, ...], id_field: str | None, id_type: IdType) -> Fields:
        """Those of a run."""
        needed = (text_field, *columns, *(() if id_field is None else (id_field,)))
        return cls(needed=tuple(dict.fromkeys(needed)), id_field=id_field, id_type=id_type)


def pages(file: SourceFile, fields: Fields, part: Part | None = None) -> Iterator[list[Document]]:
    """The documents of a file that are not settled, in order, a chunk at a time.

    Args:
        part: The share that is read, or None for all.

    Raises:
        ConfigError: the file is not the one that was looked at.
        SourceError: it cannot be read.
    """
    if file.path is None:
        return
    stretches = list(file.settled)
    settled = Settled(stretches) if part is None else SettledOrForeign(stretches, file.name, part)
    make = _maker(fields)
    with reading(file.path):
        require_unchanged(file)
        for first, rows in chunks(file.path, fields.needed, settled):
            base = position_of(file.number, first)
            open_rows = settled.open_rows(first, len(rows)) if file.settled or part is not None else None
            if open_rows is None:
                yield make(range(base, base + len(rows)), rows)
            elif open_rows:
                yield make([base + at for at in open_rows], [rows[at] for at in open_rows])
        require_unchanged(file)


def require_unchanged(file: SourceFile) -> None:
    """Refuse a file that was written to since the run looked at it.

    Raises:
        ConfigError: it was.
        OSError: it is gone.
    """
    if not isinstance(file.path, Path):  # every range of an object is compared
        return
    stat = file.path.stat()
    if (stat.st_size, stat.st_mtime_ns) != (file.bytes, file.mtime_ns):
        raise ConfigError(
            f"the source file {file.path} was written to while the run read it: put it back as it was, put what is new "
            "into a new file, then run the same command again"
        )


def _maker(fields: Fields) -> Callable[[Any, list[Any]], list[Document]]:
    """What makes documents of rows and their positions."""
    if fields.id_field is None:
        return _documents
    get, fits = getter(fields.id_field), id_check(fields.id_type)

    def with_ids(positions: Any, rows: list[Any]) -> list[Document]:
        found = []
        values = [get(row) if type(row) is dict else None for row in rows]
        fit = bool(values) and fits(values)
        for position, row, value in zip(positions, rows, values, strict=True):
            if type(row) is not dict:
                found += _document(position, row)
            elif not fit and (misfit := misfit_of(value, fields.id_type)) is not None:
                found.append(UnreadableDocument(position, "id_type", misfit))
            else:
                row[ID_VALUE] = value
                row["_id"] = position
                found.append(row)
        return found

    return with_ids


def _documents(positions: Any, rows: list[Any]) -> list[Document]:
    if set(map(type, rows)) == {dict}:
        for position, row in zip(positions, rows, strict=True):
            row["_id"] = position
        return rows
    return [document for position, row in zip(positions, rows, strict=True) for document in _document(position, row)]


def _document(position: int, row: Any) -> list[Document]:
    """The document of one row, none for a blank line."""
    if row is BLANK:
        return []
    if isinstance(row, Unreadable):
        return [UnreadableDocument(position, "unreadable", row.detail)]
    row["_id"] = position
    return [row]
