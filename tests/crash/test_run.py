"""`engine run` from end to end on real parts: the quiet path, odd documents, bad servers, limits, signals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import psutil
import pyarrow.parquet as pq
import pytest
from bson import ObjectId
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinFleet
from engine.ledger.runfolder import read_status
from tests.conftest import outlives_tests
from tests.crash.conftest import SERVERS
from tests.crash.job import (
    DONE,
    SECRET,
    SLOW,
    Job,
    finish,
    full_speed,
    roles,
    slow_down,
    tweets,
    wait_for_commit,
    wait_for_phase,
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
        ([1, "1", ObjectId(), 2.5, True, {"a": 1}, bson.Int64(77), bson.Binary(b"x", 4)], b"extjson"),
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


def test_limit_stops_with_exit_8_until_nothing_is_left(job: Job) -> None:
    """Exactly that many documents, then the rest."""
    job.insert([{"_id": number, "text": f"t{number}"} for number in range(100)])

    first = job.run("--limit", "60")
    second = job.run("--limit", "40")

    assert (first.code, first.summary["read"], first.summary["embedded"]) == (8, 60, 60), first.err
    assert (second.code, second.summary["embedded"]) == (0, 40), second.err
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_one_signal_drains_commits_and_marks(job: Job, fleet: StandinFleet, number: signal.Signals, code: int) -> None:
    """To the whole group, as a terminal does; what is committed is marked; the next run finishes."""
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(1500))
    process = job.start_run()
    wait_for_commit(job, process)

    os.killpg(process.pid, number)
    ended = finish(process)

    assert ended.code == code, ended.err
    assert "run the same command again" in ended.err
    state = job.state()
    assert not state.unmarked()
    assert ended.summary["embedded"] == state.rows
    full_speed(fleet)
    assert job.run().code == 0
    job.assert_exact()


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_two_signals_give_up_the_open_shard_and_stay_exact(
    job: Job, fleet: StandinFleet, second: signal.Signals, code: int
) -> None:
    """Faster, still consistent; also when an init system loses its patience. A held writer keeps them waiting."""
    job.options = SLOW
    slow_down(fleet)
    job.insert(tweets(1500))
    process = job.start_run()
    wait_for_commit(job, process)
    os.kill(roles(process)["writer"], signal.SIGSTOP)

    os.killpg(process.pid, signal.SIGINT)
    wait_for_phase(job, process, "sealing")
    os.killpg(process.pid, second)
    ended = finish(process)
    full_speed(fleet)

    assert ended.code == code, ended.err
    assert ("giving_up" in ended.err) == (second is signal.SIGINT)
    assert job.run().code == 0
    job.assert_exact()


def test_g9_another_model_is_refused_and_the_fields_are_named(job: Job, fleet: StandinFleet) -> None:
    """Exit 2; nothing is read, written or marked."""
    job.insert(tweets(200))
    assert job.run("--limit", "50").code == 8
    before = job.state().rows

    for port in fleet.ports:
        fleet.control(port, model_id="another-model")
    refused = job.run()
    prompt = job.run("--prompt", "title: none | text: ")

    assert refused.code == 2
    assert "model_id" in refused.err
    assert "another-model" in refused.err
    assert job.state().rows == before
    assert prompt.code == 2
    for port in fleet.ports:
        fleet.control(port, model_id="sim-model")
    assert "prompt" in job.run("--prompt", "x").err
    assert job.run().code == 0
    job.assert_exact()


def test_g8_servers_of_two_models_are_refused_at_the_start(job: Job, fleet: StandinFleet) -> None:
    """The canary and /info say so."""
    job.insert(tweets(20))
    fleet.control(fleet.ports[1], model_id="another-model")

    ended = job.run()

    assert ended.code == 2
    assert str(fleet.ports[1]) in ended.err
    assert not job.rows()


def test_a_second_run_on_the_same_folder_is_exit_11_at_once(job: Job, fleet: StandinFleet) -> None:
    """The first one is not disturbed."""
    job.options = SLOW
    slow_down(fleet, 1.0)
    job.insert(tweets(1500))
    process = job.start_run()
    wait_for_commit(job, process)

    second = job.run()
    full_speed(fleet)
    first = finish(process)

    assert second.code == 11
    assert str(process.pid) in second.err
    assert first.code == 0, first.err
    job.assert_exact()


def test_a_second_run_in_another_folder_is_noticed_by_its_marks(job: Job, fleet: StandinFleet, tmp_path: Path) -> None:
    """Two runs on one collection: at least one stops with exit 11, neither calls itself done unnoticed."""
    job.options = SLOW
    slow_down(fleet, 1.0)  # both have read before either gets far
    job.insert(tweets(1500))
    second = dataclasses.replace(job, folder=tmp_path / "other")
    process, other = job.start_run(), second.start_run()

    def both_have_read() -> bool:
        if process.poll() is not None or other.poll() is not None:
            return True  # noticed already
        figures = [read_status(one.folders.status) or {} for one in (job, second)]
        return all(figure.get("reader", {}).get("documents", 0) > 0 for figure in figures)

    wait_until(both_have_read, what="documents in the rings of both")
    full_speed(fleet)

    codes = {finish(process).code, finish(other).code}

    assert 11 in codes


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


@contextlib.contextmanager
def own_fleet(**changes: Any) -> Iterator[StandinFleet]:
    """Four servers in four processes, for a test that hurts them."""
    with (
        StandinFleet(dataclasses.replace(SERVERS, **changes), processes=4) as fleet,
        outlives_tests(*fleet.pids),
    ):
        yield fleet


@pytest.mark.crash
def test_one_of_four_servers_dead_from_the_start(job: Job) -> None:
    """The others do its work."""
    job.insert(tweets(400))
    with own_fleet() as own:
        job.urls = own.urls
        own.kill(own.ports[1])
        ended = job.run()

    assert ended.code == 0, ended.err
    job.assert_exact()


@pytest.mark.crash
def test_one_of_four_servers_dying_midway(job: Job, fleet: StandinFleet) -> None:
    """Its batches are handed to the others."""
    job.options = SLOW
    job.insert(tweets(1500))
    with own_fleet() as own:
        job.urls = own.urls
        slow_down(own)
        process = job.start_run()
        wait_for_commit(job, process)
        own.kill(own.ports[0])
        full_speed(own)
        ended = finish(process)

    assert ended.code == 0, ended.err
    job.assert_exact()


@pytest.mark.crash
def test_all_servers_dead_is_exit_7_and_nothing_is_lost(job: Job, fleet: StandinFleet) -> None:
    """At the start, and midway: what was embedded is committed."""
    job.options = SLOW
    job.insert(tweets(1500))
    urls = job.urls
    with own_fleet() as own:
        job.urls = own.urls
        slow_down(own)
        process = job.start_run("--max-outage", "3")  # long enough for a MongoDB that stands still for a moment
        wait_for_commit(job, process)
        for port in own.ports:
            own.kill(port)
        midway = finish(process)
        at_start = job.run("--max-outage", "3")

    assert midway.code == 7, midway.err
    assert midway.summary["embedded"] == job.state().rows
    assert at_start.code == 7, at_start.err
    job.urls = urls
    full_speed(fleet)
    assert job.run().code == 0
    job.assert_exact()


@pytest.mark.parametrize(
    "fault",
    [
        "status:code=503,every=5",
        "status:code=429,every=3",
        "value:value=nan,every=4",
        "count:delta=-1,every=5",
        "dim:to=23,every=5",
        "zero:every=6",
        "reset:every=7",
        "truncated_json:every=5",
    ],
)
def test_g8_servers_that_misbehave_now_and_then_cost_time_but_no_document(
    job: Job, fleet: StandinFleet, fault: str
) -> None:
    """Unsound answers never reach a shard, and no document is blamed for them."""
    job.insert(tweets(300))
    fleet.control(fleet.ports[1], faults=[fault])

    ended = job.run()

    assert ended.code == 0, ended.err
    job.assert_exact()


@pytest.mark.parametrize("code", [424, 403])
def test_a_text_that_no_server_takes_is_quarantined_alone(job: Job, fleet: StandinFleet, code: int) -> None:
    """Bisected: its neighbours are embedded; exit 3; it can be tried again."""
    job.insert(tweets(300))
    job.database["tweets"].update_one({"_id": 33}, {"$set": {"text": "this one is POISON for all"}})
    for port in fleet.ports:
        fleet.control(port, faults=[f"poison:contains=POISON,code={code}"])

    ended = job.run()

    assert ended.code == 3, ended.err
    job.assert_exact(quarantined={33: job.quarantined()[33]})
    listed = job.call("quarantine", "list", "--json")
    assert [entry["_id"] for entry in json.loads(listed.out)] == [33]
    for port in fleet.ports:
        fleet.control(port, clear_faults=True)
    assert json.loads(job.call("quarantine", "retry", "--json").out) == {"released": 1}
    assert job.run().code == 0
    job.assert_exact()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A device of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs needs rights that this test does not have")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.crash
def test_a_full_cold_disk_is_exit_5_and_the_run_goes_on_when_there_is_space(job: Job, small_disk: Path) -> None:
    """Nothing is marked that is not durable; the error names the free space."""
    job.insert([{"_id": number, "text": f"text {number}"} for number in range(40_000)])
    job.cold = small_disk
    job.options = ("--shard-bytes", "256KiB", "--batch-size", "32")

    full = job.run()

    assert full.code == 5, full.err
    assert "MiB free" in full.err
    assert job.state().stop is not None
    assert job.database["tweets"].count_documents({DONE: True}) == sum(
        commit["rows"] for name, commit in job.state().commits.items() if name in job.state().marked
    )
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = job.run()
    assert again.code == 0, again.err
    job.assert_exact()


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


def test_folders_that_cannot_be_written_are_exit_5_or_2(job: Job, tmp_path: Path) -> None:
    """A file where a folder should be."""
    job.insert(tweets(5))
    (tmp_path / "file").write_text("in the way")

    ended = job.run("--cold-dir", str(tmp_path / "file"))

    assert ended.code in (2, 5)
    assert str(tmp_path / "file") in ended.err


def test_something_else_behind_a_url_is_exit_2(job: Job, mongod: LocalMongod) -> None:
    """mongod answers HTTP with a sentence of its own; it is no embedding server."""
    job.insert(tweets(5))
    job.urls = (f"http://127.0.0.1:{mongod.port}",)

    ended = job.run("--max-outage", "5")

    assert ended.code in (2, 7), ended.err
    assert str(mongod.port) in ended.err


def test_status_works_while_a_run_is_going_and_after_a_crash(job: Job, fleet: StandinFleet) -> None:
    """From the run folder alone."""
    job.options = SLOW
    slow_down(fleet, 1.0)
    job.insert(tweets(1500))
    process = job.start_run()
    wait_for_commit(job, process)
    going = json.loads(job.call("status", "--json").out)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    crashed = json.loads(job.call("status", "--json").out)
    text = job.call("status").out
    full_speed(fleet)
    assert job.run().code == 0
    ended = json.loads(job.call("status", "--json").out)

    assert going["running"]
    assert going["pid"] == process.pid
    assert not crashed["running"]
    assert "crashed" in crashed["state"]
    assert "crashed" in text
    assert ended["exit"] == 0
    assert ended["documents"]["committed"] == len(job.rows())
    assert (ended["documents"]["unmarked_shards"], ended["documents"]["left"]) == (0, 0)


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


def test_the_wait_helper_fails_when_nothing_happens() -> None:
    """The tests' own tool can go red."""
    with pytest.raises(AssertionError, match="did not come true"):
        wait_until(lambda: False, 0.05)
