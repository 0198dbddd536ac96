"""A look at the work queue before anything is spent: some of its texts, how long they are, how many there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from readers.connection import Document, Documents
from readers.estimate import QueueSize, queue_size
from readers.index import require_queue_index
from readers.mongo_errors import attempt
from readers.mongo_ids import key_of
from readers.paths import getter
from readers.work_queue import WorkQuery

_DRAWN_PER_TEXT = 4
"""Documents drawn for each text wanted; drawing is cheap, and not all of them are in the queue."""

_MAX_DRAWN = 50_000
_DRAW_MS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSample:
    """Texts of the work queue, drawn at random.

    Attributes:
        texts: The texts that can be embedded.
        n_drawn: Documents of the queue that were looked at.
        n_unusable: Documents among them whose text is missing, not a string, empty or invalid.
        size: How many documents the queue holds, None when that cannot be had cheaply.
    """

    texts: tuple[str, ...]
    n_drawn: int
    n_unusable: int
    size: QueueSize | None

    def characters(self) -> list[int]:
        """Lengths of the texts in characters, ascending."""
        return sorted(map(len, self.texts))

    def utf8_bytes(self) -> list[int]:
        """Lengths of the texts in bytes of UTF-8, ascending."""
        return sorted(len(text.encode()) for text in self.texts)


def sample_queue(collection: Documents, query: WorkQuery, text_field: str, n_texts: int) -> QueueSample:
    """Draw texts from the work queue.

    Documents are drawn at random from the collection. When too few of them are in the queue (most of the collection
    is done), the rest is taken from the queue's beginning.

    Raises:
        ConfigError: there is no usable index, or MongoDB does not take the query.
        SourceError: MongoDB does not answer.
    """
    queue = require_queue_index(collection, query, (text_field,))
    drawn = _draw(collection, query, text_field, n_texts)
    if len(drawn) < n_texts:
        page = attempt(lambda: queue.read(queue.start(), n_texts), f"reading {collection.full_name}")
        drawn = _distinct([*drawn, *page.documents])[:n_texts]
    get = getter(text_field)
    texts = tuple(text for text in map(get, drawn) if _is_usable(text))
    return QueueSample(
        texts=texts,
        n_drawn=len(drawn),
        n_unusable=len(drawn) - len(texts),
        size=queue_size(collection, query, queue.index),
    )


def _draw(collection: Documents, query: WorkQuery, text_field: str, n_texts: int) -> list[Document]:
    pipeline: list[Document] = [
        {"$sample": {"size": min(_MAX_DRAWN, n_texts * _DRAWN_PER_TEXT)}},
        {"$match": query.predicates()},
        {"$limit": 2 * n_texts},  # a sample may hold a document twice
        {"$project": {text_field: 1}},
    ]
    found = attempt(
        lambda: list(collection.aggregate(pipeline, maxTimeMS=_DRAW_MS)), f"sampling {collection.full_name}"
    )
    return _distinct(found)[:n_texts]


def _distinct(documents: Iterable[Document]) -> list[Document]:
    return list({key_of(document["_id"]): document for document in documents}.values())


def _is_usable(text: Any) -> bool:
    if not isinstance(text, str) or not text or text.isspace():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
