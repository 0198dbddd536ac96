"""The reader's stage as a supervisor sees it: passes, commands, the text policy, what goes into slots."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from engine.errors import ConfigError, SourceError
from engine.memory.ids import IdType
from engine.memory.slots import TRUNCATED
from readers import stage
from readers.mongo.done_ids import build
from readers.mongo.ids import canonical
from readers.settings import ReaderSettings
from tests.readers.harness import DONE, ReaderHarness, canonical_ids, make_queue, read_all, settings_for
from tests.readers.mongo.test_work_queue import EVERY_ID

Documents = Collection[dict[str, Any]]


@pytest.fixture
def documents(mongo_db: Database[dict[str, Any]]) -> Documents:
    return mongo_db["tweets"]


def numbered(n_rows: int) -> list[dict[str, Any]]:
    return [{"_id": number, "text": f"text number {number}", "lang": "en"} for number in range(n_rows)]


def insert_raw(documents: Documents, document: dict[str, Any], marker: bytes, bad: bytes) -> None:
    """Insert a document in which `marker` is replaced by bytes that are not valid UTF-8."""
    assert len(marker) == len(bad)
    documents.insert_one(RawBSONDocument(bson.encode(document).replace(marker, bad)))


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


@pytest.mark.usefixtures("patient")
def test_batches_are_full_but_for_the_last(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, numbered(1000))
    reader = read_all(settings_for(documents, mongod.uri, bucketing=True, dedup=True, batch_size=32, window_rows=100))
    sizes = [batch.header.n_rows for batch in reader.batches]
    assert sum(sizes) == 1000
    assert sum(size < 32 for size in sizes) <= 3  # a window is given out early only while the source is slow


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


def test_stray_ids_are_quarantined(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": value, "text": "t"} for value in (1, 2.5, "three", True, None)])
    reader = read_all(settings_for(documents, mongod.uri))
    assert reader.ids == [1]
    assert reader.events.quarantined() == {
        canonical(2.5): "id_type",
        canonical("three"): "id_type",
        canonical(True): "id_type",
        canonical(None): "id_type",
    }


def test_texts_that_cannot_be_embedded_are_quarantined_with_their_reason(
    documents: Documents, mongod: LocalMongod
) -> None:
    make_queue(
        documents,
        [
            {"_id": 1, "text": "good"},
            {"_id": 2},
            {"_id": 3, "text": None},
            {"_id": 4, "text": 17},
            {"_id": 5, "text": ["a", "list"]},
            {"_id": 6, "text": {"of": "things"}},
            {"_id": 7, "text": ""},
            {"_id": 8, "text": " \t\n\u2003 "},
            {"_id": 9, "text": "with a \0 inside"},
            {"_id": 10, "text": b"bytes"},
            {"_id": 11, "text": "\u202eright to left \U0001f468\u200d\U0001f469\u200d\U0001f467"},
        ],
    )
    insert_raw(documents, {"_id": 12, "text": "lone QQQ surrogate"}, b"QQQ", b"\xed\xa0\x80")
    insert_raw(documents, {"_id": 13, "text": "cut off QQQ"}, b"QQQ", b"\xe2\x82 ")
    reader = read_all(settings_for(documents, mongod.uri))
    assert sorted(reader.ids) == [1, 9, 11]
    assert {row.id: row.text for row in reader.rows}[9] == "with a \0 inside"
    assert reader.events.quarantined() == {
        "2": "missing",
        "3": "missing",
        "4": "not_text",
        "5": "not_text",
        "6": "not_text",
        "7": "empty",
        "8": "empty",
        "10": "not_text",
        "12": "invalid_unicode",
        "13": "invalid_unicode",
    }
    assert reader.events.last("reader")["quarantined"] == 10
    assert all("text" not in entry or entry["text"] is None for entry in entries_of(reader))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that waits for whole windows, however slow the machine is at the moment."""
    monkeypatch.setattr(stage, "_STARVING_AFTER_S", 60.0)


def entries_of(reader: ReaderHarness) -> list[dict[str, Any]]:
    return [entry for message in reader.events.all("quarantine") for entry in message["entries"]]


def test_quarantine_carries_the_text_only_when_asked(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": 1, "text": "a" * 5000}])
    insert_raw(documents, {"_id": 2, "text": "bad QQQ"}, b"QQQ", b"\xed\xa0\x80")
    settings = settings_for(
        documents, mongod.uri, keep_text=True, truncate=False, prompt="query: ", max_text_bytes=4096
    )
    kept = {entry["reason"]: entry["text"] for entry in entries_of(read_all(settings))}
    assert kept["too_long"] == "a" * 5000
    assert kept["invalid_unicode"] == "bad \\udced\\udca0\\udc80"


def test_many_quarantined_texts_fit_into_messages(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": number, "text": "x" * 60_000} for number in range(200)])
    reader = read_all(settings_for(documents, mongod.uri, keep_text=True, truncate=False))
    assert len(entries_of(reader)) == 200
    assert {len(entry["text"]) for entry in entries_of(reader)} == {(32 << 10) - 2}  # as JSON, with its quotes
    assert reader.events.last("reader")["quarantined"] == 200


def test_absurd_ids_and_texts_still_fit_into_a_quarantine_message(
    documents: Documents, mongod: LocalMongod, tmp_path: Path
) -> None:
    make_queue(
        documents,
        [
            {"_id": '"' * 300_000, "text": "\0" * 300_000},
            {"_id": "\u20ac" * 100_000, "text": "fine"},
            {"_id": "plain", "text": "fine"},
        ],
    )
    log = tmp_path / "quarantine.jsonl"
    settings = settings_for(
        documents, mongod.uri, id_type="string", keep_text=True, truncate=False, quarantine_file=str(log)
    )
    reader = read_all(settings)
    assert reader.ids == ["plain"]
    entries = entries_of(reader)
    assert sorted(entry["reason"] for entry in entries) == ["too_large", "too_long"]
    log.write_text("".join(json.dumps({"_id": entry["id"], **entry}) + "\n" for entry in entries))
    assert read_all(settings).ids == ["plain"]  # ids that were cut are no reason to fail


def test_long_texts_are_cut_and_flagged(documents: Documents, mongod: LocalMongod) -> None:
    texts = {
        1: "short",
        2: "a" * 10_000,
        3: "\0" * 2_000,  # six bytes each as JSON
        4: "\U0001f30d" * 1_500,
        5: "a" * 4094,  # fits exactly, with its quotes
        6: "a" * 4095,
        7: '"' * 2047,
    }
    make_queue(documents, [{"_id": number, "text": text} for number, text in texts.items()])
    reader = read_all(settings_for(documents, mongod.uri, max_text_bytes=4096, bucketing=True))
    rows = {row.id: row for row in reader.rows}
    assert {number for number, row in rows.items() if row.flag == TRUNCATED} == {2, 3, 4, 6}
    for number, row in rows.items():
        assert texts[number].startswith(row.text)
        assert len(json.dumps(row.text, ensure_ascii=False).encode()) <= 4096
    assert len(rows[2].text) == 4094
    assert len(rows[3].text) > 600
    assert reader.events.last("reader")["truncated"] == 4


def test_long_texts_are_quarantined_when_they_may_not_be_cut(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": 1, "text": "b" * 4094}, {"_id": 2, "text": "b" * 4095}])
    reader = read_all(settings_for(documents, mongod.uri, max_text_bytes=4096, truncate=False, max_characters=100))
    assert reader.ids == [1]
    assert list(reader.events.quarantined().values()) == ["too_long"]


def test_texts_are_cut_to_so_many_characters_prompt_included(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": 1, "text": "0123456789abc"}, {"_id": 2, "text": "0123"}])
    reader = read_all(settings_for(documents, mongod.uri, max_characters=12, prompt="q: "))
    assert {row.id: (row.text, row.flag) for row in reader.rows} == {1: ("q: 012345678", TRUNCATED), 2: ("q: 0123", 0)}


def test_a_text_of_five_megabytes_is_cut(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": number, "text": "word " * (1 << 20)} for number in range(9)])
    reader = read_all(settings_for(documents, mongod.uri, max_text_bytes=20_000, max_request_bytes=60_000))
    assert sorted(reader.ids) == list(range(9))
    assert {row.flag for row in reader.rows} == {TRUNCATED}
    assert all(19_900 <= len(row.text) <= 20_000 for row in reader.rows)


def test_requests_stay_within_their_bytes_and_tokens(documents: Documents, mongod: LocalMongod) -> None:
    random.seed(7)
    make_queue(documents, [{"_id": number, "text": "é\n" * random.choice([1, 10, 100, 400])} for number in range(300)])
    for bucketing in (True, False):
        settings = settings_for(documents, mongod.uri, batch_size=32, max_request_bytes=8000, bucketing=bucketing)
        reader = read_all(settings)
        assert sorted(reader.ids) == list(range(300))
        assert max(batch.header.body_bytes for batch in reader.batches) <= 8000
        reader = read_all(
            settings_for(documents, mongod.uri, batch_size=32, max_request_tokens=400, bucketing=bucketing)
        )
        assert sorted(reader.ids) == list(range(300))
        assert all(
            len(batch.rows) == 1 or sum(len(text) // 3 + 2 for text in batch.texts) <= 400 for batch in reader.batches
        )


def test_a_dotted_text_field_is_followed(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(
        documents,
        [
            {"_id": 1, "tweet": {"full": {"text": "deep"}}},
            {"_id": 2, "tweet": {"full": "shallow"}},
            {"_id": 3, "tweet": [{"full": {"text": "in an array"}}]},
            {"_id": 4},
        ],
    )
    reader = read_all(settings_for(documents, mongod.uri, text_field="tweet.full.text"))
    assert [(row.id, row.text) for row in reader.rows] == [(1, "deep")]
    assert set(reader.events.quarantined().values()) == {"missing"}


@pytest.mark.usefixtures("patient")
def test_equal_texts_are_sent_once_and_every_row_knows_its_text(documents: Documents, mongod: LocalMongod) -> None:
    random.seed(11)
    texts = {number: random.choice(["alpha", "beta", "gamma gamma", f"only {number}"]) for number in range(400)}
    make_queue(documents, [{"_id": number, "text": text} for number, text in texts.items()])
    for bucketing in (True, False):
        reader = read_all(
            settings_for(documents, mongod.uri, batch_size=8, dedup=True, bucketing=bucketing, window_rows=128),
            max_rows=64,
        )
        assert {row.id: row.text for row in reader.rows} == texts
        assert len(reader.rows) == 400
        n_sent = sum(batch.header.n_texts for batch in reader.batches)
        assert reader.events.last("reader")["saved_texts"] == 400 - n_sent
        assert n_sent < 200
        for batch in reader.batches:
            assert len(set(batch.texts)) == len(batch.texts) <= 8
            assert batch.header.n_rows <= 64


def test_without_room_for_more_rows_equal_texts_share_a_batch_of_the_usual_size(
    documents: Documents, mongod: LocalMongod
) -> None:
    make_queue(documents, [{"_id": number, "text": "the same"} for number in range(30)])
    reader = read_all(settings_for(documents, mongod.uri, batch_size=4, dedup=True, bucketing=True))
    assert sorted(reader.ids) == list(range(30))
    assert all(batch.header.n_rows <= 4 and batch.texts == ["the same"] for batch in reader.batches)


def test_a_broken_text_among_equal_ones_takes_only_its_own_rows_along(
    documents: Documents, mongod: LocalMongod
) -> None:
    make_queue(documents, [{"_id": number, "text": "same"} for number in range(3)])
    for number in (3, 4):
        insert_raw(documents, {"_id": number, "text": "QQQ"}, b"QQQ", b"\xed\xa0\x80")
    documents.insert_one({"_id": 5, "text": "other"})
    reader = read_all(settings_for(documents, mongod.uri, batch_size=8, dedup=True, bucketing=True))
    assert {row.id: row.text for row in reader.rows} == {0: "same", 1: "same", 2: "same", 5: "other"}
    assert set(reader.events.quarantined().values()) == {"invalid_unicode"}


@pytest.mark.usefixtures("patient")
def test_windows_are_sorted_by_length_up_and_down(documents: Documents, mongod: LocalMongod) -> None:
    random.seed(3)
    make_queue(documents, [{"_id": number, "text": "x" * random.randint(1, 500)} for number in range(2000)])
    settings = settings_for(documents, mongod.uri, batch_size=10, bucketing=True, window_rows=500)
    reader = read_all(settings)
    assert sorted(reader.ids) == list(range(2000))
    spread = [max(map(len, batch.texts)) - min(map(len, batch.texts)) for batch in reader.batches]
    plain = read_all(settings_for(documents, mongod.uri, batch_size=10))
    plain_spread = [max(map(len, batch.texts)) - min(map(len, batch.texts)) for batch in plain.batches]
    assert sum(spread) < sum(plain_spread) / 5
    means = [sum(map(len, batch.texts)) / len(batch.texts) for batch in reader.batches]
    jumps = [abs(after - before) for before, after in itertools.pairwise(means)]
    assert max(jumps[2:]) < 250  # no fall from the longest to the shortest between two windows


def test_carried_columns_travel_beside_their_rows(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(
        documents,
        [
            {"_id": 1, "text": "one", "lang": "en", "user": {"id": 2**40, "name": "a"}, "score": 1, "ok": True},
            {"_id": 2, "text": "two", "lang": 3, "user": {"id": "no number"}, "score": 2.5},
            {"_id": 3, "text": "three", "user": None, "score": float("nan"), "ok": "yes", "extra": {"k": [1]}},
        ],
    )
    columns = (("lang", "string"), ("user.id", "int64"), ("score", "double"), ("ok", "bool"), ("extra", "json"))
    reader = read_all(settings_for(documents, mongod.uri, columns=columns, bucketing=True, dedup=True))
    assert {row.id: row.columns for row in reader.rows} == {
        1: ["en", 2**40, 1.0, True, None],
        2: [None, None, 2.5, None, None],
        3: [None, None, None, None, '{"k": [1]}'],
    }
    assert reader.events.last("reader")["misfits"] == {"lang": 1, "user.id": 1, "score": 1, "ok": 1}
    assert sorted(log["facts"]["column"] for log in reader.events.all("log")) == ["lang", "ok", "score", "user.id"]


def test_batches_whose_columns_are_too_large_are_halved_and_one_alone_is_refused(
    documents: Documents, mongod: LocalMongod
) -> None:
    make_queue(
        documents,
        [{"_id": number, "text": "t", "note": "n" * (3000 if number else 9000)} for number in range(10)],
    )
    reader = read_all(settings_for(documents, mongod.uri, columns=(("note", "string"),)), meta_bytes=7000)
    assert sorted(reader.ids) == list(range(1, 10))
    assert reader.events.quarantined() == {"0": "too_large"}


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


def test_a_document_whose_key_moves_forward_is_read_once(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, [{"_id": number, "text": "x", "lang": "b"} for number in range(400)])
    settings = settings_for(documents, mongod.uri, page_rows=20)
    with ReaderHarness(settings, n_slots=4) as reader:
        reader.take_rows(1)
        moved = reader.ids
        documents.update_many({"_id": {"$in": moved}}, {"$set": {"lang": "z", "classified": True}})
        reader.drain_until("pass_done")
    assert sorted(reader.ids) == list(range(400))


def test_settled_ids_leave_the_skip_set(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, numbered(40))
    with ReaderHarness(settings_for(documents, mongod.uri)) as reader:
        reader.drain_until("pass_done")
        half = [row.id for batch in reader.batches[:5] for row in batch.rows]
        documents.update_many({"_id": {"$in": half}}, {"$set": {DONE: True}})
        reader.command(do="settled", sequence=4)
        reader.command(do="rescan")
        assert reader.drain_until("pass_done", count=2)["found"] == 0
        assert reader.events.last("reader")["unsettled"] == 20


def test_documents_in_quarantine_are_skipped_and_counted_once(
    documents: Documents, mongod: LocalMongod, tmp_path: Path
) -> None:
    make_queue(documents, numbered(20))
    log = tmp_path / "quarantine.jsonl"
    log.write_text("".join(json.dumps({"_id": number, "reason": "rejected"}) + "\n" for number in (3, 4)))
    with ReaderHarness(settings_for(documents, mongod.uri, quarantine_file=str(log))) as reader:
        reader.drain_until("pass_done")
        assert reader.events.last("reader")["skipped"] == 2
        assert sorted(reader.ids) == [number for number in range(20) if number not in (3, 4)]
        with log.open("a") as stream:  # a client refuses another one, the supervisor writes it down
            stream.write(json.dumps({"_id": 5, "reason": "rejected"}) + "\n" + '{"_id": "torn')
        documents.update_many({"_id": {"$ne": 5}}, {"$set": {DONE: True}})
        reader.command(do="settled", sequence=1000)
        reader.command(do="rescan")
        assert reader.drain_until("pass_done", count=2)["found"] == 0
        assert reader.events.last("reader")["skipped"] == 2


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


def test_without_marks_ids_of_committed_shards_are_not_read_again(
    documents: Documents, mongod: LocalMongod, tmp_path: Path
) -> None:
    make_queue(documents, numbered(100))
    path = tmp_path / "done-ids"
    build(path, IdType.INT64, [list(range(0, 100, 3)), [1]])
    with ReaderHarness(settings_for(documents, mongod.uri, mark=False, done_ids_file=str(path))) as reader:
        reader.drain_until("pass_done")
        expected = [number for number in range(100) if number % 3 and number != 1]
        assert sorted(reader.ids) == expected
        reader.command(do="settled", sequence=1000)  # committed: their ids move into the list of done ones
        documents.insert_one({"_id": 555, "text": "new"})
        reader.command(do="rescan")
        assert reader.drain_until("pass_done", count=2)["found"] == 1
        assert reader.events.last("reader")["unsettled"] == 1
    assert sorted(reader.ids) == [*expected, 555]


def test_a_missing_index_is_refused_with_the_command_that_makes_it(documents: Documents, mongod: LocalMongod) -> None:
    documents.insert_one({"_id": 1, "text": "x"})
    with ReaderHarness(settings_for(documents, mongod.uri)) as reader:
        error = reader.wait_for_error()
    assert isinstance(error, ConfigError)
    assert f"engine index --database {documents.database.name} --collection tweets --done-field {DONE}" in str(error)


def test_an_index_dropped_while_reading_is_refused_too(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, numbered(3000))
    with ReaderHarness(settings_for(documents, mongod.uri, page_rows=50), n_slots=4) as reader:
        reader.take_rows(1)
        documents.drop_index("embedding_work_queue")
        with pytest.raises(AssertionError, match="engine index"):
            reader.drain_until("pass_done")
        assert isinstance(reader.wait_for_error(), ConfigError)


def test_a_slot_too_small_for_any_text_is_refused(documents: Documents, mongod: LocalMongod) -> None:
    make_queue(documents, numbered(1))
    with ReaderHarness(settings_for(documents, mongod.uri), slot_bytes=8192, meta_bytes=8100) as reader:
        error = reader.wait_for_error()
    assert isinstance(error, ConfigError)
    assert "--ring-bytes" in str(error)


@pytest.mark.parametrize(
    "fault",
    [
        {"failCommands": ["find"], "closeConnection": True},
        {"failCommands": ["find"], "errorCode": 11602},
        {"failCommands": ["find"], "errorCode": 10107},
        {"failCommands": ["find"], "errorCode": 43},
        {"failCommands": ["find", "listIndexes", "explain"], "errorCode": 189},
    ],
)
def test_a_database_that_fails_for_a_while_costs_nothing(
    documents: Documents, mongod: LocalMongod, fault: dict[str, Any]
) -> None:
    make_queue(documents, numbered(300))
    admin = documents.database.client.admin
    fault = {**fault, "appName": "engine-reader"}
    with ReaderHarness(settings_for(documents, mongod.uri, page_rows=20)) as reader:
        admin.command("configureFailPoint", "failCommand", mode={"times": 4}, data=fault)
        try:
            reader.drain_until("pass_done")
        finally:
            admin.command("configureFailPoint", "failCommand", mode="off")
    assert sorted(reader.ids) == list(range(300))


def test_a_database_that_stays_away_is_waited_for_and_ends_the_run_after_the_limit(
    documents: Documents, mongod: LocalMongod
) -> None:
    make_queue(documents, numbered(300))
    admin = documents.database.client.admin
    fault = {"failCommands": ["find"], "errorCode": 189, "appName": "engine-reader"}
    admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=fault)
    try:
        with ReaderHarness(settings_for(documents, mongod.uri, max_outage_s=600.0)) as reader:
            reader.drain_while_it_waits_for_the_source()
        with ReaderHarness(settings_for(documents, mongod.uri, max_outage_s=0.5)) as reader:
            error = reader.wait_for_error()
    finally:
        admin.command("configureFailPoint", "failCommand", mode="off")
    assert isinstance(error, SourceError)
    assert "--max-outage" in str(error)


def test_settings_survive_the_way_through_json_and_hide_the_uri(documents: Documents) -> None:
    settings = settings_for(
        documents, "mongodb://user:hush@localhost", langs=("en", "es"), columns=(("a.b", "json"),), limit=5
    )
    assert ReaderSettings.from_dict(json.loads(json.dumps(settings.as_dict()))) == settings
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected 1 to 65535"),
        ({"scan": "table"}, "scan is 'table'"),
        ({"id_type": "uuid"}, "id_type is 'uuid'"),
        ({"columns": (("a", "blob"),)}, "column 'a' has the type 'blob'"),
        ({"text_field": "a..b"}, "text_field is 'a..b'"),
        ({"limit": 0}, "limit is 0"),
        ({"prompt": "p" * 3000}, "the prompt has 3000 characters"),
        ({"max_outage_s": -1.0}, "max_outage_s is -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(documents: Documents, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings_for(documents, "mongodb://localhost", **change)


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
