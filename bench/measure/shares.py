"""What reading one of n shares of a work queue costs: MongoDB's part and the reader's, against the whole queue.

    python -m bench.measure.shares --documents 100000

Pages are read as a reader reads them, without embedding anything. Ways go alternately, every figure is the median of
some rounds: microseconds of CPU for each document of the *whole* queue, so that what the documents of others cost a
share can be seen. `ids first` is the way that was not taken (ADR 20): all ids by the index alone, the hash on the
client, then the share's own documents by `_id`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bson.min_key import MinKey

from bench.measure.passes import measure_passes, print_figures
from bench.measure.pipeline import machine
from bench.parts.local_mongod import LocalMongod
from engine.part import Part
from readers.mongo.connection import Documents, open_client, open_collection
from readers.mongo.index import create_indexes, open_queue
from readers.mongo.work_queue import SIMPLE, Position, WorkQuery
from readers.preflight.without_text import hash_of

_PAGE_ROWS = 5_000
_DONE_FIELD = "done"


def fill(collection: Documents, n_documents: int) -> None:
    """Documents like tweets, with ids of their kind."""
    for first in range(0, n_documents, 10_000):
        collection.insert_many(
            {"_id": (number * 977) << 22, "text": f"text {number} " + "word " * 30, "lang": "en", "user": "x" * 400}
            for number in range(first, min(first + 10_000, n_documents))
        )
    create_indexes(collection, _DONE_FIELD)


def by_pages(collection: Documents, part: Part | None) -> int:
    """Read the queue, or a share of it; how many documents came."""
    queue = open_queue(collection, WorkQuery(done_field=_DONE_FIELD, part=part), ("text",))
    n_sent = 0
    position: Position | None = queue.start()
    while position is not None:
        page = queue.read(position, _PAGE_ROWS)
        n_sent += len(page.documents)
        position = page.position
    return n_sent


def ids_first(collection: Documents, part: Part) -> int:
    """The same share, by ids that are read from the index alone."""
    query = WorkQuery(done_field=_DONE_FIELD)
    index = open_queue(collection, query, ("text",)).index
    lowest = {"lang": MinKey(), "classified": MinKey(), "_id": MinKey()}
    own: list[int] = []
    n_sent = 0

    def fetch() -> int:
        wanted = {**query.predicates(), "_id": {"$in": own}}
        found = len(collection.find(wanted, {"text": 1}, hint={"_id": 1}, batch_size=_PAGE_ROWS).to_list())
        own.clear()
        return found

    for row in collection.find({}, {"_id": 1}, hint=index, min=lowest, collation=SIMPLE, batch_size=_PAGE_ROWS):
        hashed = hash_of(row["_id"])
        if hashed is not None and part.has(hashed):
            own.append(row["_id"])
        if len(own) == _PAGE_ROWS:
            n_sent += fetch()
    return n_sent + fetch()


def measure(n_documents: int, rounds: int) -> dict[str, Any]:
    """The figures of all ways."""
    with (
        tempfile.TemporaryDirectory(prefix="engine-bench-") as name,
        LocalMongod(Path(name) / "mongod") as mongod,
        open_client(mongod.uri) as client,
    ):
        collection = open_collection(client, "bench", "shares")
        fill(collection, n_documents)
        ways: dict[str, Callable[[], int]] = {"whole queue": partial(by_pages, collection, None)}
        for count in (2, 4):
            ways[f"share 1/{count}"] = partial(by_pages, collection, Part(1, count))
            ways[f"share 1/{count}, ids first"] = partial(ids_first, collection, Part(1, count))
        medians, sent = measure_passes(ways, mongod.pid, n_documents=n_documents, rounds=rounds)
    return {
        "documents": n_documents,
        "machine": machine(),
        "us_per_document_of_the_queue": medians,
        "documents_sent": sent,
    }


if __name__ == "__main__":
    print_figures(__doc__, measure)
