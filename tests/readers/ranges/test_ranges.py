"""Ranges of `_id`: together the whole queue, each document in one of them, whatever its id, language or collation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import bson
import pytest
from bson import Code, DBRef, Decimal128, MaxKey, Regex
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

from readers.mongo.connection import Client, Documents, open_collection
from readers.mongo.index import require_queue_index
from readers.mongo.work_queue import WorkQuery, WorkQueue
from readers.ranges.cutting import cut
from readers.ranges.id_range import IdRange, RangesInTurn, in_range, to_text
from tests.readers.harness import DONE, canonical_ids, insert_raw, make_queue
from tests.readers.mongo.test_work_queue import EVERY_ID, every_combination, read_all

SCANS = pytest.mark.parametrize("scan", ["queue", "id"])


def index_of(collection: Documents, query: WorkQuery) -> str:
    """The index that a query follows."""
    return require_queue_index(collection, query, ("text",)).index


def read_range(collection: Documents, query: WorkQuery, wanted: IdRange, n_rows: int = 7) -> list[Any]:
    """The ids of a range."""
    index = index_of(collection, query)
    narrowed = in_range(collection, query, index, wanted)
    return read_all(WorkQueue(collection, narrowed, index, ("text",)), n_rows)


def read_ranges(collection: Documents, query: WorkQuery, bounds: list[str | None]) -> list[Any]:
    """The ids of all ranges between some bounds."""
    found: list[Any] = []
    for low, high in pairwise(bounds):
        found += read_range(collection, query, IdRange(low=low, high=high))
    return found


@pytest.fixture
def documents(client: Client, mongo_db: Database[dict[str, Any]]) -> Documents:
    """An empty collection."""
    return open_collection(client, mongo_db.name, "tweets")


@pytest.mark.seconds
@SCANS
def test_one_document_of_each_id_type_is_in_one_range_whatever_the_bounds_are(documents: Documents, scan: str) -> None:
    """Every id is a bound; a document whose `_id` is MaxKey is left to the pass over the whole queue."""
    make_queue(documents, [{"_id": value, "text": "x", "lang": f"l{n % 3}"} for n, value in enumerate(EVERY_ID)])
    query = WorkQuery(done_field=DONE, scan=scan)
    in_order = [row["_id"] for row in documents.find({}, {"_id": 1}).sort("_id", 1)]
    bounds = [None, *map(to_text, in_order[1:-1]), None]
    for wanted in (bounds, bounds[:1] + bounds[4:-1:5] + bounds[-1:]):
        found = read_ranges(documents, query, wanted)
        assert canonical_ids(found) == canonical_ids(in_order[:-1])
    assert isinstance(in_order[-1], MaxKey)


def test_a_range_begins_with_its_low_bound_and_ends_before_its_high_one(documents: Documents) -> None:
    """Numbers are compared by their value, of whatever type they are."""
    make_queue(documents, [{"_id": number, "text": "x"} for number in range(10)])
    query = WorkQuery(done_field=DONE)
    assert read_range(documents, query, IdRange(low=to_text(3), high=to_text(Decimal128("6.0")))) == [3, 4, 5]
    assert read_range(documents, query, IdRange(low=to_text(2.5), high=to_text(3))) == []


@pytest.mark.seconds
@pytest.mark.parametrize("options", [{}, {"scan": "id"}, {"langs": ("en", "es")}])
def test_every_lang_and_classified_is_in_one_range(documents: Documents, options: dict[str, Any]) -> None:
    """The queue's index is followed within a range, pair by pair."""
    made = every_combination()
    make_queue(documents, made)
    query = WorkQuery(done_field=DONE, **options)
    langs = options.get("langs")
    wanted = [row["_id"] for row in made if langs is None or row.get("lang") in langs]
    bounds = [None, *(to_text(bound) for bound in (100, 101, 350.5, 800)), None]
    assert sorted(read_ranges(documents, query, bounds)) == sorted(wanted)


def test_documents_with_several_keys_are_in_one_range_only(documents: Documents) -> None:
    """Such a one may come twice within its range, where the skip set drops it; never in two."""
    shapes: list[dict[str, Any]] = [{"lang": ["a", "z"]}, {"lang": []}, {"lang": "en", "classified": [True, None]}, {}]
    make_queue(documents, [{"_id": number, "text": "x", **shapes[number % 4]} for number in range(40)])
    query = WorkQuery(done_field=DONE)
    lower = set(read_range(documents, query, IdRange(high=to_text(17))))
    upper = set(read_range(documents, query, IdRange(low=to_text(17))))
    assert (lower, upper) == (set(range(17)), set(range(17, 40)))


@SCANS
def test_a_collation_does_not_tear_ranges_apart(client: Client, mongo_db: Database[dict[str, Any]], scan: str) -> None:
    """The index of `_id` orders text as the collection does, the queue's index byte by byte."""
    mongo_db.create_collection("collated", collation={"locale": "de", "strength": 3})
    collection = open_collection(client, mongo_db.name, "collated")
    ids = ["Zebra", "apfel", "Äpfel", "Apfel", "öl", "zebra", "B", "b", "ß", "ss"]
    make_queue(mongo_db["collated"], [{"_id": value, "text": "x"} for value in ids])
    query = WorkQuery(done_field=DONE, scan=scan)
    collation = {"locale": "simple"} if scan == "queue" else {"locale": "de", "strength": 3}
    in_order = [row["_id"] for row in collection.find({}, {"_id": 1}, collation=collation).sort("_id", 1)]
    bounds, _ = cut(collection, query, index_of(collection, query), 1)
    assert bounds == [None, None], "so short a queue is one piece"
    found = read_ranges(collection, query, [None, *map(to_text, in_order[2::3]), None])
    assert sorted(found) == sorted(ids)


@pytest.mark.seconds
@SCANS
def test_a_long_queue_is_cut_so_that_every_document_is_in_one_piece(documents: Documents, scan: str) -> None:
    """Bounds ascend; the estimates add up to the queue's size."""
    n_documents = 6_000
    make_queue(documents, [{"_id": number * 7919 % 1_000_003, "text": "x"} for number in range(n_documents)])
    query = WorkQuery(done_field=DONE, scan=scan)
    bounds, rows = cut(documents, query, index_of(documents, query), 2)
    assert len(bounds) == len(rows) + 1 > 5
    assert (bounds[0], bounds[-1], sum(rows)) == (None, None, n_documents)
    values = [bson.json_util.loads(bound)[""] for bound in bounds[1:-1] if bound is not None]
    assert values == sorted(set(values))
    found = read_ranges(documents, query, bounds)
    assert len(found) == len(set(found)) == n_documents


def test_a_queue_of_which_little_is_left_is_cut_as_well(documents: Documents) -> None:
    """The sample of the whole collection is what the bounds come from then; no document is left out."""
    make_queue(documents, [{"_id": number, "text": "x", **({} if number % 40 == 0 else {DONE: True})}
                           for number in range(4_000)])  # fmt: skip
    query = WorkQuery(done_field=DONE)
    bounds, _ = cut(documents, query, index_of(documents, query), 3)
    assert sorted(read_ranges(documents, query, bounds)) == list(range(0, 4_000, 40))


def test_an_empty_queue_is_one_piece(documents: Documents) -> None:
    """Nodes find nothing in it."""
    make_queue(documents, [])
    query = WorkQuery(done_field=DONE)
    bounds, rows = cut(documents, query, index_of(documents, query), 2)
    assert (bounds, rows) == ([None, None], [0])
    assert read_range(documents, query, IdRange(low=to_text(1))) == []


@pytest.mark.seconds
def test_ids_that_are_no_text_are_read_though_they_are_no_bounds(documents: Documents) -> None:
    """Broken UTF-8 cannot be written into a message; it lies within some range all the same."""
    make_queue(documents, [{"_id": f"id{number:04d}", "text": "x"} for number in range(3_000)])
    for number in range(300):
        broken = bson.encode({"_id": f"idQQ{number:03d}", "text": "x"}).replace(b"QQ", b"\xed\xa0")
        documents.insert_one(RawBSONDocument(broken))
    query = WorkQuery(done_field=DONE)
    bounds, _ = cut(documents, query, index_of(documents, query), 2)
    assert len(bounds) > 3
    assert len(read_ranges(documents, query, bounds)) == 3_300


@pytest.mark.seconds
def test_keys_that_python_could_not_write_begin_pairs_as_well(documents: Documents) -> None:
    """A language that is no UTF-8, regular expressions, code, binary data, and whatever else a field may hold."""
    odd = [value for value in EVERY_ID if not isinstance(value, MaxKey)]
    odd += [Regex("a.b", "i"), Code("f()"), Code("g()", {"x": 1}), DBRef("a", 1)]
    make_queue(documents, [{"_id": number, "text": "x", "lang": value} for number, value in enumerate(odd)])
    documents.insert_many([{"_id": 100 + n, "text": "x", "classified": value} for n, value in enumerate(odd)])
    for number in (200, 201):
        insert_raw(documents, {"_id": number, "text": "x", "lang": "broken"}, b"broken", b"br\xff\xfeen")
    wanted = [row["_id"] for row in documents.find({}, {"_id": 1})]
    found = read_ranges(documents, WorkQuery(done_field=DONE), [None, to_text(7), to_text(120), to_text(201), None])
    assert sorted(found) == sorted(wanted)


def test_a_document_that_changes_its_language_stays_in_its_range(documents: Documents) -> None:
    """Within the queue's index it moves, and two nodes may read that index at the time (G2)."""
    make_queue(documents, [{"_id": number, "text": "x", "lang": "en"} for number in range(20)])
    query = WorkQuery(done_field=DONE)
    lower = read_range(documents, query, IdRange(high=to_text(10)))
    documents.update_many({"_id": {"$lt": 10}}, {"$set": {"lang": "zz"}})
    upper = read_range(documents, query, IdRange(low=to_text(10)))
    assert (lower, upper) == (list(range(10)), list(range(10, 20)))


def test_marked_documents_are_in_no_range(documents: Documents) -> None:
    """What is unmarked is the queue, for ranges as well."""
    make_queue(documents, [{"_id": number, "text": "x"} for number in range(20)])
    documents.update_many({"_id": {"$in": [3, 4, 12]}}, {"$set": {DONE: True}})
    found = read_ranges(documents, WorkQuery(done_field=DONE), [None, to_text(4), None])
    assert sorted(found) == sorted(set(range(20)) - {3, 4, 12})


def test_a_reader_is_told_its_range_and_the_whole_queue_needs_no_narrowing(documents: Documents) -> None:
    """The pass that finds what has come meanwhile reads all of it, MaxKey and all."""
    make_queue(documents, [{"_id": value, "text": "x"} for value in (1, 2, 3, MaxKey())])
    query = WorkQuery(done_field=DONE)
    index = index_of(documents, query)
    ranges = RangesInTurn()
    assert ranges.narrowed(documents, query, index, "text") is None
    ranges.take_range({"low": to_text(2), "high": None})
    narrowed = ranges.narrowed(documents, query, index, "text")
    assert narrowed is not None
    assert read_all(WorkQueue(documents, narrowed, index, ("text",)), 5) == [2, 3]
    ranges.take_range({"low": None, "high": None})
    assert ranges.narrowed(documents, query, index, "text") is None


@pytest.mark.parametrize("value", EVERY_ID, ids=[repr(value)[:30] for value in EVERY_ID])
def test_a_bound_is_written_and_read_without_a_change(value: Any) -> None:
    """Its type included: bounds travel in messages and stand in the ledger."""
    read = IdRange.of(IdRange(low=to_text(value)).as_dict())
    assert read.low == to_text(value) and read.high is None
    again = bson.json_util.loads(read.low, json_options=bson.json_util.CANONICAL_JSON_OPTIONS)[""]
    assert canonical_ids([again]) == canonical_ids([value])
