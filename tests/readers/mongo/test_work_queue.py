"""Pages of the work queue: complete, without repeats, from every position, for every kind of key."""

from __future__ import annotations

import datetime
import itertools
import math
import uuid
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, MaxKey, MinKey, ObjectId, Timestamp
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.database import Database

from engine.errors import ConfigError
from readers.mongo import work_queue
from readers.mongo.connection import Client, open_collection
from readers.mongo.ids import key_of
from readers.mongo.index import require_queue_index
from readers.mongo.work_queue import Position, WorkQuery, WorkQueue
from tests.readers.harness import DONE, canonical_ids, insert_raw, make_queue

Documents = Collection[dict[str, Any]]

EVERY_ID: list[Any] = [
    MinKey(),
    None,
    -5,
    0,
    Int64(2**40),
    1.5,
    math.nan,
    math.inf,
    Decimal128("2.25"),
    "",
    "text",
    "Grüße \U0001f30d",
    {},
    {"a": 1, "b": {"c": [1, 2]}},
    {"b": 1, "a": 1},
    Binary(b"\x00\x01"),
    Binary(uuid.UUID(int=7).bytes, 4),
    ObjectId("0123456789abcdef01234567"),
    False,
    True,
    datetime.datetime(2020, 1, 2, 3, 4, 5),
    datetime.datetime(1950, 1, 1),
    Timestamp(5, 6),
    MaxKey(),
]
LANGS: list[Any] = ["absent", None, "", "en", "es", 7, True]
CLASSIFIED: list[Any] = ["absent", None, False, True, 0, 1.5, "yes", {"label": "x"}]


@pytest.fixture
def documents(mongo_db: Database[dict[str, Any]]) -> Documents:
    return mongo_db["tweets"]


def open_queue(client: Client, documents: Documents, **query: Any) -> WorkQueue:
    collection = open_collection(client, documents.database.name, documents.name)
    return require_queue_index(collection, WorkQuery(done_field=DONE, **query), ("text",))


def read_all(queue: WorkQueue, n_rows: int) -> list[Any]:
    found = []
    position: Position | None = queue.start()
    while position is not None:
        page = queue.read(position, n_rows)
        assert len(page.documents) <= n_rows
        found += [document["_id"] for document in page.documents]
        position = page.position
    return found


def every_combination() -> list[dict[str, Any]]:
    made = []
    for number, (lang, classified, _) in enumerate(itertools.product(LANGS, CLASSIFIED, range(3))):
        document: dict[str, Any] = {"_id": number * 7 % 1009, "text": f"text {number}"}
        if lang != "absent":
            document["lang"] = lang
        if classified != "absent":
            document["classified"] = classified
        made.append(document)
    return made


@pytest.mark.parametrize("n_rows", [1, 2, 3, 7, 50, 5000])
def test_every_lang_and_classified_is_read_once_whatever_the_page_size(
    client: Client, documents: Documents, n_rows: int
) -> None:
    made = every_combination()
    make_queue(documents, made)
    found = read_all(open_queue(client, documents), n_rows)
    assert sorted(found) == sorted(document["_id"] for document in made)


@pytest.mark.seconds
@pytest.mark.parametrize("stretch", [1, 3, 40, 5000])
@pytest.mark.parametrize("options", [{}, {"scan": "id"}, {"langs": ("en", "es")}])
def test_a_sparse_queue_is_read_completely_whatever_a_query_may_look_at(
    client: Client, documents: Documents, monkeypatch: pytest.MonkeyPatch, stretch: int, options: dict[str, Any]
) -> None:
    """One of 20 is wanted. Keys may be broken text, and arrays: such a document may come once for each of its keys."""
    monkeypatch.setattr(work_queue, "STRETCH_KEYS", stretch)
    made = [{**document, "n": number} for number, document in enumerate(every_combination())]
    made += [{"_id": 2000 + number, "lang": ["en", "de"], "n": 0} for number in range(5)]
    make_queue(documents, made)
    insert_raw(documents, {"_id": 3000, "lang": "broken", "n": 0}, b"broken", b"br\xff\xfeen")
    condition = {"n": {"$mod": [20, 0]}}
    plain = open_queue(client, documents, condition=condition, **options)
    sparse = open_queue(client, documents, condition=condition, is_sparse=True, **options)
    for n_rows in (1, 4, 500):
        assert set(read_all(sparse, n_rows)) == set(read_all(plain, n_rows)) != set()


@pytest.mark.parametrize("scan", ["queue", "id"])
@pytest.mark.parametrize("n_rows", [1, 2, 5, 100])
def test_one_document_of_each_id_type_is_read_once_from_every_position(
    client: Client, documents: Documents, scan: str, n_rows: int
) -> None:
    make_queue(documents, [{"_id": value, "text": "x"} for value in EVERY_ID])
    found = read_all(open_queue(client, documents, scan=scan), n_rows)
    assert canonical_ids(found) == canonical_ids([row["_id"] for row in documents.find({}, {"_id": 1})])
    assert len(found) == len(EVERY_ID)


def test_retweets_and_done_documents_are_left_out_and_null_counts_as_unset(
    client: Client, documents: Documents
) -> None:
    make_queue(
        documents,
        [
            {"_id": 1, "text": "a"},
            {"_id": 2, "text": "a", "retweeted": None, DONE: None},
            {"_id": 3, "text": "a", "retweeted": {"id": 5}},
            {"_id": 4, "text": "a", "retweeted": False},
            {"_id": 5, "text": "a", DONE: True},
            {"_id": 6, "text": "a", DONE: False},
        ],
    )
    assert sorted(read_all(open_queue(client, documents), 2)) == [1, 2]
    assert sorted(read_all(open_queue(client, documents, scan="id"), 2)) == [1, 2]


def test_a_page_goes_on_where_its_last_document_was_removed(client: Client, documents: Documents) -> None:
    make_queue(documents, [{"_id": number, "text": "x", "lang": "en"} for number in range(10)])
    queue = open_queue(client, documents)
    page = queue.read(queue.start(), 4)
    documents.delete_one({"_id": 3})
    documents.update_one({"_id": 4}, {"$set": {DONE: True}})
    assert page.position is not None
    following = queue.read(page.position, 4)
    assert [document["_id"] for document in following.documents] == [5, 6, 7, 8, 9]  # one more, as promised


def test_an_id_that_python_takes_for_the_last_one_is_not_dropped(client: Client, documents: Documents) -> None:
    make_queue(documents, [{"_id": 1, "text": "x"}, {"_id": True, "text": "x"}])
    queue = open_queue(client, documents)
    page = queue.read(queue.start(), 1)
    assert page.documents[0]["_id"] == 1
    documents.delete_one({"_id": {"$type": "int"}})
    assert page.position is not None
    assert [document["_id"] for document in queue.read(page.position, 1).documents] == [True]


@pytest.mark.parametrize("n_rows", [1, 2, 3, 100])
def test_arrays_as_lang_or_classified_lose_nothing(client: Client, documents: Documents, n_rows: int) -> None:
    shapes: list[dict[str, Any]] = [
        {"lang": []},
        {"lang": ["a", "z"]},
        {"lang": ["en", "en"]},
        {"lang": "en", "classified": []},
        {"lang": "en", "classified": [True, False]},
        {"lang": [["nested"]]},
        {"lang": "zz", "classified": [None]},
        {},
    ]
    make_queue(documents, [{"_id": number, "text": "x", **shapes[number % len(shapes)]} for number in range(40)])
    found = read_all(open_queue(client, documents), n_rows)
    assert set(found) == set(range(40))  # a document with several keys may come twice; the skip set drops it


@pytest.mark.parametrize("n_rows", [1, 2, 100])
@pytest.mark.parametrize("scan", ["queue", "id"])
def test_invalid_text_in_keys_does_not_stop_a_page(
    client: Client, documents: Documents, n_rows: int, scan: str
) -> None:
    make_queue(documents, [{"_id": "a", "text": "x"}, {"_id": "zz", "text": "x"}])
    broken = bson.encode({"_id": "yQQQ", "text": "x", "lang": "eQQQ"}).replace(b"QQQ", b"\xed\xa0\x80")
    documents.insert_one(RawBSONDocument(broken))
    found = read_all(open_queue(client, documents, scan=scan), n_rows)
    assert len(found) == 3
    assert len({key_of(value) for value in found}) == 3


@pytest.mark.seconds
def test_only_the_wanted_languages_are_read(client: Client, documents: Documents) -> None:
    made = every_combination()
    make_queue(documents, made)
    wanted = [document["_id"] for document in made if document.get("lang") in ("en", "es")]
    for n_rows in (1, 4, 1000):
        queue = open_queue(client, documents, langs=("es", "en"))
        assert sorted(read_all(queue, n_rows)) == sorted(wanted)
    assert read_all(open_queue(client, documents, langs=("xx",)), 10) == []


def test_a_further_condition_is_anded(client: Client, documents: Documents) -> None:
    make_queue(documents, [{"_id": number, "text": "x", "n": number % 5, DONE: None} for number in range(30)])
    query = WorkQuery.of(DONE, (), '{"n": {"$gte": {"$numberInt": "3"}}}', "queue")
    collection = open_collection(client, documents.database.name, documents.name)
    queue = require_queue_index(collection, query, ("text",))
    assert sorted(read_all(queue, 4)) == [number for number in range(30) if number % 5 >= 3]


@pytest.mark.parametrize("condition", ["{", "[1]", "3", '{"a": {"$oid": "short"}}'])
def test_a_condition_that_is_no_object_is_refused(condition: str) -> None:
    with pytest.raises(ConfigError, match="--filter"):
        WorkQuery.of(DONE, (), condition, "queue")


def test_a_condition_that_mongodb_does_not_take_is_refused(client: Client, documents: Documents) -> None:
    make_queue(documents, [{"_id": 1, "text": "x"}])
    collection = open_collection(client, documents.database.name, documents.name)
    with pytest.raises(ConfigError, match="check --filter"):
        require_queue_index(collection, WorkQuery.of(DONE, (), '{"a": {"$nonsense": 1}}', "queue"), ("text",))


@pytest.mark.seconds
def test_a_page_larger_than_an_answer_comes_in_several_pages(client: Client, documents: Documents) -> None:
    make_queue(documents, [{"_id": number, "text": "x" * (5 << 20)} for number in range(8)])
    queue = open_queue(client, documents)
    first = queue.read(queue.start(), 8)
    assert 1 <= len(first.documents) < 8
    assert sorted(read_all(queue, 8)) == list(range(8))


def test_dates_outside_pythons_years_are_read(client: Client, documents: Documents) -> None:
    make_queue(documents, [{"_id": bson.datetime_ms.DatetimeMS(10**17), "text": "x"}, {"_id": 1, "text": "x"}])
    assert len(read_all(open_queue(client, documents), 1)) == 2


def test_a_nested_text_field_and_its_parent_can_both_be_fetched(client: Client, documents: Documents) -> None:
    make_queue(documents, [{"_id": 1, "tweet": {"text": "x", "other": 1}}])
    collection = open_collection(client, documents.database.name, documents.name)
    queue = require_queue_index(collection, WorkQuery(done_field=DONE), ("tweet.text", "tweet"))
    assert queue.read(queue.start(), 5).documents[0]["tweet"] == {"text": "x", "other": 1}


@pytest.mark.parametrize("scan", ["queue", "id"])
def test_the_explicit_order_that_shards_need_is_the_index_order(
    client: Client, documents: Documents, scan: str
) -> None:
    made = every_combination()
    make_queue(documents, made)
    collection = open_collection(client, documents.database.name, documents.name)
    index = "_id_" if scan == "id" else "embedding_work_queue"
    queue = WorkQueue(collection, WorkQuery(done_field=DONE, scan=scan), index, ("text",), merges=True)
    assert "SORT" not in str(queue.explain())
    assert read_all(queue, 10) == read_all(open_queue(client, documents, scan=scan), 10)
