"""The skip set: what is read already, in quarantine or done is not read again."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from bson.int64 import Int64
from pymongo.collection import Collection

from bench.parts.local_mongod import LocalMongod
from engine.ledger.quarantine import Quarantine
from readers.batching import skip
from readers.batching.skip import QuarantineLog
from readers.mongo.ids import canonical, key_of_text
from tests.readers.harness import DONE, ReaderHarness, make_queue, numbered, settings_for

Documents = Collection[dict[str, Any]]


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


@pytest.mark.parametrize("kept_in_memory", [0, 5, 50_000])
def test_any_number_of_quarantined_documents_is_skipped_and_counted_once_wherever_they_are_held(
    documents: Documents, mongod: LocalMongod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_in_memory: int
) -> None:
    """In memory or in a file; of every type of `_id`, and a reader that quarantines more itself."""
    monkeypatch.setattr(skip, "KEPT_IN_MEMORY", kept_in_memory)
    values: list[Any] = [Int64(5), 2**40, "seven", "ü", ObjectId(), {"n": 1}, True, 1.5, b"bytes"]
    make_queue(documents, [{"_id": value, "text": "x"} for value in [*values, *range(100, 130)]])
    documents.insert_many([{"_id": number, "text": ""} for number in range(200, 230)])
    log = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(log)
    quarantine.add(
        {"id": canonical(value), "reason": "rejected", "detail": "", "attempts": 1, "text": None}
        for value in [*values, 100, 101]
    )
    quarantine.close()
    with ReaderHarness(settings_for(documents, mongod.uri, quarantine_file=str(log), id_type="extjson")) as reader:
        reader.drain_until("pass_done")
        assert reader.events.last("reader")["skipped"] == len(values) + 2
        assert reader.events.last("reader")["quarantined"] == 30
        assert sorted(reader.ids) == list(range(102, 130))
        reader.command(do="rescan")
        assert reader.drain_until("pass_done", count=2)["found"] == 0
        facts = reader.events.last("reader")
        assert (facts["skipped"], facts["quarantined"]) == (len(values) + 2, 30)


def test_a_quarantine_of_many_portions_is_followed_while_it_grows(tmp_path: Path) -> None:
    log = tmp_path / "quarantine.jsonl"
    lines = [json.dumps({"_id": number, "reason": "empty", "detail": "x" * 100}) + "\n" for number in range(6_000)]
    log.write_text("".join(lines[:5_000]) + lines[5_000][:7])
    followed = QuarantineLog(str(log), key_of_text)
    portions = list(followed.new_keys())
    assert len(portions) > 1
    assert [key for keys in portions for key in keys] == list(range(5_000))
    assert list(followed.new_keys()) in ([], [[]])
    with log.open("a") as stream:
        stream.write(lines[5_000][7:] + "".join(lines[5_001:]))
    assert [key for keys in followed.new_keys() for key in keys] == list(range(5_000, 6_000))


@pytest.mark.seconds
def test_memory_does_not_grow_with_the_number_of_quarantined_documents(tmp_path: Path) -> None:
    keys = skip.QuarantinedKeys(tmp_path)
    keys.add(range(skip.KEPT_IN_MEMORY + 5_000))
    tracemalloc.start()
    try:
        keys.add(range(skip.KEPT_IN_MEMORY + 5_000, skip.KEPT_IN_MEMORY + 45_000))
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 300_000, f"{grown} bytes for 40,000 documents"
    assert 3 in keys
    assert -1 not in keys
