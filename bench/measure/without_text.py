"""What documents without a text cost a run that begins anew: left out by the server, and read to be passed over.

    python -m bench.measure.without_text --documents 300000

A collection of nothing else, all of them in quarantine. Both ways are gone alternately, and every figure is the median
of some rounds: CPU of this process (the reader's part of a start) and of mongod, in microseconds a document.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bson import ObjectId

from bench.measure.passes import measure_passes, print_figures
from bench.measure.pipeline import machine
from bench.parts.local_mongod import LocalMongod
from engine.ledger.quarantine import Quarantine
from engine.memory.ids import IdType
from readers.batching.skip import QuarantineLog, SkipSet
from readers.mongo.connection import Documents, open_client, open_collection
from readers.mongo.ids import MongoIds
from readers.mongo.index import create_indexes, open_queue
from readers.mongo.work_queue import Position, WorkQuery
from readers.preflight.without_text import LeavingOut

_PAGE_ROWS = 5_000
_DONE_FIELD = "done"


def fill(collection: Documents, log: Path, n_documents: int) -> None:
    """Make the documents, and put them into quarantine."""
    quarantine = Quarantine(log)
    for first in range(0, n_documents, 10_000):
        ids = [ObjectId(f"{number:024x}") for number in range(first, min(first + 10_000, n_documents))]
        collection.insert_many([{"_id": one, "text": " ", "lang": "en", "user": "x" * 100} for one in ids])
        quarantine.add(
            {"id": f'{{"$oid": "{one}"}}', "reason": "empty", "detail": "the text is only white space", "attempts": 0}
            for one in ids
        )
    quarantine.close()
    create_indexes(collection, _DONE_FIELD)


def one_pass(collection: Documents, log: Path, *, leaves_out: bool) -> int:
    """What a reader does until it has seen that nothing is new; how many documents it was sent."""
    leaving_out, ids = LeavingOut(), MongoIds(IdType.OBJECTID)
    may_wait = {"may_wait": leaving_out.may_wait} if leaves_out else {}
    skip = SkipSet(QuarantineLog(str(log), ids.key_of_text), None, ids, **may_wait)
    skip.follow_quarantine()
    query = WorkQuery(done_field=_DONE_FIELD)
    queue = open_queue(collection, query, ("text",))
    leaving_out.begin_pass()
    narrowed = leaving_out.narrowed(collection, query, queue.index, "text") if leaves_out else None
    if narrowed is not None:
        queue = open_queue(collection, narrowed, ("text",))
    leaving_out.take_in(skip, lambda: False)
    n_sent = 0
    position: Position | None = queue.start()
    while position is not None:
        page = queue.read(position, _PAGE_ROWS)
        n_sent += len(page.documents)
        if page.documents and skip.new_rows([document["_id"] for document in page.documents]) != []:
            raise SystemExit("a document was taken for new")
        position = page.position
    return n_sent


def measure(n_documents: int, rounds: int) -> dict[str, Any]:
    """The figures of both ways."""
    with (
        tempfile.TemporaryDirectory(prefix="engine-bench-") as name,
        LocalMongod(Path(name) / "mongod") as mongod,
        open_client(mongod.uri) as client,
    ):
        log = Path(name) / "quarantine.jsonl"
        collection = open_collection(client, "bench", "without_text")
        fill(collection, log, n_documents)
        ways: dict[str, Callable[[], int]] = {
            "left out": partial(one_pass, collection, log, leaves_out=True),
            "passed over": partial(one_pass, collection, log, leaves_out=False),
        }
        medians, sent = measure_passes(ways, mongod.pid, n_documents=n_documents, rounds=rounds)
    return {"documents": n_documents, "machine": machine(), "us_per_document": medians, "documents_sent": sent}


if __name__ == "__main__":
    print_figures(__doc__, measure)
