"""`--tuned`: the operating point that the tuner wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from bench.parts import tweets
from bench.parts.engine_command import EngineCommand
from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinConfig, StandinFleet
from bench.tuner.report.tuned import Tuned, write_tuned
from commands.composition.tuned import apply_tuned
from engine.config import ServersConfig
from engine.errors import ConfigError
from engine.records import Fingerprint
from readers.mongo.connection import open_client, open_collection
from readers.mongo.index import create_indexes

TUNED = Tuned(
    batch_size=64,
    concurrency=7,
    max_concurrency=9,
    bucketing="off",
    target_p95_s=2.5,
    docs_per_second=100.0,
    tokens_per_second=1000.0,
    tokens_per_document=10.0,
    p95_s=1.5,
    fingerprint=Fingerprint(
        model_id="m",
        model_sha=None,
        dtype="float32",
        pooling="mean",
        prompt=None,
        dim=8,
        normalize=True,
        server_version="1.9.3",
    ),
    servers=({"url": "http://127.0.0.1:1"},),
    written_at="2026-01-01T00:00:00+00:00",
    engine_version="0",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file as the tuner writes it."""
    path = tmp_path / "tuned.toml"
    write_tuned(path, TUNED)
    return path


def test_the_files_point_is_taken(path: Path) -> None:
    """All of it."""
    servers = apply_tuned(ServersConfig(), path, frozenset())

    assert (servers.batch_size, servers.concurrency, servers.max_concurrency) == (64, 7, 9)
    assert (servers.target_p95_s, servers.bucketing) == (2.5, "off")


def test_what_a_person_gave_wins(path: Path) -> None:
    """A flag, the environment or the configuration file."""
    servers = apply_tuned(ServersConfig(batch_size=16), path, frozenset({"batch_size", "target_p95"}))

    assert (servers.batch_size, servers.concurrency, servers.target_p95_s) == (16, 7, None)


def test_beside_auto_the_files_point_is_the_start_and_its_ceiling_the_ceiling(path: Path) -> None:
    servers = apply_tuned(ServersConfig(), path, frozenset({"concurrency"}))

    assert (servers.concurrency, servers.start_concurrency, servers.max_concurrency) == (None, 7, 9)


@pytest.mark.parametrize("text", ["[tuned", "[other]\n", "[tuned]\nbatch_size = 3\n"])
def test_a_file_of_another_kind_is_refused(path: Path, text: str) -> None:
    """Exit 2, naming the file."""
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"tuned\.toml"):
        apply_tuned(ServersConfig(), path, frozenset())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Named."""
    with pytest.raises(ConfigError, match=r"gone\.toml cannot be read"):
        apply_tuned(ServersConfig(), tmp_path / "gone.toml", frozenset())


@pytest.mark.seconds
def test_a_run_takes_the_point_and_warns_that_the_fleet_has_changed(
    path: Path, mongo_db: Database[dict[str, Any]], mongod: LocalMongod, tmp_path: Path
) -> None:
    """The real command: it runs all the same, with the file's point, and says what is different."""
    mongo_db["tweets"].insert_many(tweets.documents(40, retweeted=False))
    with open_client(mongod.uri) as client:
        create_indexes(open_collection(client, mongo_db.name, "tweets"), "done")
    with StandinFleet(StandinConfig(backend="canned", dim=8, max_client_batch_size=64)) as fleet:
        command = EngineCommand(
            uri=mongod.uri,
            database=mongo_db.name,
            collection="tweets",
            done_field="done",
            urls=fleet.urls,
            folder=tmp_path,
        )
        process = command.start("run", "--json", "--tuned", str(path))
        out, complaint = process.communicate(timeout=90)

    assert process.returncode == 0, complaint
    assert json.loads(out)["embedded"] == 40
    warnings = [line for line in complaint.splitlines() if f"the operating point of {path} was found on other" in line]
    assert any("model_id" in line for line in warnings)
    assert any(fleet.urls[0] in line for line in warnings)
    written = next((tmp_path / "hot").glob("*/config.toml")).read_text(encoding="utf-8")
    assert "batch_size = 64\n" in written
    assert 'concurrency = "7"\n' in written
