"""A work queue in which nothing is left that can be embedded: `engine plan` and `engine bench` say which and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinConfig, StandinFleet
from bench.tuner.search.survey import TuneConfig
from bench.tuner.tuning import TuningPlan
from commands.bench import bench as bench_command
from commands.options.secrets import RunSecrets
from commands.plan.config import PlanConfig
from commands.plan.plan import forecast_run
from engine.config import RunConfig, ServersConfig, SinkConfig, SourceConfig
from engine.errors import ConfigError
from engine.ledger.quarantine import Quarantine
from readers.mongo.connection import open_client, open_collection
from readers.mongo.index import create_indexes
from tests.conftest import outlives_tests

DONE = "embedded"
POISON = "xyzzy"


@pytest.fixture(scope="module")
def fleet() -> Iterator[StandinFleet]:
    """A server that refuses every text with a certain word."""
    servers = StandinConfig(backend="canned", ports=(0,), faults=(f"poison:contains={POISON}",))
    with StandinFleet(servers) as started, outlives_tests(*started.pids):
        yield started


@pytest.fixture
def run_config(
    mongo_db: Database[dict[str, Any]], mongod: LocalMongod, fleet: StandinFleet, tmp_path: Path
) -> RunConfig:
    """A run over an empty collection with the indexes of the work queue."""
    mongo_db.create_collection("tweets")
    with open_client(mongod.uri) as client:
        create_indexes(open_collection(client, mongo_db.name, "tweets"), DONE)
    return RunConfig(
        source=SourceConfig(database=mongo_db.name, done_field=DONE),
        servers=ServersConfig(urls=fleet.urls, batch_size=8),
        sink=SinkConfig(hot_dir=tmp_path / "hot", cold_dir=tmp_path / "cold"),
    )


def plan(config: RunConfig, mongod: LocalMongod) -> dict[str, Any]:
    """`engine plan`."""
    return forecast_run(PlanConfig(run=config, max_seconds=2.0), RunSecrets(mongo_uri=mongod.uri))


def bench(config: RunConfig, mongod: LocalMongod, folder: Path) -> bench_command.BenchResult:
    """`engine bench`."""
    tuning = TuningPlan(batch_sizes=(8,), concurrency_max=2, tune=TuneConfig(seconds=0.2, max_seconds=5.0, seed=1))
    wanted = bench_command.BenchConfig(run=config, plan=tuning, texts=None, out=folder / "tuned.toml", plot=None)
    return bench_command.find_operating_point(wanted, RunSecrets(mongo_uri=mongod.uri))


def sentence_of(figures: dict[str, Any]) -> str:
    """The one note of a plan that forecasts nothing."""
    assert figures["documents"] == 0
    (note,) = figures["notes"]
    return str(note)


def test_a_queue_of_documents_without_a_text_is_said_class_by_class(
    run_config: RunConfig, mongo_db: Database[dict[str, Any]], mongod: LocalMongod, tmp_path: Path
) -> None:
    """One sentence with numbers, reasons, and what a run does with them."""
    mongo_db["tweets"].insert_many(
        [{"_id": 0, "text": ""}, {"_id": 1, "text": " "}, {"_id": 2, "text": 42}, {"_id": 3}, {"_id": 4, "text": None}]
    )

    figures = plan(run_config, mongod)
    with pytest.raises(ConfigError) as refused:
        bench(run_config, mongod, tmp_path)

    assert sentence_of(figures) == (
        f"nothing to embed in the work queue of {mongo_db.name}.tweets: none of its 5 documents can be embedded "
        "(2 empty, 2 missing, 1 not_text): `engine run` puts them into quarantine, `engine quarantine list` shows them"
    )
    assert figures["unusable"] == {"empty": 2, "missing": 2, "not_text": 1}
    assert "none of 5 documents can be embedded" in str(refused.value)
    assert "2 empty, 2 missing, 1 not_text" in str(refused.value)


def test_a_queue_of_documents_that_the_servers_refuse_is_no_outage(
    run_config: RunConfig, mongo_db: Database[dict[str, Any]], mongod: LocalMongod, tmp_path: Path
) -> None:
    """They are asked one by one: no exit 7, which says that no server is healthy."""
    mongo_db["tweets"].insert_many({"_id": number, "text": f"{POISON} {number}"} for number in range(20))

    figures = plan(run_config, mongod)
    with pytest.raises(ConfigError, match=r"the servers refuse every text that was tried \(20 backend\)"):
        bench(run_config, mongod, tmp_path)

    assert "none of its 20 documents can be embedded (20 backend): `engine run` puts" in sentence_of(figures)


@pytest.mark.seconds
def test_documents_in_quarantine_are_not_forecast(
    run_config: RunConfig, mongo_db: Database[dict[str, Any]], mongod: LocalMongod
) -> None:
    """A run passes over them, and they stay in the queue for good."""
    mongo_db["tweets"].insert_many({"_id": number, "text": f"text {number}"} for number in range(10))
    run_config.folders.hot.mkdir(parents=True)
    quarantine = Quarantine(run_config.folders.quarantine)
    quarantine.add({"id": str(number), "reason": "backend", "detail": "", "attempts": 2} for number in range(4))
    some = plan(run_config, mongod)
    quarantine.add({"id": str(number), "reason": "backend", "detail": "", "attempts": 2} for number in range(4, 10))
    quarantine.close()

    none = plan(run_config, mongod)

    assert some["documents"] == 6
    assert "40.00% of the documents are in quarantine already: a run passes over them" in some["notes"]
    assert "(10 in quarantine already): `engine quarantine list` shows them" in sentence_of(none)
    assert "engine quarantine retry" in sentence_of(none)


def test_an_empty_queue_says_so(run_config: RunConfig, mongod: LocalMongod, tmp_path: Path) -> None:
    """Also a collection without a document."""
    with pytest.raises(ConfigError, match="has no texts"):
        bench(run_config, mongod, tmp_path)

    assert "the collection is empty" in sentence_of(plan(run_config, mongod))
