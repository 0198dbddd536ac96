"""The skip set: what is read already, in quarantine or done is not read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pymongo.collection import Collection

from bench.parts.local_mongod import LocalMongod
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
