"""Marking: exact counts, repeats without harm, foreign marks, faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import bson
import pytest
from bson import ObjectId
from bson.int64 import Int64
from pymongo.collection import Collection
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from engine.errors import ConfigError, MarksRefused, SourceError
from engine.memory.ids import IdType
from readers.mongo import marker as marker_module
from readers.mongo.ids import from_bson_ids, to_bson_ids
from readers.mongo.marker import Marker, MarkResult, probe_write_right
from tests.readers.harness import DONE, canonical_ids
from tests.readers.mongo.test_work_queue import EVERY_ID

Documents = Collection[dict[str, Any]]


@pytest.fixture
def documents(mongo_db: Database[dict[str, Any]]) -> Documents:
    return mongo_db["tweets"]


@pytest.fixture
def marker(mongod: LocalMongod, documents: Documents) -> Iterator[Marker]:
    found = Marker(mongod.uri, documents.database.name, documents.name, DONE, max_outage_s=100.0)
    yield found
    found.close()


def fill(documents: Documents, n_rows: int) -> list[int]:
    documents.insert_many([{"_id": number, "text": "x"} for number in range(n_rows)])
    return list(range(n_rows))


def n_marked(documents: Documents) -> int:
    return documents.count_documents({DONE: True})


def test_documents_are_marked_in_chunks_and_counted(
    documents: Documents, marker: Marker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker_module, "CHUNK_ROWS", 7)
    ids = fill(documents, 100)
    assert marker.mark(ids[:60], ours_before=False) == MarkResult(matched=60)
    assert n_marked(documents) == 60
    assert marker.mark([], ours_before=False) == MarkResult()


def test_marking_again_after_a_crash_finds_our_own_marks(documents: Documents, marker: Marker) -> None:
    ids = fill(documents, 10)
    marker.mark(ids[:4], ours_before=False)
    assert marker.mark(ids, ours_before=True) == MarkResult(matched=6, already=4)


def test_marks_that_nobody_of_us_set_are_foreign(documents: Documents, marker: Marker) -> None:
    ids = fill(documents, 10)
    documents.update_many({"_id": {"$lt": 3}}, {"$set": {DONE: True}})
    assert marker.mark(ids, ours_before=False) == MarkResult(matched=7, already=3, foreign=3)


def test_deleted_documents_are_gone(documents: Documents, marker: Marker) -> None:
    ids = fill(documents, 10)
    documents.delete_many({"_id": {"$gte": 8}})
    documents.update_one({"_id": 0}, {"$set": {DONE: True}})
    assert marker.mark(ids, ours_before=True) == MarkResult(matched=7, already=1, gone=2)


def test_a_field_that_is_null_or_set_to_something_else_counts_as_it_should(
    documents: Documents, marker: Marker
) -> None:
    documents.insert_many([{"_id": 1, DONE: None}, {"_id": 2, DONE: "yes"}, {"_id": 3}])
    assert marker.mark([1, 2, 3], ours_before=True) == MarkResult(matched=2, already=1)


@pytest.mark.seconds
@pytest.mark.parametrize(
    "fault",
    [
        {"failCommands": ["update"], "closeConnection": True},
        {"failCommands": ["update"], "errorCode": 11602},
        {"failCommands": ["update"], "writeConcernError": {"code": 64, "errmsg": "waiting timed out"}},
        {"failCommands": ["find"], "closeConnection": True},
    ],
)
def test_faults_while_marking_lose_nothing_and_are_not_taken_for_foreign_marks(
    documents: Documents, marker: Marker, fault: dict[str, Any]
) -> None:
    ids = fill(documents, 50)
    documents.delete_one({"_id": 49})  # so that the marker has to look, too
    admin = documents.database.client.admin
    fault = {**fault, "appName": "engine-marker"}
    admin.command("configureFailPoint", "failCommand", mode={"times": 3}, data=fault)
    try:
        result = marker.mark(ids, ours_before=False)
    finally:
        admin.command("configureFailPoint", "failCommand", mode="off")
    assert result.matched + result.already == 49
    assert (result.gone, result.foreign) == (1, 0)
    assert n_marked(documents) == 49


def test_a_database_that_stays_away_ends_the_marking(mongod: LocalMongod, documents: Documents) -> None:
    fill(documents, 3)
    short = Marker(mongod.uri, documents.database.name, documents.name, DONE, max_outage_s=0.5)
    admin = documents.database.client.admin
    fault = {"failCommands": ["update"], "errorCode": 189, "appName": "engine-marker"}
    admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=fault)
    try:
        with pytest.raises(SourceError, match="--max-outage"):
            short.mark([0, 1, 2], ours_before=False)
    finally:
        admin.command("configureFailPoint", "failCommand", mode="off")
        short.close()


def test_a_validator_that_refuses_the_mark_is_named(documents: Documents, marker: Marker) -> None:
    fill(documents, 3)
    documents.database.command("collMod", documents.name, validator={DONE: {"$exists": False}})
    with pytest.raises(ConfigError, match="validator"):
        marker.mark([0, 1, 2], ours_before=False)


def fill_to_the_brim(documents: Documents, number: int) -> None:
    """Insert a document that is so large that no field fits into it any more."""
    empty = len(bson.encode({"_id": number, "text": ""}))
    documents.insert_one({"_id": number, "text": "x" * (16 * 1024 * 1024 - empty - 8)})


def test_a_document_with_no_room_for_the_mark_is_named_and_all_others_are_marked(
    documents: Documents, marker: Marker
) -> None:
    """Within bytes of 16 MB; it is no validator that refuses."""
    for number in range(6):
        fill_to_the_brim(documents, number) if number == 3 else documents.insert_one({"_id": number, "text": "x"})
    for _ in range(2):  # the next start finds the same
        with pytest.raises(MarksRefused, match=r"larger than 16777216 \(code 17419\).*1 documents cannot") as refused:
            marker.mark(list(range(6)), ours_before=True)
        assert refused.value.ids == ('{"$numberInt": "3"}',)
    assert [row["_id"] for row in documents.find({DONE: True})] == [0, 1, 2, 4, 5]


def test_a_unique_index_on_the_done_field_lets_one_mark_through_and_names_the_others(
    documents: Documents, marker: Marker
) -> None:
    fill(documents, 4)
    documents.create_index(DONE, unique=True, partialFilterExpression={DONE: True})
    with pytest.raises(MarksRefused, match=r"duplicate key error.*3 documents cannot be marked"):
        marker.mark([0, 1, 2, 3], ours_before=False)
    assert n_marked(documents) == 1


def test_every_cause_is_told_when_documents_are_refused_for_several(documents: Documents, marker: Marker) -> None:
    fill_to_the_brim(documents, 0)
    documents.insert_many([{"_id": 1, "locked": True}, {"_id": 2}])
    rule = {"$or": [{DONE: {"$exists": False}}, {"locked": {"$exists": False}}]}
    documents.database.command("collMod", documents.name, validator=rule)
    with pytest.raises(MarksRefused, match=r"(?s)(17419.*a validator|a validator.*17419).*2 documents cannot"):
        marker.mark([0, 1, 2], ours_before=False)
    assert n_marked(documents) == 1


@pytest.mark.seconds
@pytest.mark.parametrize(
    "fault",
    [
        {"writeConcernError": {"code": 64, "errmsg": "waiting timed out"}},
        {"errorCode": 11602},
        {"closeConnection": True},
    ],
)
def test_a_fault_while_documents_are_marked_one_by_one_is_waited_out(
    documents: Documents, marker: Marker, fault: dict[str, Any]
) -> None:
    """Such a chunk is refused in the end for what it holds, not for the fault."""
    fill_to_the_brim(documents, 0)
    documents.insert_many([{"_id": number} for number in range(1, 4)])
    admin = documents.database.client.admin
    data = {"failCommands": ["update"], "appName": "engine-marker", **fault}
    admin.command("configureFailPoint", "failCommand", mode={"skip": 1}, data=data)
    timer = threading.Timer(1.0, lambda: admin.command("configureFailPoint", "failCommand", mode="off"))
    timer.start()
    try:
        with pytest.raises(MarksRefused, match="1 documents cannot be marked"):
            marker.mark([0, 1, 2, 3], ours_before=False)
    finally:
        timer.cancel()
        admin.command("configureFailPoint", "failCommand", mode="off")
    assert n_marked(documents) == 3


@pytest.mark.parametrize("id_type", list(IdType))
def test_ids_go_into_the_column_and_back(documents: Documents, marker: Marker, id_type: IdType) -> None:
    examples: dict[IdType, list[Any]] = {
        IdType.INT64: [1, Int64(2**40), -3],
        IdType.STRING: ["", "a", "ü\0"],
        IdType.OBJECTID: [ObjectId(), ObjectId()],
        IdType.EXTJSON: EVERY_ID,
    }
    ids = examples[id_type]
    documents.insert_many([{"_id": value} for value in ids])
    stored = from_bson_ids(id_type, ids)
    assert (
        canonical_ids(to_bson_ids(id_type, stored))
        == canonical_ids([int(value) if id_type is IdType.INT64 else value for value in ids])
        or id_type is IdType.INT64
    )
    assert marker.mark(to_bson_ids(id_type, stored), ours_before=False) == MarkResult(matched=len(ids))
    assert n_marked(documents) == len(ids)


@pytest.mark.seconds
def test_large_ids_are_split_by_their_bytes(documents: Documents, marker: Marker) -> None:
    ids = [{"n": number, "pad": "x" * (1 << 20)} for number in range(20)]
    for value in ids:
        documents.insert_one({"_id": value})
    assert marker.mark(ids, ours_before=False) == MarkResult(matched=20)


def test_the_state_of_marks_can_be_asked_for(
    documents: Documents, marker: Marker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker_module, "CHUNK_ROWS", 3)
    ids = fill(documents, 20)
    marker.mark(ids[:11], ours_before=False)
    assert marker.are_marked([0, 10, 11, 99]) == [True, True, False, None]
    assert [value for portion in marker.marked_ids() for value in portion] == ids[:11]


def test_every_type_of_marked_id_is_listed(
    documents: Documents, marker: Marker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker_module, "CHUNK_ROWS", 2)
    values = [value for value in EVERY_ID if canonical_ids([value]) != canonical_ids([EVERY_ID[-1]])]
    documents.insert_many([{"_id": value, DONE: True} for value in values])
    listed = [value for portion in marker.marked_ids() for value in portion]
    assert canonical_ids(listed) == canonical_ids([row["_id"] for row in documents.find({}, {"_id": 1})])


def test_the_right_to_mark_can_be_probed_without_changing_anything(
    mongod: LocalMongod, documents: Documents, marker: Marker
) -> None:
    fill(documents, 3)
    marker.ping()
    probe_write_right(mongod.uri, documents.database.name, documents.name, DONE)
    assert n_marked(documents) == 0
