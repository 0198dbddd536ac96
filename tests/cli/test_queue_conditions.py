"""A queue that nothing is in, seen from the command line: `run` and `plan` say why, `--retweeted` helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinConfig, StandinFleet
from tests.cli.terminal import Terminal
from tests.crash.job import DIM, DONE, MODEL, Job


@pytest.fixture
def job(tmp_path: Path, mongod: LocalMongod, mongo_db: Database[dict[str, Any]]) -> Iterator[Job]:
    """Twenty English tweets as Twitter's API v1.1 gives them: each says `retweeted: false`."""
    servers = StandinConfig(backend="sim", ports=(0,), model_id=MODEL, dim=DIM)
    with StandinFleet(servers) as fleet:
        found = Job(folder=tmp_path, uri=mongod.uri, database=mongo_db, urls=fleet.urls)
        found.insert(
            [{"_id": number, "text": f"tweet {number}", "lang": "en", "retweeted": False} for number in range(20)]
        )
        yield found


@pytest.mark.seconds
def test_a_run_that_reads_nothing_says_why_and_the_option_that_it_names_embeds_everything(job: Job) -> None:
    idle = job.run()
    assert (idle.code, idle.summary["read"]) == (0, 0)
    assert "20 are no originals by their field `retweeted`" in idle.err
    assert "they say false: 20; --retweeted null, false or any says what counts" in idle.err

    without = job.run("--retweeted", "false")
    assert without.code == 2
    assert f"--done-field {DONE} --retweeted false`" in without.err

    assert job.call("index", "--retweeted", "false").code == 0
    done = job.run("--retweeted", "false")
    assert (done.code, done.summary["read"], done.summary["embedded"]) == (0, 20, 20)
    assert job.database[job.collection].count_documents({DONE: True}) == 20

    again = job.run("--retweeted", "false")
    assert (again.code, again.summary["read"]) == (0, 0)
    assert "no originals" not in again.err, "it has been worked off, that is all"
    assert "the last run read --retweeted false" in job.call("status").out


@pytest.mark.seconds
def test_a_misspelt_language_is_named_beside_those_that_there_are(job: Job) -> None:
    job.call("index", "--retweeted", "any")
    for command in (
        job.run("--retweeted", "any", "--lang", "enn"),
        job.call("plan", "--retweeted", "any", "--lang=enn"),
    ):
        assert command.code == 0
        assert "20 are in another language than --lang enn (there is en: 20)" in command.out + command.err


@pytest.mark.seconds
def test_plan_says_why_the_queue_is_empty(job: Job) -> None:
    said = job.call("plan")
    assert "they say false: 20" in said.out
    assert job.call("plan", "--retweeted", "any", "--filter", '{"_id": {"$lt": 0}}').code == 2, "no index of that queue"


@pytest.mark.seconds
def test_a_truth_value_in_the_file_means_the_same(job: Job) -> None:
    (job.folder / "engine.toml").write_text("[run]\nretweeted = false\n")
    file = str(job.folder / "engine.toml")
    assert job.call("index", "--config", file).code == 0
    done = job.run("--config", file)
    assert (done.code, done.summary["embedded"]) == (0, 20)


def test_a_value_that_the_option_does_not_take_is_refused(engine: Terminal) -> None:
    for command in ("run", "index", "plan"):
        said = engine(command, "--retweeted", "true")
        assert (said.code, said.err) == (2, "engine: --retweeted is 'true'; allowed is null, false or any\n")
