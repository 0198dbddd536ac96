"""`engine run` from end to end on real parts: the quiet path, odd documents, ids of any type, what is read."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from typing import Any

import bson
import psutil
import pyarrow.parquet as pq
import pytest
from bson import ObjectId
from pymongo.database import Database

from bench.standin import StandinFleet
from tests.crash.job import (
    DONE,
    SECRET,
    SLOW,
    Job,
    finish,
    full_speed,
    slow_down,
    tweets,
    wait_for_commit,
    wait_until,
)


def test_g1_g7_a_run_embeds_the_queue_and_the_next_picks_up_what_is_new(job: Job, fleet: StandinFleet) -> None:
    """The two commands on four servers: the summary's sum, the marks; then nothing to do; then two new documents."""
    job.urls = fleet.urls
    job.database[job.collection].insert_many(tweets(500))
    assert job.call("index").code == 0

    first = job.run()
    second = job.run()
    job.database[job.collection].insert_many([{"_id": 9001, "text": "new"}, {"_id": -5, "text": "older id, also new"}])
    third = job.run()

    n = sum("retweeted" not in document for document in tweets(500))
    summary = first.summary
    assert (first.code, second.code, third.code) == (0, 0, 0), first.err + second.err + third.err
    assert (summary["read"], summary["embedded"], summary["quarantined"], summary["gone"]) == (n, n, 0, 0)
    assert (second.summary["read"], second.summary["resumed"]) == (0, n)
    assert third.summary["embedded"] == 2
    assert set(summary["cpu_us_per_document"]) == {"reader", "clients", "writer", "supervisor"}
    assert summary["latency"]["p95"] > 0
    assert summary["bottleneck"]
    job.assert_exact()


def test_g3_files_are_named_and_described_as_the_contract_says(job: Job) -> None:
    """Folders, names, footer, schema."""
    job.insert(tweets(100))
    assert job.run("--columns", "lang,classified").code == 0

    folders = job.folders
    name = f"{job.database.name}.tweets"
    assert folders.hot == job.folder / "hot" / f"{name}.{DONE}"
    assert {"lock", "ledger", "config.toml"} <= {path.name for path in folders.hot.iterdir()}
    path = next((job.folder / "cold" / name / "shards").glob("*.parquet"))
    schema = pq.read_schema(path)
    assert schema.names == ["_id", "lang", "classified", "embedding"]
    assert [str(field.type) for field in schema][:3] == ["int64", "string", "bool"]
    footer = pq.read_metadata(path).metadata
    assert json.loads(footer[b"engine.fingerprint"])["model_id"] == "sim-model"
    assert footer[b"id_type"] == b"int64"
    rows = {row["_id"]: row for row in pq.read_table(path).to_pylist()}
    for document in job.database["tweets"].find({"_id": {"$in": list(rows)}}):
        assert rows[document["_id"]]["lang"] == document.get("lang")
        assert rows[document["_id"]]["classified"] == document["classified"]


@pytest.mark.parametrize(
    ("ids", "id_type"),
    [
        ([1, 2**40, -3], b"int64"),
        (["a", "b\u00e9", ""], b"string"),
        ([ObjectId() for _ in range(3)], b"objectid"),
        ([1, "1", ObjectId(), 2.5, True, {"a": 1}, bson.Int64(77), bson.Binary(bytes(16), 4)], b"extjson"),
    ],
)
def test_ids_of_any_type_and_of_mixed_types_are_carried_and_marked(job: Job, ids: list[Any], id_type: bytes) -> None:
    """One type gives its own column; a mixture canonical extended JSON."""
    job.insert([{"_id": identity, "text": f"text of {identity!r}"} for identity in ids])

    ended = job.run()

    assert ended.code == 0, ended.err
    path = next(job.folders.shards.glob("*.parquet"))
    assert pq.read_metadata(path).metadata[b"id_type"] == id_type
    assert job.database["tweets"].count_documents({DONE: True}) == len(ids)
    assert ended.summary["embedded"] == len(ids)
    job.assert_exact()


def test_odd_texts_are_embedded_or_quarantined_each_with_its_reason(job: Job) -> None:
    """Empty, blank, missing, null, a number, NUL, right to left, emoji, a lone surrogate, 5 MB."""
    job.insert(
        [
            {"_id": 1, "text": ""},
            {"_id": 2, "text": "  \n"},
            {"_id": 3},
            {"_id": 4, "text": None},
            {"_id": 5, "text": 42},
            {"_id": 6, "text": "with a \x00 inside"},
            {"_id": 7, "text": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627"},
            {"_id": 8, "text": "\U0001f600" * 20},
            {"_id": 9, "text": "plain"},
        ]
    )
    raw = bson.encode({"_id": 10, "text": "abc"}).replace(b"abc", b"\xed\xa0\x80")
    job.database.command("insert", "tweets", documents=[bson.raw_bson.RawBSONDocument(raw)])
    job.database["tweets"].insert_one({"_id": 11, "text": "long " * 1_000_000})

    ended = job.run("--truncated-column")

    assert ended.code == 3, ended.err
    assert {key: reason for key, reason in job.quarantined().items() if key != 10} == {
        1: "empty",
        2: "empty",
        3: "missing",
        4: "missing",
        5: "not_text",
    }
    assert job.quarantined()[10] == "invalid_unicode"
    assert set(job.rows()) == {6, 7, 8, 9, 11}
    assert ended.summary["truncated"] == 1
    table = pq.read_table(job.folders.shards)
    flags = dict(zip(table["_id"].to_pylist(), table["truncated"].to_pylist(), strict=True))
    assert flags == {6: False, 7: False, 8: False, 9: False, 11: True}
    again = job.run("--truncated-column")
    assert (again.code, again.summary["read"], again.summary["quarantined"]) == (3, 6, 6)


def test_a_collection_without_the_text_field_anywhere_is_refused(job: Job) -> None:
    """A typing mistake in --text-field must not fill the quarantine with everything."""
    job.insert(tweets(30))

    ended = job.run("--text-field", "txet")

    assert ended.code == 2
    assert "txet" in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_an_empty_collection_is_exit_0_and_says_so(job: Job) -> None:
    """Nothing to do is no error."""
    job.database.create_collection("tweets")

    ended = job.run()

    assert ended.code == 0
    assert "empty" in ended.err
    assert ended.summary["read"] == 0


def test_a_missing_index_is_refused_and_names_the_command(job: Job) -> None:
    """A collection scan over 400 million documents is nobody's wish; `--scan id` is asked for by name."""
    job.database["tweets"].insert_many(tweets(40))

    refused = job.run()
    allowed = job.run("--scan", "id")

    assert refused.code == 2
    assert "engine index" in refused.err
    assert allowed.code == 0, allowed.err
    job.assert_exact()


def test_languages_and_filter_restrict_the_queue(job: Job) -> None:
    """Only what was asked for is embedded and marked."""
    job.insert(tweets(200))

    ended = job.run("--lang", "de", "--filter", '{"classified": true}')

    wanted = {
        document["_id"]
        for document in tweets(200)
        if document.get("lang") == "de" and document["classified"] and "retweeted" not in document
    }
    assert ended.code == 0, ended.err
    assert set(job.rows()) == wanted
    assert {document["_id"] for document in job.database["tweets"].find({DONE: True})} == wanted


def test_no_mark_writes_nothing_to_mongodb_and_resumes_from_the_ledger(job: Job, fleet: StandinFleet) -> None:
    """Killed midway, run again, new documents: each in one row, none marked."""
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(1500))
    process = job.start_run("--no-mark")
    wait_for_commit(job, process)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    full_speed(fleet)

    second = job.run("--no-mark")
    job.database["tweets"].insert_one({"_id": -1, "text": "new", "lang": "aa"})
    third = job.run("--no-mark")

    assert (second.code, third.code) == (0, 0), second.err + third.err
    assert second.summary["resumed"] > 0
    assert third.summary["embedded"] == 1
    assert job.database["tweets"].count_documents({DONE: {"$exists": True}}) == 0
    documents = [document for document in tweets(1500) if "retweeted" not in document]
    assert set(job.rows()) == {-1, *(document["_id"] for document in documents)}


def test_no_mark_goes_on_after_a_merge_has_removed_marked_shards(job: Job) -> None:
    job.insert(tweets(200))
    assert job.run().code == 0
    assert job.call("merge", "--delete-sources").code == 0
    assert not list(job.folders.shards.glob("*.parquet"))
    job.database["tweets"].insert_one({"_id": -1, "text": "new", "lang": "aa"})

    first = job.run("--no-mark")
    second = job.run("--no-mark")

    assert (first.code, first.summary["embedded"]) == (0, 1), first.err
    assert (second.code, second.summary["embedded"]) == (0, 0), second.err


def test_documents_deleted_in_flight_are_counted_as_gone(job: Job) -> None:
    """Their rows stay, the sum agrees. The supervisor is held between the first commit and its marks."""
    job.options = ("--shard-bytes", "64MiB", "--batch-size", "4", "--concurrency", "1")
    job.insert(tweets(300))
    process = job.start_run(ENGINE_FAILPOINTS="supervisor/commit.after=stop")
    wait_for_commit(job, process)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, what="the stop", process=process)

    job.database["tweets"].delete_many({"_id": {"$in": [0, 1, 2]}})
    os.kill(process.pid, signal.SIGCONT)
    ended = finish(process)

    assert ended.code == 0, ended.err
    summary = ended.summary
    assert summary["gone"] == 3
    assert summary["read"] == summary["embedded"] + 3


def test_runs_of_other_collections_and_done_fields_share_both_folders(job: Job) -> None:
    """One collection under two done fields, and another collection: nobody touches the others' files."""
    job.insert(tweets(60))
    other = dataclasses.replace(job, collection="others")
    other.insert(tweets(40))
    assert job.run().code == 0
    assert other.run().code == 0
    assert job.call("index", ENGINE_DONE_FIELD="second").code == 0

    again = job.run(ENGINE_DONE_FIELD="second")

    assert again.code == 0, again.err
    assert again.summary["embedded"] == len(job.rows())
    names = sorted(path.name for path in job.folders.shards.iterdir())
    assert len([name for name in names if name.startswith(f"{DONE}-")]) == len(job.state().commits)
    assert len([name for name in names if name.startswith("second-")]) == again.summary["shards"]
    other.assert_exact()


def test_g10_a_password_never_appears_and_may_not_stand_on_the_command_line(job: Job) -> None:
    """G10: refused as an argument; wrong in the environment it is exit 2, without an echo."""
    job.insert(tweets(10))
    bad = job.uri.replace("mongodb://", f"mongodb://user:{SECRET}@")

    argument = job.run("--mongo-uri", bad)
    environment = job.run(ENGINE_MONGO_URI=bad)

    assert argument.code == 2
    assert "ENGINE_MONGO_URI" in argument.err
    assert environment.code == 2
    assert len(environment.err.strip().splitlines()) == 1


def test_the_resolved_configuration_in_the_run_folder_can_be_used_again(job: Job) -> None:
    """config.toml names every option and no secret."""
    job.insert(tweets(50))
    assert job.run("--limit", "10").code == 8
    text = job.folders.config.read_text().replace("limit = 10\n", "")
    again = job.folder / "again.toml"
    again.write_text(text)

    ended = job.run("--config", str(again))

    assert ended.code == 0, ended.err
    job.assert_exact()


def test_a_foreign_mark_field_value_is_left_alone(job: Job, mongo_db: Database[dict[str, Any]]) -> None:
    """Documents that carry any value in the done field are not in the queue and are not touched."""
    job.insert([{"_id": 1, "text": "a"}, {"_id": 2, "text": "b", DONE: False}])

    assert job.run().code == 0

    assert mongo_db["tweets"].find_one({"_id": 2}) == {"_id": 2, "text": "b", DONE: False}
    assert set(job.rows()) == {1}
