"""The canary: servers that give sound vectors of the wrong model, or of the wrong text, are taken out."""

from __future__ import annotations

import numpy as np
import pytest

from bench.standin import StandinConfig, StandinFleet
from bench.standin.backends.vectors import text_rows
from gpu_clients.servers.canary import Arrangement, Canary, canary_texts
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness
from tests.gpu_clients.outcome import Outcome
from tests.gpu_clients.test_faults_transport import texts

MODEL = "google/embeddinggemma-300m"
COUNT_CANARIES = "delay:s=0,contains=The harbour lay quiet"
"""A fault that does nothing but count the requests for the canary's long text."""


def vectors(model: str, *which: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Vectors of some canary texts."""
    all_texts = canary_texts(2048)
    return text_rows(model, [all_texts[number] for number in which], 768)


def wrong_rows(outcome: Outcome) -> set[int]:
    """Documents that have come out with another vector than their text's."""
    numbers = list(outcome.rows)
    truth = text_rows(MODEL, [outcome.texts[number] for number in numbers], 768)
    return {
        number
        for number, wanted in zip(numbers, truth, strict=True)
        if not np.allclose(outcome.rows[number], wanted, atol=1e-5)
    }


def looks(fleet: StandinFleet) -> int:
    """Requests for the canary's long text that the first server has had under a fault of the kind `delay`."""
    return int(fleet.reports()[0]["faults_fired"].get("delay", 0))


@pytest.mark.seconds
@pytest.mark.parametrize("fault", ["other_model", "switch_model:model_id=other/model", "previous", "same"])
def test_a_server_with_the_wrong_vectors_is_taken_out_and_stays_out(fault: str) -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=0.1)
        harness = Harness(fleet.urls, texts(100_000), settings=settings)
        outcome = harness.outcome
        harness.start()
        try:
            harness.work(lambda: bool(outcome.figures("client-0").get("rows")))
            fleet.control(fleet.ports[0], faults=[fault])
            harness.work(lambda: bool(outcome.told("server_out", "client-0")))
            rows = outcome.figures("client-0")["rows"]
            turns = iter(range(3))  # all that was delivered before is collected
            harness.work(lambda: next(turns, None) is None)
            wrong = wrong_rows(outcome)
            heard = len(outcome.told("client", "client-1")) + 1
            harness.work(lambda: len(outcome.told("client", "client-1")) >= heard)
        finally:
            harness.finish()
    assert wrong_rows(outcome) == wrong, "nothing of a server that was taken out for its vectors comes out afterwards"
    assert outcome.figures("client-0")["rows"] == rows
    # one vector for all is refused answer by answer, so nothing that came before is in doubt
    assert len(wrong) <= sum(drift["rows"] for drift in outcome.told("drift", "client-0"))
    assert not outcome.told("server_back", "client-0")
    assert not outcome.told("server_out", "client-1")


@pytest.mark.seconds
def test_answers_that_wait_for_the_writer_are_not_delivered_once_their_server_was_found_wrong() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=0.01)
        harness = Harness(fleet.urls, texts(50_000), settings=settings, clients=(0,), n_vectors=2)
        outcome = harness.outcome
        harness.start()
        try:
            harness.work(lambda: harness.accounted > 0)
            # the canary's answers take their time, so that those of the batches come first and wait in line
            fleet.control(fleet.ports[0], faults=["other_model", "delay:s=1.5,contains=The harbour lay quiet"])
            harness.work(lambda: looks(fleet) > 0)
            harness.hold_vectors = True
            harness.work(lambda: bool(outcome.told("server_out", "client-0")))
            figures = outcome.figures("client-0")
            assert figures["taken_rows"] == figures["rows"], "everything else went back into the ring"
            harness.hold_vectors = False
            harness.work(lambda: harness.accounted >= figures["rows"])
            heard = len(outcome.told("client", "client-0")) + 2
            harness.work(lambda: len(outcome.told("client", "client-0")) >= heard)
            assert harness.accounted == figures["rows"] == outcome.figures("client-0")["rows"]
        finally:
            harness.finish()


@pytest.mark.seconds
def test_a_drift_that_no_canary_has_met_yet_is_found_when_a_proof_is_asked_for() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=600.0)
        harness = Harness(fleet.urls, texts(100_000), settings=settings)
        outcome = harness.outcome
        fleet.control(fleet.ports[0], faults=[COUNT_CANARIES])
        harness.start()
        try:
            harness.work(lambda: looks(fleet) >= 3)
            rows = harness.accounted
            harness.work(lambda: harness.accounted >= rows + 3000)  # the third has been answered
            fleet.control(fleet.ports[0], faults=["other_model"])
            while not wrong_rows(outcome):
                rows = harness.accounted
                harness.work(lambda rows=rows: harness.accounted >= rows + 1000)  # type: ignore[misc]
            assert not outcome.told("server_out")
            harness.command(do="prove", number=1)
            harness.work(lambda: bool(outcome.told("drift", "client-0")))
            harness.work(lambda: bool(outcome.told("proof", "client-1")))
            told = [event["event"] for event in outcome.events["client-0"]]
        finally:
            harness.finish()
    assert outcome.told("drift")[0]["rows"] >= len(wrong_rows(outcome)) > 0
    assert "proof" not in told[: told.index("drift")]
    assert not outcome.told("server_out", "client-1")


@pytest.mark.seconds
def test_a_server_with_the_wrong_vectors_gets_no_hedges() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, hedge_share=0.5, canary_every_s=600.0)
        # nobody works for the second server, so its vectors can only come by a hedge
        harness = Harness(fleet.urls, texts(900), settings=settings, clients=(0, 2), n_documents=60)
        outcome = harness.outcome
        fleet.control(fleet.ports[0], faults=["slow:factor=1000000"])
        fleet.control(fleet.ports[1], faults=["other_model"])
        harness.start(0)
        try:
            harness.work(lambda: bool(outcome.figures("client-0").get("taken_rows")))
            harness.start_others()
            harness.work_beside("client-0")
            harness.command(do="tail")
            outcome.finished = harness.work(lambda: harness.accounted >= 900)
        finally:
            harness.finish()
    outcome.check_exact(MODEL)
    assert outcome.figures("client-0")["hedged"] >= 1


@pytest.mark.seconds
def test_one_vector_for_all_texts_never_reaches_the_writer() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts(3000))
        fleet.control(fleet.ports[0], faults=["same"])
        outcome = harness.run()
    outcome.check_exact(MODEL)
    assert outcome.figures("client-0")["rows"] == 0


@pytest.mark.seconds
def test_a_server_that_comes_back_with_another_model_is_not_let_in() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts(6000))
        fleet.control(fleet.ports[0], faults=["refuse:down_s=0.5"], model_id="other/model")
        outcome = harness.run()
    outcome.check_exact(MODEL)
    assert outcome.figures("client-0")["rows"] == 0
    assert not outcome.told("server_back", "client-0")


@pytest.mark.seconds
def test_the_periodic_canary_of_a_sound_server_finds_nothing() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0,))) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=0.05)
        harness = Harness(fleet.urls, texts(50_000), settings=settings)
        fleet.control(fleet.ports[0], faults=[COUNT_CANARIES])
        harness.start()
        try:
            harness.work(lambda: looks(fleet) >= 7)  # it is asked for, beside the work
        finally:
            harness.finish()
    assert harness.accounted > 0
    assert not wrong_rows(harness.outcome)
    assert not harness.outcome.told("server_out")


def test_references_survive_their_way_as_text() -> None:
    canary = Canary.of(vectors(MODEL, 0, 1, 2), vectors(MODEL, 2, 2))

    again = Canary.decode(canary.encode())

    assert again.agrees_with(canary) == pytest.approx(1.0)
    assert again.accepts(Arrangement.MIXED, vectors(MODEL, 0, 1, 2), None)
    assert again.accepts(Arrangement.ALONE, vectors(MODEL, 2), None)


@pytest.mark.parametrize(("ours", "theirs"), [(None, 512), (512, None), (2048, 40), (300, 200)])
def test_servers_of_unlike_limits_are_compared_by_the_texts_that_both_get(ours: int | None, theirs: int | None) -> None:
    """The short text is always among them; another model is found out by it."""
    limited = canary_texts(theirs)
    canary = Canary.decode(Canary.of(vectors(MODEL, 0, 1, 2), vectors(MODEL, 2, 2), ours).encode())
    other_long = text_rows(MODEL, list(limited), 768).astype(np.float32)
    there = Canary.of(other_long, other_long[[2, 2]], theirs)

    assert canary.limit == ours
    assert limited[2] != canary_texts(ours)[2]
    assert 0 in canary.common(theirs)
    assert not canary.covers(Arrangement.ALONE, theirs)
    assert canary.agrees_with(there) == pytest.approx(1.0)
    assert canary.accepts(Arrangement.MIXED, other_long, theirs)
    assert not canary.accepts(Arrangement.MIXED, vectors("other/model", 0, 1, 2), theirs)


def test_vectors_of_another_text_or_another_model_or_none_are_not_accepted() -> None:
    canary = Canary.of(vectors(MODEL, 0, 1, 2), vectors(MODEL, 2, 2))

    assert not canary.accepts(Arrangement.MIXED, vectors(MODEL, 1, 0, 2), None)
    assert not canary.accepts(Arrangement.MIXED, vectors("other/model", 0, 1, 2), None)
    assert not canary.accepts(Arrangement.EQUAL, np.full((2, 768), np.nan, dtype=np.float32), None)
    assert not canary.accepts(Arrangement.ALONE, np.zeros((1, 768), dtype=np.float32), None)


def test_a_model_whose_long_texts_hang_on_their_neighbours_is_recognised() -> None:
    steady = Canary.of(vectors(MODEL, 0, 1, 2), vectors(MODEL, 2, 2))
    unsteady = Canary.of(vectors(MODEL, 0, 1, 2), vectors("other/model", 2, 2))

    assert not steady.neighbours_matter()
    assert unsteady.neighbours_matter()
    assert unsteady.accepts(Arrangement.EQUAL, vectors("other/model", 2, 2), None)
    assert unsteady.accepts(Arrangement.EQUAL, vectors(MODEL, 2, 2), None), "under load it has other neighbours"


@pytest.mark.parametrize("limit", [16, 128, 512, 2048, None])
def test_the_canary_texts_differ_and_fit_every_server(limit: int | None) -> None:
    chosen = canary_texts(limit)

    assert len(set(chosen)) == 3
    if limit is not None:
        assert all(len(text) <= max(40, 2 * limit) or len(text) < 100 for text in chosen)
