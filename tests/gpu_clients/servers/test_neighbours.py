"""Long texts among equals: a server that loses its sliding window there is found out, and kept from doing it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from pymongo.database import Database

from bench.parts.engine_command import EngineCommand
from bench.parts.local_mongod import LocalMongod
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from gpu_clients.servers.canary import long_text
from gpu_clients.servers.doctor import examine
from gpu_clients.servers.probe import LongTexts
from gpu_clients.settings import ClientSettings
from readers.batching.screening import Rows
from readers.batching.window import Apart, BatchLimits, Window
from readers.mongo.connection import open_client, open_collection
from readers.mongo.index import create_indexes

GPU = GpuConfig(tokens_per_s=2e6, fixed_overhead_s=0.0005, tokenizer_tokens_per_s=0, sliding_window=512)
LOSES_ITS_WINDOW = StandinConfig(backend="sim", gpu=GPU, dim=64)
KEEPS_IT = dataclasses.replace(LOSES_ITS_WINDOW, gpu=dataclasses.replace(GPU, sliding_window=0))


def vectors(url: str, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The vectors of one request."""
    answer = requests.post(url + "/embed", json={"inputs": texts}, timeout=60)
    return np.array(answer.json())


def test_the_modelled_server_errs_as_the_real_one_does() -> None:
    """Alone, or beside another length, a text has its own vector; beside its equals another, the more the longer."""
    with StandinFleet(LOSES_ITS_WINDOW) as fleet:
        url = fleet.urls[0]
        cosines = []
        for n_tokens in (200, 540, 1500):
            text = long_text(4 * n_tokens)
            alone = vectors(url, [text])[0]
            mixed = vectors(url, [text, "short", text, "a little longer"])
            assert mixed[0] @ alone == pytest.approx(1, abs=1e-5)
            cosines.append(min(vectors(url, [text] * 4) @ alone))
    assert cosines == [pytest.approx(1, abs=1e-5), pytest.approx(0.989, abs=2e-3), pytest.approx(0.957, abs=5e-3)]


@pytest.mark.seconds
def test_the_doctor_finds_the_shortest_length_at_which_neighbours_matter() -> None:
    with StandinFleet(LOSES_ITS_WINDOW) as fleet, StandinFleet(KEEPS_IT) as sound:
        found = examine(ClientSettings(urls=fleet.urls), long_texts=LongTexts.CLOSELY)
        briefly = examine(ClientSettings(urls=fleet.urls), long_texts=LongTexts.BRIEFLY)
        other = examine(ClientSettings(urls=sound.urls), long_texts=LongTexts.CLOSELY)
        usual = examine(ClientSettings(urls=fleet.urls))
    examination = found.servers[0].examination
    assert examination is not None and examination.neighbours is not None
    assert examination.neighbours.asked == (2048, 1536, 768, 384)
    assert found.neighbours_from == 384
    assert briefly.neighbours_from == 1536
    assert any("has another vector among texts of equal length (cosine 0.9390)" in line for line in found.warnings)
    assert (other.neighbours_from, usual.neighbours_from) == (None, None)
    assert not any("equal length" in line for line in other.warnings)


def texts_of_all_lengths() -> list[str]:
    """Many that the server cuts to one length, some long ones, and short ones."""
    rng = np.random.Generator(np.random.PCG64(3))
    lengths = [*rng.integers(9_000, 20_000, 60), *rng.integers(1_600, 8_000, 80), *rng.integers(20, 120, 200)]
    return [f"{number:04d} " + long_text(int(length)) for number, length in enumerate(rng.permutation(lengths))]


@pytest.mark.seconds
@pytest.mark.parametrize("apart", [None, Apart(384, 2048)])
def test_long_texts_kept_apart_from_their_equals_get_their_own_vectors(apart: Apart | None) -> None:
    """Sorted by length, as for other servers, many get another."""
    texts = texts_of_all_lengths()
    limits = BatchLimits(max_texts=16, max_rows=16, max_characters=1 << 20, max_tokens=16_384)
    window = Window(limits, list, max_rows=4096, bucketing=True, dedup=False, apart=apart)
    window.add(Rows(list(range(len(texts))), list(texts)))
    with StandinFleet(LOSES_ITS_WINDOW) as fleet, StandinFleet(KEEPS_IT) as sound:
        wrong = seen = 0
        for batch in window.batches(flush=True):
            got, truth = vectors(fleet.urls[0], batch.texts), vectors(sound.urls[0], batch.texts)
            wrong += int(np.count_nonzero((got * truth).sum(axis=1) < 0.999))
            seen += len(batch)
    assert seen == len(texts)
    assert wrong == 0 if apart is not None else wrong >= 40
    assert window.n_apart == (140 if apart is not None else 0)


def test_where_nothing_shorter_is_left_equals_stand_side_by_side_and_all_are_given_out() -> None:
    lengths = [5000, 5000, 30, 5000, 5000, 30, 5000]
    order = Apart(384, 2048).order(sorted(range(7), key=lengths.__getitem__), lengths)
    assert sorted(order) == list(range(7))
    assert [lengths[row] for row in order][:5].count(30) == 2
    assert Apart(384, 2048).order([0, 1], [10, 20]) == [0, 1]


@pytest.mark.seconds
def test_a_run_says_how_many_documents_may_be_touched(
    mongo_db: Database[dict[str, Any]], mongod: LocalMongod, tmp_path: Path
) -> None:
    common = {"lang": "en", "classified": True, "retweeted": None}
    texts = [long_text(9_000) if number % 10 == 0 else f"short {number}" for number in range(100)]
    mongo_db["tweets"].insert_many([{"_id": number, "text": text, **common} for number, text in enumerate(texts)])
    with open_client(mongod.uri) as client:
        create_indexes(open_collection(client, mongo_db.name, "tweets"), "done")
    with StandinFleet(LOSES_ITS_WINDOW) as fleet:
        command = EngineCommand(
            uri=mongod.uri, database=mongo_db.name, collection="tweets", done_field="done", urls=fleet.urls,
            folder=tmp_path,
        )  # fmt: skip
        with command.running("run", "--json") as process:
            out, complaint = process.communicate(timeout=90)
    assert process.returncode == 0, complaint
    assert json.loads(out)["beside_equals"] == 10
    assert "has another vector among texts of equal length" in complaint
