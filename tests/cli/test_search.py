"""`engine search`: over a data set that is half merged, by text, by id, by vector; and what it refuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pymongo
import pytest

from bench.parts.engine_command import EngineCommand
from bench.parts.local_mongod import LocalMongod
from bench.parts.tweets import documents
from bench.standin import StandinConfig, StandinFleet
from tests.conftest import outlives_tests

N_FIRST, N_LATER = 240, 60


@pytest.fixture(scope="module")
def data_set(mongod: LocalMongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineCommand]:
    """Shards that were merged, and later ones that were not."""
    folder = tmp_path_factory.mktemp("search")
    with (
        pymongo.MongoClient[dict[str, Any]](mongod.uri) as client,
        StandinFleet(StandinConfig(backend="sim", ports=(0,), dim=32)) as fleet,
        outlives_tests(*fleet.pids),
    ):
        tweets = client["search"]["tweets"]
        tweets.drop()
        every = list(documents(N_FIRST + N_LATER, retweeted=False))
        tweets.insert_many(every[:N_FIRST])
        engine = EngineCommand(
            uri=mongod.uri,
            database="search",
            collection="tweets",
            done_field="done",
            urls=fleet.urls,
            folder=folder,
        )
        for step in ("index", "run", "merge"):
            _say(engine, step)
        tweets.insert_many(every[N_FIRST:])
        _say(engine, "run")
        yield engine
        client.drop_database("search")


def _call(engine: EngineCommand, *arguments: str) -> subprocess.CompletedProcess[str]:
    with engine.running(*arguments) as process:
        out, err = process.communicate()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def _say(engine: EngineCommand, *arguments: str) -> str:
    done = _call(engine, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.seconds
@pytest.mark.parametrize("identity", [7, N_FIRST + 7], ids=["merged", "not merged yet"])
def test_a_documents_own_text_finds_it_first(data_set: EngineCommand, identity: int) -> None:
    text = next(item["text"] for item in documents(N_FIRST + N_LATER, retweeted=False) if item["_id"] == identity)
    found = json.loads(_say(data_set, "search", "--text", text, "--k", "400", "--with-text", "--json"))
    assert found[0]["_id"] == identity
    assert found[0]["text"] == text
    assert found[0]["score"] == pytest.approx(1.0, abs=1e-4)
    ids = [item["_id"] for item in found]
    assert sorted(ids) == list(range(1, N_FIRST + N_LATER + 1)), "every row once, merged or not"
    assert [item["score"] for item in found] == sorted((item["score"] for item in found), reverse=True)


@pytest.mark.seconds
def test_a_row_is_not_its_own_neighbour(data_set: EngineCommand) -> None:
    found = json.loads(_say(data_set, "search", "--id", "7", "--k", "3", "--json"))
    assert len(found) == 3
    assert 7 not in [item["_id"] for item in found]
    assert set(found[0]) == {"_id", "score"}


@pytest.mark.seconds
def test_a_vector_is_searched_for_as_npy_and_as_json(data_set: EngineCommand, tmp_path: Path) -> None:
    vector = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    np.save(tmp_path / "v.npy", vector)
    (tmp_path / "v.json").write_text(json.dumps(vector.tolist()))
    first = _say(data_set, "search", "--vector", str(tmp_path / "v.npy"), "--json")
    assert len(json.loads(first)) == 10
    assert _say(data_set, "search", "--vector", str(tmp_path / "v.json"), "--json") == first


@pytest.mark.seconds
def test_a_plain_folder_needs_no_ledger_and_no_database(data_set: EngineCommand) -> None:
    folder = str(data_set.cold / "consolidated")
    lines = _say(data_set, "search", "--id", "9", "--folder", folder, "--k", "2").splitlines()
    assert len(lines) == 2
    done = _call(data_set, "search", "--id", "9", "--folder", folder, "--with-text")
    assert done.returncode == 2
    assert "--with-text" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "exactly one of --text, --id and --vector"),
        (("--text", "a", "--id", "1"), "exactly one of --text, --id and --vector"),
        (("--id", "100000"), "no row has the id '100000'"),
        (("--id", "tweet"), "no row has the id 'tweet' (int64 ids)"),
        (("--id", "1", "--k", "0"), "--k is 0"),
        (("--vector", "/nowhere.npy"), "cannot be read"),
        (("--id", "1", "--query-prompt", "query: "), "--query-prompt goes before --text"),
    ],
)
def test_what_cannot_be_searched_for_is_a_sentence(
    data_set: EngineCommand, arguments: tuple[str, ...], said: str
) -> None:
    done = _call(data_set, "search", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.seconds
def test_a_vector_of_another_length_is_refused(data_set: EngineCommand, tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text("[1, 2, 3]")
    done = _call(data_set, "search", "--vector", str(tmp_path / "v.json"))
    assert done.returncode == 2
    assert "3 numbers, those of the data set have 32" in done.stderr


@pytest.mark.seconds
def test_servers_of_another_model_are_refused(data_set: EngineCommand) -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0,), dim=32, model_id="another")) as other:
        done = _call(data_set, "search", "--text", "hello", "--tei-urls", other.urls[0])
    assert done.returncode == 2
    assert "do not serve this data set's vectors" in done.stderr
