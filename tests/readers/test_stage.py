"""The reader's stage as a supervisor sees it: passes, commands, limits, what it tells."""

from __future__ import annotations

from typing import Any

import pytest
from bson import ObjectId
from pymongo.collection import Collection

from bench.parts.local_mongod import LocalMongod
from engine.errors import ConfigError
from tests.readers.harness import DONE, ReaderHarness, canonical_ids, make_queue, numbered, read_all, settings_for
from tests.readers.mongo.test_work_queue import EVERY_ID

Documents = Collection[dict[str, Any]]


def test_a_pass_reads_every_document_once_and_numbers_its_batches(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, numbered(103))
    reader = read_all(settings_for(documents, mongod.uri, page_rows=10))
    assert reader.ids == list(range(103))
    assert [batch.header.sequence for batch in reader.batches] == list(range(len(reader.batches)))
    assert {batch.header.generation for batch in reader.batches} == {3}
    assert [row.text for row in reader.rows] == [f"text number {number}" for number in range(103)]
    done = reader.events.last("pass_done")
    assert (done["pass"], done["documents"], done["found"]) == (1, 103, 103)
    facts = reader.events.last("reader")
    assert facts["state"] == "pass_done"
    assert facts["batches"] == len(reader.batches)


def test_an_empty_queue_ends_its_pass_at_once(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [])
    reader = read_all(settings_for(documents, mongod.uri))
    assert reader.events.last("pass_done")["found"] == 0


@pytest.mark.parametrize("scan", ["queue", "id"])
def test_ids_of_every_type_travel_as_extended_json(documents: Documents, mongod: LocalMongod, scan: str) -> None:
    make_queue(documents, [{"_id": value, "text": "some text"} for value in EVERY_ID])
    reader = read_all(settings_for(documents, mongod.uri, id_type="extjson", scan=scan))
    assert canonical_ids(reader.ids) == canonical_ids([row["_id"] for row in documents.find({}, {"_id": 1})])
    assert not reader.events.quarantined()


@pytest.mark.parametrize(
    ("id_type", "ids"),
    [
        ("int64", [0, -1, 2**31, 2**63 - 1, -(2**63)]),
        ("string", ["", "a", "ü\0\U0001f30d", "x" * 900]),
        ("objectid", [ObjectId(), ObjectId(), ObjectId("f" * 24)]),
    ],
)
def test_ids_of_one_type_travel_as_themselves(
    documents: Documents, mongod: LocalMongod, id_type: str, ids: list[Any]
) -> None:
    make_queue(documents, [{"_id": value, "text": "some text"} for value in ids])
    reader = read_all(settings_for(documents, mongod.uri, id_type=id_type))
    assert sorted(reader.ids) == sorted(ids)


@pytest.mark.parametrize(("limit", "work_left"), [(1, True), (7, True), (49, True), (50, False), (80, False)])
def test_a_limit_is_kept_and_says_whether_more_was_there(
    documents: Documents, mongod: LocalMongod, limit: int, work_left: bool
) -> None:
    make_queue(documents, numbered(50))
    for bucketing in (True, False):
        reader = read_all(settings_for(documents, mongod.uri, limit=limit, page_rows=10, bucketing=bucketing))
        assert len(reader.rows) == min(limit, 50)
        if limit > 50:
            assert reader.events.all("pass_done")
        else:
            stopped = reader.events.last("stopped")
            assert (stopped["documents"], stopped["work_left"]) == (limit, work_left)


def test_quarantined_documents_count_towards_the_limit(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": number, "text": "" if number % 2 else "fine"} for number in range(20)])
    reader = read_all(settings_for(documents, mongod.uri, limit=10))
    assert len(reader.rows) + len(reader.events.quarantined()) == 10


def test_a_second_pass_finds_what_came_behind_and_nothing_twice(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, numbered(20))
    with ReaderHarness(settings_for(documents, mongod.uri)) as reader:
        reader.drain_until("pass_done")
        documents.insert_many([{"_id": -number, "text": "came late", "lang": "aa"} for number in range(1, 6)])
        reader.command(do="rescan")
        second = reader.drain_until("pass_done", count=2)
        assert (second["pass"], second["documents"], second["found"]) == (2, 25, 5)
        reader.command(do="rescan")
        assert reader.drain_until("pass_done", count=3)["found"] == 0
        assert len(set(reader.ids)) == len(reader.ids) == 25


def test_stop_ends_the_publishing_and_says_that_work_is_left(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, numbered(500))
    with ReaderHarness(settings_for(documents, mongod.uri), n_slots=4) as reader:
        reader.take_rows(1)
        reader.command(do="stop")
        stopped = reader.drain_until("stopped")
        assert stopped["work_left"] is True
        assert stopped["documents"] == len(reader.rows) < 500


def test_stop_between_passes_is_answered(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, numbered(5))
    with ReaderHarness(settings_for(documents, mongod.uri)) as reader:
        reader.drain_until("pass_done")
        reader.command(do="stop")
        assert reader.drain_until("stopped")["documents"] == 5


def test_a_full_ring_is_waited_for_and_reported(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, numbered(200))
    with ReaderHarness(settings_for(documents, mongod.uri), n_slots=2) as reader:
        reader.wait_until_full()
        reader.drain_until("pass_done")
        assert reader.events.last("reader")["ring_wait_s"] > 0
    assert sorted(reader.ids) == list(range(200))


def test_the_estimate_is_told(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [*numbered(30), {"_id": 1000, "text": "x", DONE: True}])
    with ReaderHarness(settings_for(documents, mongod.uri)) as reader:
        reader.drain_until("pass_done")
        while reader.events.last("reader")["estimate"] is None:
            reader.hear_more("reader")
        assert reader.events.last("reader")["estimate"] == 30


def test_a_missing_index_is_refused_with_the_command_that_makes_it(documents: Documents, mongod: LocalMongod) -> None:
    documents.insert_one({"_id": 1, "text": "x"})
    with ReaderHarness(settings_for(documents, mongod.uri)) as reader:
        error = reader.wait_for_error()
    assert isinstance(error, ConfigError)
    assert f"engine index --database {documents.database.name} --collection tweets --done-field {DONE}" in str(error)


def test_a_slot_too_small_for_any_text_is_refused(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, numbered(1))
    with ReaderHarness(settings_for(documents, mongod.uri), slot_bytes=8192, meta_bytes=8100) as reader:
        error = reader.wait_for_error()
    assert isinstance(error, ConfigError)
    assert "--ring-bytes" in str(error)


@pytest.mark.seconds
def test_a_paused_reader_publishes_nothing_until_it_is_resumed(documents: Documents, mongod: LocalMongod) -> None:
    """The supervisor holds it while marking is far behind; slots are free all the time."""
    make_queue(documents, numbered(400))
    with ReaderHarness(settings_for(documents, mongod.uri), n_slots=4) as reader:
        reader.wait_until_full()
        reader.command(do="pause")
        reader.hear_more("reader", count=2)  # the second one was written after the pause had been obeyed

        while reader.take_batch() is not None:
            pass
        assert reader.ids == list(range(16))
        held = reader.hear_more("reader", count=3)
        assert held["documents"] == 16
        assert reader.take_batch() is None

        reader.command(do="resume")
        reader.drain_until("pass_done")

    assert reader.ids == list(range(400))
