"""Cutting the work queue into ranges of `_id`, by a sample: for 400 million documents as quickly as for a thousand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bson.errors import BSONError

from readers.batching.ports import Document
from readers.mongo.connection import Documents
from readers.mongo.estimate import queue_size
from readers.mongo.work_queue import SIMPLE, WorkQuery
from readers.ranges.id_range import IdRange, to_text

LARGEST_ROWS = 1_000_000
"""A larger range would be no cheaper to hand out, only later to be done."""
SMALLEST_ROWS = 2_000
"""A smaller one would cost more to begin than it helps to balance."""
_SHARES_AHEAD = 4
"""Each range is that part of what one node will have to do of the rest: the last ones get smaller and smaller."""
_SAMPLES_OF_A_RANGE = 20
_MOST_SAMPLES = 40_000


@dataclass(frozen=True, slots=True)
class Cut:
    """The work queue in ranges.

    Attributes:
        ranges: In the order of `_id`, without gaps, with about how many documents each.
        n_rows: About how many documents in all.
    """

    ranges: tuple[tuple[IdRange, int], ...]
    n_rows: int


def cut(collection: Documents, query: WorkQuery, index: str, n_nodes: int) -> Cut:
    """Cut the queue so that so many nodes keep busy to the end, whatever they differ in speed.

    Raises:
        pymongo.errors.PyMongoError: MongoDB refuses or does not answer.
    """
    size = queue_size(collection, query, index)
    n_rows = collection.estimated_document_count() if size is None else size.n_rows
    rows = list(_sizes(n_rows, max(1, n_nodes)))
    bounds = _sampled(collection, query, len(rows)) if len(rows) > 1 else []
    if not bounds:
        return Cut(((IdRange(), n_rows),), n_rows)
    ranges: list[tuple[IdRange, int]] = []
    low, so_far = None, 0
    for number, count in enumerate(rows, 1):
        so_far += count
        high = None if number == len(rows) else bounds[min(len(bounds) - 1, so_far * len(bounds) // max(1, n_rows))]
        if high is None or high != low:  # a sample may hold few ids: then two bounds may be one
            ranges.append((IdRange(low=low, high=high), count))
            low = high
    return Cut(tuple(ranges), n_rows)


def _sizes(n_rows: int, n_nodes: int) -> Iterator[int]:
    left = n_rows
    while left > 0:
        size = min(left, LARGEST_ROWS, max(SMALLEST_ROWS, left // (_SHARES_AHEAD * n_nodes)))
        yield size
        left -= size


def _sampled(collection: Documents, query: WorkQuery, n_ranges: int) -> list[str]:
    """Some `_id`s of the queue, in the order of the index that is followed, each once."""
    n_samples = min(_MOST_SAMPLES, n_ranges * _SAMPLES_OF_A_RANGE)
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
        if len(found) >= n_ranges:
            break
    texts: dict[str, None] = {}
    for value in found:
        try:
            texts[to_text(value)] = None
        except (UnicodeError, ValueError, TypeError, BSONError):  # an id that cannot be written is no bound
            continue
    return list(texts)
