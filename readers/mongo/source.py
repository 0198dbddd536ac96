"""MongoDB as a source of documents (`readers.batching.ports.DocumentSource`)."""

from __future__ import annotations

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
    ) -> None:
        """Open a client; nothing is asked yet."""
        self._client = open_client(uri, name="engine-reader", selection_ms=selection_ms(max_outage_s))
        self._collection: Documents = open_collection(self._client, database, collection)
        self._query = query
        self._fields = (text_field, *(name for name, _ in columns))
        self._estimate: EstimateInBackground | None = None
        self._index = ""
        self.columns = columns
        self.ids = MongoIds(id_type)
        self.types: ValueTypes = BSON_TYPES
        self.outage = Outage(max_outage_s, f"reading {self._collection.full_name}")

    def open(self) -> _Queue:
        """See the protocol; called by the fetching thread."""
        queue = open_queue(self._collection, self._query, self._fields)
        self._index = queue.index
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
