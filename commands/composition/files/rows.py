"""Files as what a verification compares rows with (`writers.verify.config.Documents`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from commands.composition.files.inspection import catalogue_of, settled_rows
from engine.config import SourceConfig
from engine.memory.ids import IdType
from engine.objects.url import StoreUrl
from engine.ports import IdList
from readers.batching.paths import MISSING, getter
from readers.files.catalogue import SourceFile
from readers.files.documents import require_unchanged
from readers.files.formats import chunks
from readers.files.opening import reading
from readers.files.settled import Settled
from writers.verify.config import VerifyConfig


class FileRows:
    """The rows of the files of a data set; those in the ledger's positions count as marked."""

    has_marks = False

    def __init__(
        self, source: SourceConfig, ledger: Path, id_type: IdType, *, without: tuple[Path | StoreUrl, ...]
    ) -> None:
        """Look at the files.

        Args:
            without: Folders that are not looked into: those that runs write.

        Raises:
            ConfigError: there are none, or one has changed since it was read.
        """
        self._files = catalogue_of(source, ledger, without=without).files
        self._settled = settled_rows(ledger)
        self._id_field = source.id_field
        self._text_field = source.text_field
        self._id_type = id_type

    @classmethod
    def of_data_set(cls, config: VerifyConfig, ledger: Path, source: SourceConfig, id_type: IdType) -> FileRows:
        """The files of a data set that is looked at.

        Raises:
            ConfigError: see `FileRows`.
        """
        written: list[Path | StoreUrl] = [ledger.parent.parent]
        if config.cold is not None:
            written.append(dataclasses.replace(config.cold.url, url=f"{config.cold.url}/{config.cold.prefix}"))
        elif config.shards is not None:
            written += [config.shards.parent, config.shards.parent.parent]
        return cls(source, ledger, id_type, without=tuple(written))

    def marked_ids(self) -> Iterator[IdList]:
        """See the protocol: ids of the rows that are there and in a committed shard by the ledger's word."""
        for file, first, rows in self._each(() if self._id_field is None else (self._id_field,)):
            stretches = self._settled.get(file.number, [])
            open_rows = Settled(stretches).open_rows(first, len(rows))
            if open_rows is not None:
                closed = sorted(set(range(len(rows))) - set(open_rows))
                if ids := [value for value in self._ids(file, first, rows, closed) if value is not None]:
                    yield ids

    def states(self, ids: IdList) -> list[str]:
        """See the protocol: `gone` while a file is missing that may have held the row, `unmarked` otherwise."""
        if self._id_field is None:
            gone = {file.name for file in self._files if file.path is None}
            return ["gone" if str(value).rpartition("#")[0] in gone else "unmarked" for value in ids]
        is_there = set(self._find(ids, self._id_field))
        lost = "gone" if any(file.path is None for file in self._files) else "unmarked"
        return ["unmarked" if value in is_there else lost for value in ids]

    def texts(self, ids: IdList) -> list[str | None]:
        """See the protocol; one way through all files, however few ids there are."""
        found = self._find(ids, self._text_field)
        return [text if isinstance(text := found.get(value), str) else None for value in ids]

    def close(self) -> None:
        """Nothing is open."""

    def _find(self, ids: IdList, path: str) -> dict[Any, Any]:
        """The values at a path of the documents with these ids."""
        wanted = set(ids)
        get = getter(path)
        found: dict[Any, Any] = {}
        fields = (path,) if self._id_field is None else (path, self._id_field)
        for file, first, rows in self._each(fields):
            for value, row in zip(self._ids(file, first, rows, range(len(rows))), rows, strict=True):
                if value in wanted and isinstance(row, dict) and (at := get(row)) is not MISSING:
                    found.setdefault(value, at)
        return found

    def _each(self, fields: tuple[str, ...]) -> Iterator[tuple[SourceFile, int, list[Any]]]:
        for file in self._files:
            if file.path is None:
                continue
            with reading(file.path):
                require_unchanged(file)
                for first, rows in chunks(file.path, fields, Settled([])):
                    yield file, first, rows

    def _ids(self, file: SourceFile, first: int, rows: list[Any], at: Sequence[int]) -> list[Any]:
        """Ids of rows as the id column holds them; None for a row that has none."""
        if self._id_field is None:
            return [f"{file.name}#{first + row}" for row in at]
        get = getter(self._id_field)
        values = [get(rows[row]) if isinstance(rows[row], dict) else None for row in at]
        wanted = int if self._id_type is IdType.INT64 else str
        return [value if type(value) is wanted else None for value in values]
