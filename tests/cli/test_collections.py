"""Kinds of collections from the command line: indexed, embedded, marked and verified, or refused with one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import pytest
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinConfig, StandinFleet
from tests.crash.job import DIM, DONE, MODEL, Job


@pytest.fixture
def job(tmp_path: Path, mongod: LocalMongod, mongo_db: Database[dict[str, Any]]) -> Iterator[Job]:
    """A job without a collection, on one server."""
    with StandinFleet(StandinConfig(backend="sim", ports=(0,), model_id=MODEL, dim=DIM)) as fleet:
        yield Job(folder=tmp_path, uri=mongod.uri, database=mongo_db, urls=fleet.urls)


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"collation": {"locale": "en", "strength": 2}}, ()),
        ({"collation": {"locale": "de", "strength": 1}}, ("--scan", "id")),
        ({"clusteredIndex": {"key": {"_id": 1}, "unique": True, "name": "own"}}, ("--scan", "id")),
        ({"capped": True, "size": 1 << 20}, ()),
    ],
)
def test_an_unusual_collection_goes_all_the_way(job: Job, options: dict[str, Any], arguments: tuple[str, ...]) -> None:
    job.database.create_collection(job.collection, **options)
    job.database[job.collection].insert_many(
        [{"_id": f"t{number:03}", "text": f"tweet {number}", "lang": ("en", "EN")[number % 2]} for number in range(60)]
    )
    assert job.call("index").code == 0
    assert job.call("index", "--check").code == 0
    done = job.run(*arguments)
    assert (done.code, done.summary["embedded"]) == (0, 60), done.err
    assert job.database[job.collection].count_documents({DONE: True}) == 60
    again = job.run(*arguments)
    assert (again.code, again.summary["read"]) == (0, 0), again.err
    assert job.call("verify", "--level", "4").code == 0


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"viewOn": "others", "pipeline": []}, "is a view on others"),
        ({"timeseries": {"timeField": "at"}}, "is a time-series collection"),
    ],
)
def test_what_cannot_be_embedded_from_is_one_sentence_in_every_command(
    job: Job, options: dict[str, Any], phrase: str
) -> None:
    job.database["others"].insert_one({"text": "x"})
    job.database.create_collection(job.collection, **options)
    for arguments in (("index",), ("index", "--check"), ("plan",), ("run",), ("run", "--scan", "id", "--no-mark")):
        said = job.call(*arguments)
        assert said.code == 2, (arguments, said)
        (line,) = [line for line in said.err.splitlines() if line.startswith("engine: ")]
        assert phrase in line


@pytest.mark.seconds
def test_a_document_with_no_room_for_its_mark_is_named_at_every_start_until_it_has_room(job: Job) -> None:
    """Exit 2 and not 6, all others are marked, nothing is embedded twice."""
    job.insert([{"_id": number, "text": f"tweet {number}"} for number in range(20)])
    full = {"_id": 99, "text": "the large one", "pad": ""}
    full["pad"] = "x" * (16 * 1024 * 1024 - len(bson.encode(full)) - 4)
    job.database[job.collection].insert_one(full)

    for _ in range(2):
        said = job.run()
        assert said.code == 2, said.err
        assert "code 17419" in said.err
        assert "(_id " in said.err
        assert "99" in said.err
    assert job.database[job.collection].count_documents({DONE: True}) == 20
    assert len(job.rows()) == 21

    job.database[job.collection].update_one({"_id": 99}, {"$set": {"pad": ""}})
    mended = job.run()
    assert (mended.code, mended.summary["read"]) == (0, 0), mended.err
    assert job.database[job.collection].count_documents({DONE: True}) == 21


@pytest.mark.seconds
def test_a_run_over_nothing_but_documents_without_text_passes_over_them_at_every_start(job: Job) -> None:
    """Exit 3 each time with the same sum, `plan` counts them, `status` too."""
    job.insert([{"_id": number} for number in range(500)] + [{"_id": 1000, "text": "one"}])
    first, second = job.run(), job.run()
    assert (first.code, second.code) == (3, 3)
    assert (first.summary["quarantined"], first.summary["embedded"]) == (500, 1)
    assert (second.summary["read"], second.summary["quarantined"]) == (500, 500)
    assert len(job.quarantined()) == 500
    assert '"without_text": 500' in job.call("plan", "--json").out
    assert "500 documents (500 missing)" in job.call("status").out
