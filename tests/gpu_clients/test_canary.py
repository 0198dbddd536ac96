"""The canary: servers that give sound vectors of the wrong model, or of the wrong text, are taken out."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bench.standin import StandinConfig, StandinFleet
from bench.standin.vectors import text_rows
from gpu_clients.canary import Arrangement, Canary, canary_texts
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness
from tests.gpu_clients.test_faults_transport import texts

MODEL = "google/embeddinggemma-300m"


def vectors(model: str, *which: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Vectors of some canary texts."""
    all_texts = canary_texts(2048)
    return text_rows(model, [all_texts[number] for number in which], 768)


@pytest.mark.parametrize("fault", ["other_model", "switch_model:model_id=other/model", "previous", "same"])
def test_a_server_with_the_wrong_vectors_is_taken_out_and_stays_out(fault: str) -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=0.1)
        harness = Harness(fleet.urls, texts(200_000), settings=settings)
        harness.start()
        try:
            harness.work(lambda: bool(harness.outcome.figures("client-0").get("rows")), 20.0)
            fleet.control(fleet.ports[0], faults=[fault])
            assert harness.work(lambda: bool(harness.outcome.told("server_out", "client-0")), 20.0)
            rows = harness.outcome.figures("client-0")["rows"]
            went_on_s = time.monotonic() + 1.5
            harness.work(lambda: time.monotonic() > went_on_s, 5.0)
            assert harness.outcome.figures("client-0")["rows"] == rows
            assert not harness.outcome.told("server_back", "client-0")
            assert not harness.outcome.told("server_out", "client-1")
        finally:
            harness.finish()


def test_one_vector_for_all_texts_never_reaches_the_writer() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts(3000))
        fleet.control(fleet.ports[0], faults=["same"])
        outcome = harness.run()
    outcome.check_exact(MODEL)
    assert outcome.figures("client-0")["rows"] == 0


def test_a_server_that_comes_back_with_another_model_is_not_let_in() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts(6000))
        fleet.control(fleet.ports[0], faults=["refuse:down_s=0.5"], model_id="other/model")
        outcome = harness.run()
    outcome.check_exact(MODEL)
    assert outcome.figures("client-0")["rows"] == 0
    assert not outcome.told("server_back", "client-0")


def test_the_periodic_canary_of_a_sound_server_finds_nothing() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0,))) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=0.05)
        outcome = Harness(fleet.urls, texts(3000), settings=settings).run()
        asked = sum(report["embed_requests"] for report in fleet.reports())
    outcome.check_exact(MODEL)
    assert not outcome.told("server_out")
    assert asked > 3000 // 32 + 10, "it was asked for, beside the work"


def test_references_survive_their_way_as_text() -> None:
    canary = Canary.of(vectors(MODEL, 0, 1, 2), vectors(MODEL, 2, 2))

    again = Canary.decode(canary.encode())

    assert again.agrees_with(canary) == pytest.approx(1.0)
    assert again.accepts(Arrangement.MIXED, vectors(MODEL, 0, 1, 2))
    assert again.accepts(Arrangement.ALONE, vectors(MODEL, 2))


def test_vectors_of_another_text_or_another_model_or_none_are_not_accepted() -> None:
    canary = Canary.of(vectors(MODEL, 0, 1, 2), vectors(MODEL, 2, 2))

    assert not canary.accepts(Arrangement.MIXED, vectors(MODEL, 1, 0, 2))
    assert not canary.accepts(Arrangement.MIXED, vectors("other/model", 0, 1, 2))
    assert not canary.accepts(Arrangement.EQUAL, np.full((2, 768), np.nan, dtype=np.float32))
    assert not canary.accepts(Arrangement.ALONE, np.zeros((1, 768), dtype=np.float32))


def test_a_model_whose_long_texts_hang_on_their_neighbours_is_recognised() -> None:
    steady = Canary.of(vectors(MODEL, 0, 1, 2), vectors(MODEL, 2, 2))
    unsteady = Canary.of(vectors(MODEL, 0, 1, 2), vectors("other/model", 2, 2))

    assert not steady.neighbours_matter()
    assert unsteady.neighbours_matter()
    assert unsteady.accepts(Arrangement.EQUAL, vectors("other/model", 2, 2))
    assert unsteady.accepts(Arrangement.EQUAL, vectors(MODEL, 2, 2)), "under load it has other neighbours"


@pytest.mark.parametrize("limit", [16, 128, 512, 2048, None])
def test_the_canary_texts_differ_and_fit_every_server(limit: int | None) -> None:
    chosen = canary_texts(limit)

    assert len(set(chosen)) == 3
    if limit is not None:
        assert all(len(text) <= max(40, 2 * limit) or len(text) < 100 for text in chosen)
