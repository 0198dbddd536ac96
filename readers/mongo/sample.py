"""A sample of the work queue before anything is spent: some of its texts, how long they are, how many there are."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Container, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pymongo.errors import ExecutionTimeout

from engine.errors import ConfigError
from readers.batching.paths import getter
from readers.batching.ports import Document
from readers.batching.screening import problem_of
from readers.batching.unicode import is_encodable
from readers.mongo.collection_kind import require_ordinary
from readers.mongo.connection import Documents
from readers.mongo.errors import attempt
from readers.mongo.estimate import QueueSize, count_without_text, queue_size
from readers.mongo.ids import key_of
from readers.mongo.index import require_queue_index
from readers.mongo.work_queue import ID_INDEX, WorkQuery, WorkQueue

_DRAWN_PER_TEXT = 4
"""Documents drawn for each text wanted; drawing is cheap, and not all of them are in the queue."""

_MAX_DRAWN = 50_000
_LEAST_DRAWN = 100
_FEWER = 16
"""By how much less is drawn after it took too long: pages that are not in memory are one seek for each document."""
_DRAW_MS = 20_000
_COUNT_MS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSample:
    """Texts of the work queue, drawn at random.

    Attributes:
        texts: The texts that can be embedded.
        n_drawn: Documents of the queue that were looked at.
        refused: Documents among them that a run would put into quarantine unasked, by reason.
        n_quarantined: Documents among them that are in quarantine already.
        n_without_text: Documents of the queue that have no text at all, in quarantine or not; None when they are too
            many to count, and then the sample tells their share.
        size: How many documents the queue holds, None when that cannot be had cheaply.
        n_documents: Documents of the collection, about.
        no_index: Why a run could not follow the queue yet, None when it could.
    """

    texts: tuple[str, ...]
    n_drawn: int
    refused: Mapping[str, int]
    n_quarantined: int
    size: QueueSize | None
    n_documents: int
    no_index: str | None = None
    n_without_text: int | None = None

    @property
    def n_unusable(self) -> int:
        """Documents among those looked at whose text cannot be sent at all."""
        return sum(self.refused.values())

    def characters(self) -> list[int]:
        """Lengths of the texts in characters, ascending."""
        return sorted(map(len, self.texts))

    def utf8_bytes(self) -> list[int]:
        """Lengths of the texts in bytes of UTF-8, ascending."""
        return sorted(len(text.encode()) for text in self.texts)


def sample_queue(
    collection: Documents,
    query: WorkQuery,
    text_field: str,
    n_texts: int,
    *,
    quarantined: Container[Hashable] = frozenset(),
    counts_without_text: bool = False,
) -> QueueSample:
    """Draw texts from the work queue.

    Documents are drawn at random from the collection. When too few of them are in the queue (most of the collection
    is done), the rest is taken from the queue's beginning. A look needs no index; without one it goes by what is drawn.

    Args:
        quarantined: Keys (`readers.mongo.ids.key_of`) of documents that a run passes over.
        counts_without_text: Whether to count the documents without a text, which may take some seconds.

    Raises:
        ConfigError: MongoDB does not take the query, or nothing is drawn and there is no index to look for the rest.
        SourceError: MongoDB does not answer.
    """
    name = collection.full_name
    require_ordinary(collection)
    n_documents = attempt(lambda: collection.estimated_document_count(maxTimeMS=_COUNT_MS), f"counting {name}")
    if not n_documents:
        return QueueSample(texts=(), n_drawn=0, refused={}, n_quarantined=0, size=QueueSize(0, True), n_documents=0)
    queue: WorkQueue | None = None
    no_index: ConfigError | None = None
    try:
        queue = require_queue_index(collection, query, (text_field,))
    except ConfigError as error:
        no_index = error
    drawn = _draw(collection, query, text_field, n_texts)
    if no_index is not None and not drawn:
        raise no_index
    if queue is not None and len(drawn) < n_texts:
        first = attempt(lambda: queue.first(n_texts), f"reading {name}")
        drawn = _distinct([*drawn, *first])[:n_texts]
    get = getter(text_field)
    asked = [get(document) for document in drawn if key_of(document["_id"]) not in quarantined]
    problems = [_problem_of(text) for text in asked]
    n_without_text = None
    if counts_without_text and queue is not None:
        n_without_text = count_without_text(collection, query, queue.index, text_field)
    return QueueSample(
        texts=tuple(text for text, problem in zip(asked, problems, strict=True) if problem is None),
        n_drawn=len(drawn),
        refused=Counter(problem for problem in problems if problem is not None),
        n_quarantined=len(drawn) - len(asked),
        size=queue_size(collection, query, ID_INDEX if queue is None else queue.index),
        n_documents=n_documents,
        no_index=str(no_index) if no_index is not None else None,
        n_without_text=n_without_text,
    )


def _draw(collection: Documents, query: WorkQuery, text_field: str, n_texts: int) -> list[Document]:
    """Documents at random; fewer from a collection that is slow to fetch from, none at all from a very slow one."""
    size = min(_MAX_DRAWN, n_texts * _DRAWN_PER_TEXT)
    while size >= _LEAST_DRAWN:
        pipeline: list[Document] = [
            {"$sample": {"size": size}},
            {"$match": query.predicates()},
            {"$limit": 2 * n_texts},  # a sample may hold a document twice
            {"$project": {text_field: 1}},
        ]
        found = attempt(functools.partial(_in_time, collection, query, pipeline), f"sampling {collection.full_name}")
        if found is not None:
            return _distinct(found)[:n_texts]
        size //= _FEWER
    return []


def _in_time(collection: Documents, query: WorkQuery, pipeline: list[Document]) -> list[Document] | None:
    try:
        return list(collection.aggregate(pipeline, maxTimeMS=_DRAW_MS, collation=query.collation))
    except ExecutionTimeout:
        return None


def _distinct(documents: Iterable[Document]) -> list[Document]:
    return list({key_of(document["_id"]): document for document in documents}.values())


def _problem_of(text: Any) -> str | None:
    """Under which reason a run would put a document with this text into quarantine, None when it would not."""
    problem = problem_of(text)
    if problem is not None:
        return problem[0]
    return None if is_encodable(text) else "invalid_unicode"
