"""Files as a source of documents (`readers.batching.ports.DocumentSource`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.memory.ids import IdType
from engine.objects.url import SourceUrl
from engine.part import Part
from readers.batching.ports import Document, DocumentSource, ValueTypes
from readers.files.catalogue import SourceFile, read_plan
from readers.files.documents import ID_VALUE, Fields, pages
from readers.files.ids import PositionIds, RowNaming
from readers.files.row_range import take_in_range
from readers.files.values import FILE_TYPES

Log = Callable[..., None]


class FilesSource(DocumentSource):
    """The rows of files that are not settled, file by file in the order of their numbers."""

    passing = ()  # a file that cannot be read now ends the run; the same command goes on with it

    def __init__(
        self,
        told: dict[str, Any],
        *,
        text_field: str,
        columns: tuple[tuple[str, str], ...],
        part: Part | None = None,
        outage: SourceOutage | None = None,
    ) -> None:
        """
        Args:
            told: `plan`, `id_field`, `id_type`, `estimate`, `store` (see `readers.settings.ReaderSettings.files`).
            part: The share that is read, or None for all.
            outage: How long a store may be away, and who hears of it.
        """
        self.outage = outage if outage is not None else SourceOutage()
        store = None
        if told.get("store") is not None:
            from readers.files.objects import SourceStore  # noqa: PLC0415 - only a URL pays for the library

            store = SourceStore(SourceUrl.from_dict(told["store"]), self.outage.max_s, self.outage.note)
        self._plan = Path(told["plan"])
        self._files = read_plan(self._plan, store)
        self._range: list[SourceFile] | None = None
        id_field, id_type = told["id_field"], IdType(told["id_type"])
        self._fields = Fields.of(text_field, tuple(name for name, _ in columns), id_field, id_type)
        self._estimate: int | None = told.get("estimate")
        self._part = part
        self._is_read = False
        self.columns = columns if id_field is None else ((ID_VALUE, id_type.value), *columns)
        self.ids = PositionIds(RowNaming([file.name for file in self._files]))
        self.types: ValueTypes = FILE_TYPES

    def may_wait(self, entry: dict[str, Any], /) -> bool:
        """See the protocol; every row in quarantine is in a page."""
        return False

    def begin_pass(self) -> None:
        """See the protocol."""

    def take_range(self, wanted: dict[str, Any], /) -> None:
        """See the protocol; what is settled in it lies beside the plan."""
        self._range = take_in_range(self._files, wanted, self._plan.parent)

    def take_in(self, skip: Any, is_enough: Callable[[], bool], /) -> bool:
        """See the protocol."""
        return True

    def open(self) -> FileQueue:
        """See the protocol; after the first pass nothing is left: new files are found by the next start."""
        if self._range is not None:
            return FileQueue(self._range, self._fields)
        files = [] if self._is_read else self._files
        self._is_read = True
        return FileQueue(files, self._fields, self._part)

    def first_page_is_there(self) -> None:
        """See the protocol."""

    @property
    def estimate(self) -> int | None:
        """See the protocol."""
        return self._estimate

    def close(self) -> None:
        """See the protocol."""


@dataclass(frozen=True, slots=True)
class FilePage:
    """Documents, and the number of the next page; `position` is None at the end."""

    documents: list[Document]
    position: int | None


class FileQueue:
    """All pages of some files, one after the other; a page is what a file's format gives at a time."""

    def __init__(self, files: list[SourceFile], fields: Fields, part: Part | None = None) -> None:
        self._pages = self._each(files, fields, part)

    def start(self) -> int:
        """See `readers.batching.ports.DocumentQueue`."""
        return 0

    def read(self, position: int, n_rows: int, /) -> FilePage:
        """See `readers.batching.ports.DocumentQueue`; formats bound a page by its bytes."""
        documents = next(self._pages, None)
        return FilePage([], None) if documents is None else FilePage(documents, position + 1)

    @staticmethod
    def _each(files: list[SourceFile], fields: Fields, part: Part | None) -> Iterator[list[Document]]:
        for file in files:
            yield from pages(file, fields, part)


class SourceOutage:
    """`readers.batching.ports.Outage` of files: no error passes by itself, but objects are waited for as they are read.

    Attributes:
        max_s: How long one act may wait for a store.
        going_on: Whether a store had to be asked again since the last page.
        last_error: What it said.
    """

    def __init__(self, max_s: float = 0.0, log: Log | None = None) -> None:
        """
        Args:
            log: Writes a line of the log: level, name, facts.
        """
        self.max_s = max_s
        self.going_on = False
        self.last_error: str | None = None
        self._log = log

    def note(self, where: str, why: str) -> None:
        """A store has to be asked again; any thread may say so."""
        self.going_on, self.last_error = True, f"{where}: {why}"
        if self._log is not None:
            self._log("warning", "source_asked_again", where=where, reason=why)

    def over(self) -> None:
        """See the protocol."""
        self.going_on = False

    def pause_s(self, error: Any, /) -> float:
        """See the protocol."""
        raise error
