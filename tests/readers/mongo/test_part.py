"""Shares of the work queue: disjoint, complete, balanced, and the same whatever is marked or read by."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from bson import ObjectId
from bson.int64 import Int64

from engine.errors import ConfigError
from engine.part import Part
from readers.mongo.connection import Documents
from readers.mongo.ids import key_of
from readers.mongo.index import create_indexes, require_queue_index
from readers.mongo.marker import Marker
from readers.mongo.work_queue import Position, WorkQuery, WorkQueue
from readers.preflight.without_text import hash_of
from tests.readers.mongo.test_work_queue import EVERY_ID

DONE = "embedded"
N = 600


def ids_of(queue: WorkQueue, n_rows: int = 50) -> list[Any]:
    """All ids that the pages of a queue hold."""
    position: Position | None = queue.start()
    found: list[Any] = []
    while position is not None:
        page = queue.read(position, n_rows)
        found += [document["_id"] for document in page.documents]
        position = page.position
    return found


def fill(documents: Documents, ids: list[Any]) -> None:
    """A queue of these documents."""
    documents.insert_many([{"_id": value, "text": f"text {at}", "lang": "en"} for at, value in enumerate(ids)])
    create_indexes(documents, DONE)


def share(documents: Documents, text: str, scan: str = "queue") -> list[Any]:
    """Ids that a reader of a share reads."""
    query = WorkQuery.of(DONE, (), None, scan, "null", Part.parse(text))
    return ids_of(require_queue_index(documents, query, ("text",)))


@pytest.mark.parametrize("scan", ["queue", "id"])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_disjoint_and_complete_for_ids_of_every_type(documents: Documents, scan: str, count: int) -> None:
    fill(documents, EVERY_ID)
    shares = [share(documents, f"{number}/{count}", scan) for number in range(1, count + 1)]

    found = [key_of(value) for ids in shares for value in ids]
    assert len(found) == len(set(found)) == len(EVERY_ID)
    assert set(found) == set(map(key_of, EVERY_ID))


@pytest.mark.parametrize(
    "ids",
    [
        list(range(N)),
        [Int64(1_500_000_000_000_000_000 + (number << 22)) for number in range(N)],
        [f"tweet-{number:06d}" for number in range(N)],
        [ObjectId(f"{0x60000000 + number:08x}0123456789abcdef") for number in range(N)],
    ],
    ids=["row numbers", "snowflakes", "strings", "objectids"],
)
def test_shares_are_balanced_and_hang_on_the_documented_hash_alone(documents: Documents, ids: list[Any]) -> None:
    fill(documents, ids)
    for number in (1, 2, 3):
        found = share(documents, f"{number}/3")

        plain = [{"$oid": str(value)} if isinstance(value, ObjectId) else value for value in ids]
        hashes = [hash_of(value) for value in plain]
        expected = [value for value, one in zip(ids, hashes, strict=True) if one is not None and one % 3 == number - 1]
        assert found == expected
        assert abs(len(found) - N / 3) < 5 * (N * 2 / 9) ** 0.5  # five standard deviations of a fair draw


def test_a_share_stays_what_it_is_while_other_documents_are_marked_and_come(documents: Documents) -> None:
    fill(documents, list(range(N)))
    first, second = share(documents, "1/2"), share(documents, "2/2")
    documents.update_many({"_id": {"$in": [*first[::2], *second[::3]]}}, {"$set": {DONE: True}})
    documents.insert_one({"_id": -1, "text": "late", "lang": "en"})

    again = share(documents, "1/2"), share(documents, "2/2")

    assert [value for value in again[0] if value >= 0] == [value for value in first if value not in set(first[::2])]
    assert [value for value in again[1] if value >= 0] == [value for value in second if value not in set(second[::3])]
    assert sorted(again[0] + again[1])[0] == -1


def test_a_share_is_anded_to_the_filter_of_the_user(documents: Documents) -> None:
    fill(documents, list(range(N)))
    query = WorkQuery.of(DONE, (), '{"_id": {"$lt": 100}}', "queue", "null", Part.parse("2/2"))
    whole = dataclasses.replace(query, condition=None)

    found = ids_of(require_queue_index(documents, query, ("text",)))

    assert found == [value for value in ids_of(require_queue_index(documents, whole, ("text",))) if value < 100]
    assert found


def test_the_marks_of_a_share_are_those_of_its_documents(mongod: Any, documents: Documents) -> None:
    fill(documents, list(range(N)))
    documents.update_many({}, {"$set": {DONE: True}})
    marker = Marker(mongod.uri, documents.database.name, documents.name, DONE)
    try:
        shares = [[i for ids in marker.marked_ids(Part(number, 2)) for i in ids] for number in (1, 2)]
        assert sorted(shares[0] + shares[1]) == [i for ids in marker.marked_ids() for i in ids]
        assert all(hash_of(value) % 2 == 0 for value in shares[0])  # type: ignore[operator]
    finally:
        marker.close()


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "-1/2", "a/b", "1/2/3", "1/1001", "1.5/2"])
def test_what_is_no_share_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="1/3, 2/3 and 3/3"):
        Part.parse(text)
