"""How many documents the queue holds."""

from __future__ import annotations

from typing import Any

import pytest

from readers.mongo import estimate
from readers.mongo.connection import Documents
from readers.mongo.estimate import QueueSize, count_without_text, queue_size
from readers.mongo.index import create_indexes, require_queue_index
from readers.mongo.work_queue import WorkQuery
from tests.readers.harness import DONE, insert_raw

QUERY = WorkQuery(done_field=DONE)


def test_a_short_queue_is_counted_and_a_long_one_estimated(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents.insert_many(
        [{"_id": number, "text": "x", **({DONE: True} if number % 4 == 0 else {})} for number in range(4000)]
    )
    create_indexes(documents, DONE)
    index = require_queue_index(documents, QUERY, ("text",)).index
    assert queue_size(documents, QUERY, index) == QueueSize(3000, True)
    monkeypatch.setattr(estimate, "EXACT_UP_TO_ROWS", 100)
    size = queue_size(documents, QUERY, index)
    assert size is not None and not size.is_exact
    assert 2600 <= size.n_rows <= 3400
    size = queue_size(documents, WorkQuery(done_field=DONE, scan="id"), "_id_")
    assert size is not None and 2600 <= size.n_rows <= 3400


def test_a_size_that_cannot_be_had_is_none(documents: Documents) -> None:
    documents.insert_one({"_id": 1, "text": "x"})
    assert queue_size(documents, QUERY, "no_such_index") is None


@pytest.mark.parametrize("scan", ["queue", "id"])
def test_documents_without_a_text_are_counted(documents: Documents, scan: str) -> None:
    """Missing, null, no string, an array, empty, white space alone; not those that are done or have a text."""
    without: list[dict[str, Any]] = [{}, {"t": None}, {"t": {}}, {"t": {"x": 7}}, {"t": {"x": ["a"]}}, {"t": {"x": ""}}]
    without += [{"t": {"x": f"{sign}\n"}} for sign in map(chr, range(0x110000)) if sign.isspace()]
    documents.insert_many([*without, {"t": {"x": " a text\u200b"}}, {DONE: True}, {"retweeted": 1}])
    insert_raw(documents, {"t": {"x": " broken"}}, b"broken", b"\xff\xfe  \xc3 ")
    create_indexes(documents, DONE)
    query = WorkQuery(done_field=DONE, scan=scan)
    assert count_without_text(documents, query, "embedding_work_queue", "t.x") == len(without)
