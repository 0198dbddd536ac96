"""`engine plan` on a real MongoDB and real servers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from bench.parts import tweets
from bench.parts.local_mongod import LocalMongod
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from bench.tuner.report.tuned import servers_of, write_tuned
from commands.options.secrets import RunSecrets
from commands.plan.config import PlanConfig
from commands.plan.plan import forecast_run
from commands.plan.report import as_text
from engine.config import RunConfig, ServersConfig, SinkConfig, SourceConfig
from engine.errors import ConfigError, ServersUnavailable
from gpu_clients.servers.doctor import examine
from gpu_clients.settings import ClientSettings
from readers.mongo import sample
from readers.mongo.connection import open_client, open_collection
from readers.mongo.index import create_indexes
from readers.mongo.sample import sample_queue
from readers.mongo.work_queue import WorkQuery
from tests.bench.tuner.tuned_file import TUNED
from tests.conftest import outlives_tests

DONE = "embedded"


DIM = 48


LIMIT = 32


@pytest.fixture(scope="module")
def fleet() -> Iterator[StandinFleet]:
    """Two modelled servers that take texts of 32 tokens."""
    servers = StandinConfig(
        backend="sim", ports=(0, 0), dim=DIM, max_input_length=LIMIT, gpu=GpuConfig(tokens_per_s=40_000, padded=False)
    )
    with StandinFleet(servers) as started, outlives_tests(*started.pids):
        yield started


@pytest.fixture
def queue(mongo_db: Database[dict[str, Any]], mongod: LocalMongod) -> Database[dict[str, Any]]:
    """500 tweets, 25 of them retweets, 100 done, 38 of the rest without a text; the indexes of the work queue."""
    documents = list(tweets.documents(500))
    for document in documents:
        if document["_id"] > 400:
            document[DONE] = True
        elif document["_id"] % 10 == 1:
            document["text"] = ""
    mongo_db["tweets"].insert_many(documents)
    with open_client(mongod.uri) as client:
        create_indexes(open_collection(client, mongo_db.name, "tweets"), DONE)
    return mongo_db


def config(database: str, urls: tuple[str, ...], folder: Path, collection: str = "tweets") -> PlanConfig:
    """A short plan with prices."""
    return PlanConfig(
        run=RunConfig(
            source=SourceConfig(database=database, collection=collection, done_field=DONE),
            servers=ServersConfig(urls=urls, batch_size=16),
            sink=SinkConfig(hot_dir=folder / "hot", cold_dir=folder / "not" / "there" / "yet"),
        ),
        gpu_hour_price=0.30,
        api_price_per_mtok=0.02,
        max_seconds=3.0,
    )


@pytest.mark.seconds
def test_a_plan_counts_samples_measures_and_writes_nothing(
    queue: Database[dict[str, Any]], mongod: LocalMongod, fleet: StandinFleet, tmp_path: Path
) -> None:
    """Every figure of the contract, from a real queue and real servers."""
    before = queue["tweets"].find_one({"_id": 1})

    figures = forecast_run(config(queue.name, fleet.urls, tmp_path), RunSecrets(mongo_uri=mongod.uri))

    matched = [d for d in tweets.documents(400) if "retweeted" not in d]
    usable = [d for d in matched if d["_id"] % 10 != 1]
    assert figures["queue"] == {
        "documents": len(matched),
        "exact": True,
        "usable_share": round(len(usable) / len(matched), 6),
        "sampled": len(matched),
    }
    assert figures["documents"] == len(usable)
    assert figures["characters"]["max"] == max(len(d["text"]) for d in usable)
    assert figures["characters"]["p50"] <= figures["characters"]["p90"] <= figures["characters"]["p99"]
    assert figures["tokens"]["counted"] is True
    assert figures["tokens"]["limit"] == LIMIT
    assert 0 < figures["tokens"]["truncated_share"] < 1
    assert figures["tokens"]["mean_embedded"] < figures["tokens"]["mean"]
    assert figures["rate"]["docs_per_second"] > 0
    assert figures["hours"] == pytest.approx(len(usable) / figures["rate"]["docs_per_second"] / 3600, rel=0.01)
    assert figures["cost"]["gpu"] == pytest.approx(figures["hours"] * 2 * 0.30)
    assert figures["cost"]["api"] == pytest.approx(figures["tokens"]["total"] / 1e6 * 0.02)
    assert figures["bytes"]["dim"] == DIM
    assert figures["bytes"]["cold"] == pytest.approx(len(usable) * figures["bytes"]["per_row"], rel=0.001)
    assert figures["files"] == {"shards": 1, "after_merge": 1}
    assert figures["free"]["cold"] > 0
    assert figures["fits"] is True
    json.dumps(figures, allow_nan=False)
    text = as_text(figures)
    for part in ("cut ", "rate ", "cost ", "cold ", "hot ", "files ", "free "):
        assert part in text
    assert list(tmp_path.iterdir()) == []
    assert queue["tweets"].find_one({"_id": 1}) == before


@pytest.mark.seconds
def test_a_tuned_file_spares_the_measurement_and_even_the_servers(
    queue: Database[dict[str, Any]], mongod: LocalMongod, fleet: StandinFleet, tmp_path: Path
) -> None:
    """Its rate counts; a fleet that has changed since is told of."""
    tuned = tmp_path / "tuned.toml"
    examined = examine(ClientSettings(urls=fleet.urls, batch_size=16))
    write_tuned(
        tuned,
        dataclasses.replace(
            TUNED, docs_per_second=360.0, fingerprint=examined.fingerprint, servers=servers_of(examined)[:1]
        ),
    )
    secrets = RunSecrets(mongo_uri=mongod.uri)
    wanted = dataclasses.replace(config(queue.name, fleet.urls, tmp_path), tuned=tuned)

    figures = forecast_run(wanted, secrets)

    assert figures["rate"]["docs_per_second"] == 360.0
    assert figures["hours"] == pytest.approx(figures["documents"] / 360 / 3600)
    assert any("2 servers are not 1" in note for note in figures["notes"])
    away = dataclasses.replace(config(queue.name, ("http://127.0.0.1:1",), tmp_path), tuned=tuned)
    assert forecast_run(away, secrets)["tokens"]["counted"] is False
    with pytest.raises(ServersUnavailable, match="no embedding server answers"):
        forecast_run(dataclasses.replace(away, tuned=None), secrets)


def test_nothing_to_embed_is_said_and_why(queue: Database[dict[str, Any]], mongod: LocalMongod, tmp_path: Path) -> None:
    """No server is asked for that."""
    secrets = RunSecrets(mongo_uri=mongod.uri)
    away = ("http://127.0.0.1:1",)
    missing = forecast_run(config(queue.name, away, tmp_path, "misspelt"), secrets)
    assert missing["documents"] == 0
    assert "does not exist; check --database and --collection" in as_text(missing)

    queue["tweets"].update_many({}, {"$set": {DONE: True}})
    done = forecast_run(config(queue.name, away, tmp_path), secrets)
    assert done["documents"] == 0
    assert "it is empty" in as_text(done)


def test_a_look_needs_no_index_but_says_that_a_run_does(
    queue: Database[dict[str, Any]], mongod: LocalMongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Building it on a large collection is an expense too."""
    queue["tweets"].drop_indexes()
    query = WorkQuery(done_field=DONE)
    with open_client(mongod.uri) as client:
        collection = open_collection(client, queue.name, "tweets")

        found = sample_queue(collection, query, "text", 1000)

        assert found.no_index is not None
        assert "engine index" in found.no_index
        assert found.n_drawn == 380
        assert found.size is not None
        assert found.size.n_rows == 380
        queue["tweets"].update_many({}, {"$set": {DONE: True}})
        with pytest.raises(ConfigError, match="engine index"):
            sample_queue(collection, query, "text", 1000)
        # a collection that is too slow to draw from is looked at from the queue's beginning
        queue["tweets"].update_many({}, {"$unset": {DONE: True}})
        create_indexes(collection, DONE)
        monkeypatch.setattr(sample, "_in_time", lambda *_: None)
        slow = sample_queue(collection, query, "text", 50)
        assert slow.n_drawn == 50
