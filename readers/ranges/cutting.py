"""Cutting the work queue into ranges of `_id`, by a sample: for 400 million documents as quickly as for a thousand."""

from __future__ import annotations

from typing import Any

from bson.errors import BSONError

from readers.batching.ports import Document
from readers.mongo.connection import Documents
from readers.mongo.estimate import queue_size
from readers.mongo.work_queue import SIMPLE, WorkQuery
from readers.ranges.id_range import to_text
from readers.ranges.piece_size import piece_rows

PIECE_ROWS = 20_000
"""About how many documents a piece has; a node is given a run of pieces."""
MOST_PIECES = 64_000
"""Of a queue so long that this is not enough pieces are larger."""
_SAMPLES_OF_A_PIECE = 10
_MOST_SAMPLES = 640_000


def cut(collection: Documents, query: WorkQuery, index: str, n_nodes: int) -> tuple[list[str | None], list[int]]:
    """Cut the queue so that so many nodes keep busy to the end, whatever they differ in speed.

    Returns:
        Boundaries of the pieces, in the order of `_id` (`readers.ranges.id_range`), None at both ends; and about how
        many documents each piece has.

    Raises:
        pymongo.errors.PyMongoError: MongoDB refuses or does not answer.
    """
    size = queue_size(collection, query, index)
    n_rows = collection.estimated_document_count() if size is None else size.n_rows
    n_pieces = max(1, min(MOST_PIECES, n_rows // min(PIECE_ROWS, piece_rows(n_rows, n_nodes))))
    found = _sampled(collection, query, n_pieces) if n_pieces > 1 else []
    bounds = dict.fromkeys(found[number * len(found) // n_pieces] for number in range(1, n_pieces) if found)
    inner: list[str | None] = list(bounds)
    n_pieces = len(inner) + 1
    rows = [n_rows * (number + 1) // n_pieces - n_rows * number // n_pieces for number in range(n_pieces)]
    return [None, *inner, None], rows


def _sampled(collection: Documents, query: WorkQuery, n_pieces: int) -> list[str]:
    """Some `_id`s of the queue, in the order of the index that is followed, each once."""
    n_samples = min(_MOST_SAMPLES, n_pieces * _SAMPLES_OF_A_PIECE)
    pipeline: list[Document] = [
        {"$sample": {"size": n_samples}},
        {"$project": {"_id": 1}},
        {"$sort": {"_id": 1}},
    ]
    of_queue: list[Document] = [pipeline[0], {"$match": query.predicates()}, *pipeline[1:]]
    collation = None if query.scan == "id" else SIMPLE
    found: list[Any] = []
    for stages in (of_queue, pipeline):  # a queue of which little is left may hardly be in a sample
        with collection.aggregate(stages, collation=collation, allowDiskUse=True) as cursor:
            found = [row["_id"] for row in cursor]
        if len(found) >= n_pieces:
            break
    texts: dict[str, None] = {}
    for value in found:
        try:
            texts[to_text(value)] = None
        except (UnicodeError, ValueError, TypeError, BSONError):  # an id that cannot be written is no bound
            continue
    return list(texts)
