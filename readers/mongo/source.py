"""MongoDB as a source of documents (`readers.batching.ports.DocumentSource`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pymongo.errors import OperationFailure, PyMongoError

from engine.memory.ids import IdType
from readers.batching.ports import DocumentSource, ValueTypes
from readers.mongo.columns import BSON_TYPES
from readers.mongo.connection import Documents, open_client, open_collection, selection_ms
from readers.mongo.errors import Outage
from readers.mongo.estimate import EstimateInBackground
from readers.mongo.ids import MongoIds
from readers.mongo.index import open_queue
from readers.mongo.work_queue import Page, Position, WorkQuery, WorkQueue

_BAD_VALUE = 2  # what a query gets that names an index which is no more


class LeftOut(Protocol):
    """What is not read (`readers.preflight.without_text`, `readers.ranges.id_range`, both on a floor above).

    Attributes:
        is_optional: Whether the whole queue may be read as well when the server cannot tell what may be left out.
    """

    is_optional: bool

    def may_wait(self, entry: dict[str, Any], /) -> bool:
        """See `DocumentSource`."""

    def begin_pass(self) -> None:
        """See `DocumentSource`."""

    def take_in(self, skip: Any, is_enough: Callable[[], bool], /) -> bool:
        """See `DocumentSource`."""

    def narrowed(self, collection: Documents, query: WorkQuery, index: str, text_field: str, /) -> WorkQuery | None:
        """The query of the pass's pages; None for the whole queue."""

    def take_range(self, wanted: dict[str, Any], /) -> None:
        """See `DocumentSource`."""


class MongoSource(DocumentSource):
    """The work queue of a collection."""

    passing = (PyMongoError,)

    def __init__(
        self,
        uri: str,
        database: str,
        collection: str,
        query: WorkQuery,
        *,
        text_field: str,
        columns: tuple[tuple[str, str], ...],
        id_type: IdType,
        max_outage_s: float,
        leaving_out: LeftOut,
        log: Callable[..., None],
    ) -> None:
        """Open a client; nothing is asked yet.

        Args:
            leaving_out: Knows which documents without a text need not be read again.
            log: Writes a line of the log: level, name, facts.
        """
        self._client = open_client(uri, name="engine-reader", selection_ms=selection_ms(max_outage_s))
        self._collection: Documents = open_collection(self._client, database, collection)
        self._query = query
        self._leaving_out = leaving_out
        self._log = log
        self._text_field = text_field
        self._fields = (text_field, *(name for name, _ in columns))
        self._estimate: EstimateInBackground | None = None
        self._index = ""
        self.columns = columns
        self.ids = MongoIds(id_type)
        self.types: ValueTypes = BSON_TYPES
        self.outage = Outage(max_outage_s, f"reading {self._collection.full_name}")

    def may_wait(self, entry: dict[str, Any], /) -> bool:
        """See the protocol."""
        return self._leaving_out.may_wait(entry)

    def begin_pass(self) -> None:
        """See the protocol."""
        self._leaving_out.begin_pass()

    def take_range(self, wanted: dict[str, Any], /) -> None:
        """See the protocol."""
        self._leaving_out.take_range(wanted)

    def take_in(self, skip: Any, is_enough: Callable[[], bool], /) -> bool:
        """See the protocol."""
        return self._leaving_out.take_in(skip, is_enough)

    def open(self) -> _Queue:
        """See the protocol; called by the fetching thread."""
        queue = open_queue(self._collection, self._query, self._fields)
        self._index = queue.index
        try:
            narrowed = self._leaving_out.narrowed(self._collection, self._query, queue.index, self._text_field)
        except PyMongoError as error:
            if not self._leaving_out.is_optional:
                raise
            self._log("warning", "documents_without_text_are_read_again", error=str(error)[:200])
            return _Queue(self, queue)
        if narrowed is not None:
            queue = open_queue(self._collection, narrowed, self._fields)
        return _Queue(self, queue)

    def first_page_is_there(self) -> None:
        """Begin to estimate the queue's size: the first page has not been kept waiting for it."""
        if self._estimate is None:
            self._estimate = EstimateInBackground(self._collection, self._query, self._index)

    @property
    def estimate(self) -> int | None:
        """See the protocol."""
        return None if self._estimate is None else self._estimate.n_rows

    def close(self) -> None:
        """See the protocol."""
        if self._estimate is not None:
            self._estimate.join(0.0)
        self._client.close()


class _Queue:
    """The work queue, whose index is looked at again when the server no longer knows it."""

    def __init__(self, source: MongoSource, queue: WorkQueue) -> None:
        self._source = source
        self._queue = queue

    def start(self) -> Position:
        """See `DocumentQueue`."""
        return self._queue.start()

    def read(self, position: Position, n_rows: int, /) -> Page:
        """See `DocumentQueue`."""
        try:
            return self._queue.read(position, n_rows)
        except OperationFailure as error:
            if error.code == _BAD_VALUE:
                self._source.open()  # says what is wrong when the index is gone
            raise
