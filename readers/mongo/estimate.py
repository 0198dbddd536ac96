"""The size of the work queue, counted or estimated: a figure for progress, never for a decision.

The exact count would have to fetch every document (the index does not cover the conditions), so it is taken only as
far as it is cheap; a longer queue is estimated from a random sample of the collection.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from pymongo.errors import PyMongoError

from readers.batching.ports import Document
from readers.mongo.connection import Documents
from readers.mongo.work_queue import BY_ID, ID_INDEX, WorkQuery

EXACT_UP_TO_ROWS = 50_000
SAMPLE_ROWS = 2_000
MAX_TIME_MS = 5_000
_WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))
"""What Python takes for white space; there is none behind U+3000."""


@dataclass(frozen=True, slots=True)
class QueueSize:
    """Documents in the work queue.

    Attributes:
        n_rows: How many.
        is_exact: Whether they were counted; else about that many, from a sample.
    """

    n_rows: int
    is_exact: bool


def queue_size(collection: Documents, query: WorkQuery, index: str) -> QueueSize | None:
    """The size of the work queue, or None when it cannot be had cheaply (a few seconds at most).

    Args:
        index: The index that the queue follows.
    """
    predicates = query.predicates()
    try:
        if index != ID_INDEX:
            counted = collection.count_documents(
                predicates, hint=index, limit=EXACT_UP_TO_ROWS, maxTimeMS=MAX_TIME_MS, collation=query.collation
            )
            if counted < EXACT_UP_TO_ROWS:
                return QueueSize(counted, True)
        else:
            counted = 0
        total = collection.estimated_document_count(maxTimeMS=MAX_TIME_MS)
        pipeline: list[Document] = [{"$sample": {"size": SAMPLE_ROWS}}, {"$match": predicates}, {"$count": "n"}]
        if total <= SAMPLE_ROWS:
            counted = collection.count_documents(predicates, maxTimeMS=MAX_TIME_MS, collation=query.collation)
            return QueueSize(counted, True)
        found = list(collection.aggregate(pipeline, maxTimeMS=MAX_TIME_MS, collation=query.collation))
    except PyMongoError:  # too slow, or away: a figure for progress is worth no second try
        return None
    hits = found[0]["n"] if found else 0
    return QueueSize(max(counted, round(total * hits / SAMPLE_ROWS)), False)


def has_no_text(text_field: str) -> Document:
    """An expression: the text is missing, no string, empty, or white space alone.

    An expression and no plain condition, which would look into arrays.
    """
    text = f"${text_field}"
    return {
        "$or": [
            {"$ne": [{"$type": text}, "string"]},
            {"$eq": [{"$trim": {"input": text, "chars": _WHITE_SPACE}}, ""]},
        ]
    }


def count_without_text(collection: Documents, query: WorkQuery, index: str, text_field: str) -> int | None:
    """How many documents of the work queue have no text to embed (`has_no_text`); None when there are too many.

    Args:
        index: The index that the queue follows.
    """
    condition: Document = {"$and": [query.predicates(), {"$expr": has_no_text(text_field)}]}
    hint: str | Document = BY_ID if query.scan == "id" else index
    try:
        return collection.count_documents(condition, hint=hint, maxTimeMS=MAX_TIME_MS, collation=query.collation)
    except PyMongoError:  # too slow, or away: the sample tells about how many
        return None


class EstimateInBackground:
    """Finds the size of the queue while the run goes on.

    Attributes:
        n_rows: The size once it is known, else None.
    """

    def __init__(self, collection: Documents, query: WorkQuery, index: str) -> None:
        self.n_rows: int | None = None
        self._arguments = (collection, query, index)
        self._thread = threading.Thread(target=self._work, name="estimate", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread."""
        self._thread.join(timeout_s)

    def _work(self) -> None:
        size = queue_size(*self._arguments)
        self.n_rows = None if size is None else size.n_rows
