"""The ordinary way of a batch through a client: every document in one row, with its own vector, ids and columns."""

from __future__ import annotations

import pytest

from bench.standin import Dialect, StandinConfig, StandinFleet
from engine.memory.ids import IdType
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness

MODEL = "google/embeddinggemma-300m"


def _texts(n: int) -> list[str]:
    return [f"text number {number} " + "x" * (number % 50) for number in range(n)]


@pytest.mark.parametrize("id_type", list(IdType))
def test_every_document_comes_out_once_with_its_own_vector(id_type: IdType) -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        columns = [[number, f"c{number}"] for number in range(700)]
        outcome = Harness(fleet.urls, _texts(700), id_type=id_type, columns=columns).run()
    outcome.check_exact(MODEL)
    assert not outcome.quarantined
    assert all(outcome.columns[number] == columns[number] for number in range(700))
    assert outcome.total("taken_rows") == outcome.total("rows") == 700


def test_identical_texts_are_sent_once_and_fanned_out() -> None:
    texts = [f"text {number % 10}" for number in range(320)]

    def fan_out(batch: list[str]) -> tuple[list[str], list[int]]:
        distinct = list(dict.fromkeys(batch))
        return distinct, [distinct.index(text) for text in batch]

    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        outcome = Harness(fleet.urls, texts, fan_out=fan_out).run()
        sent = sum(report["inputs"] for report in fleet.reports())
    outcome.check_exact(MODEL)
    assert outcome.total("saved_by_dedup") == 320 - 10 * 10
    assert sent < 320


def test_a_rejected_text_takes_every_document_that_shares_it_into_quarantine() -> None:
    texts = ["same p01s0n" if number % 5 == 0 else f"text {number}" for number in range(64)]

    def fan_out(batch: list[str]) -> tuple[list[str], list[int]]:
        distinct = list(dict.fromkeys(batch))
        return distinct, [distinct.index(text) for text in batch]

    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        for port in fleet.ports:
            fleet.control(port, faults=["poison:code=422,contains=p01s0n"])
        outcome = Harness(fleet.urls, texts, fan_out=fan_out).run()
    outcome.check_exact(MODEL)
    assert set(outcome.quarantined) == set(range(0, 64, 5))


@pytest.mark.seconds
@pytest.mark.parametrize("dialect", [Dialect.V1_8, Dialect.V1_9])
@pytest.mark.parametrize("truncate", [True, False])
def test_both_dialects_are_spoken_on_both_routes(dialect: Dialect, truncate: bool) -> None:
    texts = [f"text {number}{' p01s0n' if number == 40 else ''}" for number in range(400)]
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0), dialect=dialect)) as fleet:
        status = 413 if dialect is Dialect.V1_8 else 422
        for port in fleet.ports:
            fleet.control(port, faults=[f"poison:code={status},contains=p01s0n"])
        settings = ClientSettings(urls=fleet.urls, truncate=truncate)
        outcome = Harness(fleet.urls, texts, settings=settings).run()
    outcome.check_exact(MODEL)
    assert {number: entry["reason"] for number, entry in outcome.quarantined.items()} == {40: "rejected"}


@pytest.mark.parametrize("id_type", list(IdType))
def test_rows_around_a_quarantined_one_keep_their_ids_and_columns(id_type: IdType) -> None:
    texts = [f"text {number}{' p01s0n' if number in (3, 31, 40) else ''}" for number in range(96)]
    columns = [{"n": number} for number in range(96)]
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        for port in fleet.ports:
            fleet.control(port, faults=["poison:code=422,contains=p01s0n"])
        outcome = Harness(fleet.urls, texts, id_type=id_type, columns=columns).run()
    outcome.check_exact(MODEL)
    assert set(outcome.quarantined) == {3, 31, 40}
    assert all(outcome.columns[number] == columns[number] for number in outcome.rows)


def test_a_batch_of_which_nothing_is_left_is_told_of() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        for port in fleet.ports:
            fleet.control(port, faults=["poison:code=422,contains=p01s0n"])
        outcome = Harness(fleet.urls, ["p01s0n 1", "p01s0n 2", "good", "fine"], batch_rows=2).run()
    outcome.check_exact(MODEL)
    assert set(outcome.quarantined) == {0, 1}
    assert [event["sequence"] for event in outcome.told("void")] == [0]


@pytest.mark.seconds
def test_answers_wait_while_there_is_no_empty_vector_slot() -> None:
    with StandinFleet(StandinConfig(backend="sim")) as fleet:
        harness = Harness(fleet.urls, _texts(600), n_vectors=2)
        harness.hold_vectors = True
        harness.start()
        try:
            harness.work(lambda: harness.outcome.figures("client-0").get("vector_wait_s", 0) > 0.2)
            requests = harness.outcome.figures("client-0")["requests"]
            assert requests < 15, "nothing new is sent meanwhile"
            harness.hold_vectors = False
            harness.outcome.finished = harness.work(lambda: harness.accounted >= 600)
        finally:
            harness.finish()
    harness.outcome.check_exact(MODEL)


def test_after_a_stop_everything_in_hand_is_delivered_and_nothing_more_is_taken() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, _texts(20_000))
        harness.start()
        try:
            harness.work(lambda: harness.accounted > 300)
            harness.command(do="stop")
            harness.work(lambda: len(harness.outcome.told("stopped")) == 2)
            harness.work(lambda: harness.accounted >= harness.outcome.total("rows"))
        finally:
            harness.finish()
    for stopped in harness.outcome.told("stopped"):
        assert stopped["rows"] == stopped["taken_rows"]
    assert harness.accounted == harness.outcome.total("rows") < 20_000
    assert harness.outcome.states() == {"stopped"}


def test_a_stop_while_the_server_is_out_ends_at_once() -> None:
    with StandinFleet(StandinConfig(backend="sim")) as fleet:
        harness = Harness(fleet.urls, _texts(1000))
        fleet.control(fleet.ports[0], faults=["refuse:down_s=600"])
        harness.start()
        try:
            harness.work(lambda: bool(harness.outcome.told("server_out")))
            harness.command(do="stop")
            harness.work(lambda: bool(harness.outcome.told("stopped")))
        finally:
            harness.finish()
    assert harness.outcome.told("stopped")[0]["taken_rows"] == 0


@pytest.mark.seconds
def test_a_client_says_something_at_least_every_second_whatever_happens() -> None:
    with StandinFleet(StandinConfig(backend="sim")) as fleet:
        harness = Harness(fleet.urls, _texts(100))
        fleet.control(fleet.ports[0], faults=["black_hole:at=request"])
        harness.start()
        try:
            harness.work(lambda: len(harness.outcome.told("client")) >= 4)
        finally:
            harness.finish()


@pytest.mark.seconds
def test_the_last_batches_of_a_slow_server_are_hedged_and_come_out_once() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, hedge_share=0.5)
        harness = Harness(fleet.urls, _texts(1500), settings=settings, n_documents=60)
        fleet.control(fleet.ports[0], faults=["slow:factor=1000000"])
        harness.start(0)
        try:
            harness.work(lambda: bool(harness.outcome.figures("client-0").get("taken_rows")))
            harness.start_others()
            harness.work_beside("client-0")
            harness.command(do="tail")
            harness.outcome.finished = harness.work(lambda: harness.accounted >= 1500)
            assert harness.stop()
        finally:
            harness.finish()
    harness.outcome.check_exact(MODEL)
    assert harness.outcome.figures("client-0")["hedged"] >= 1
    assert harness.outcome.figures("client-0")["taken_rows"] == harness.outcome.figures("client-0")["rows"]


@pytest.mark.seconds
def test_without_a_share_for_hedges_a_long_run_sends_hardly_any() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, _texts(3000), settings=ClientSettings(urls=fleet.urls, hedge_share=0.0))
        harness.start()
        try:
            harness.command(do="tail")
            harness.outcome.finished = harness.work(lambda: harness.accounted >= 3000)
            assert harness.stop()
        finally:
            harness.finish()
    harness.outcome.check_exact(MODEL)
    assert harness.outcome.total("hedged") <= 2 * 4


@pytest.mark.seconds
def test_texts_that_the_server_cut_are_flagged_and_counted() -> None:
    # the stand-in has a token for every 4 characters and 2 special ones: 64 tokens are 248 characters
    lengths = [10, 240, 248, 249, 250, 300, 1000, 5000]
    texts = [f"{number:04d} " + "x" * (lengths[number % 8] - 5) for number in range(320)]
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0), max_input_length=64)) as fleet:
        outcome = Harness(fleet.urls, texts).run()
    assert outcome.finished
    assert not outcome.quarantined
    assert outcome.truncated == {number for number in range(320) if lengths[number % 8] > 248}
    assert outcome.total("truncated") == len(outcome.truncated)


def test_cut_texts_are_flagged_in_a_batch_that_was_taken_apart_too() -> None:
    texts = [
        f"{number:04d} {'p01s0n' if number == 40 else ''}" + "x" * (900 if number % 3 else 9) for number in range(64)
    ]
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0), max_input_length=64)) as fleet:
        for port in fleet.ports:
            fleet.control(port, faults=["poison:code=422,contains=p01s0n"])
        outcome = Harness(fleet.urls, texts).run()
    assert outcome.finished
    assert set(outcome.quarantined) == {40}
    assert outcome.truncated == {number for number in range(64) if number % 3 and number != 40}


def test_without_truncation_a_long_text_is_put_into_quarantine_as_too_long() -> None:
    texts = [f"{number:04d} " + "x" * (2000 if number == 77 else 20) for number in range(128)]
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0), max_input_length=64)) as fleet:
        settings = ClientSettings(urls=fleet.urls, truncate=False)
        outcome = Harness(fleet.urls, texts, settings=settings).run()
    outcome.check_exact(MODEL)
    assert {number: entry["reason"] for number, entry in outcome.quarantined.items()} == {77: "too_long"}


@pytest.mark.seconds
def test_a_payload_limit_is_learnt_and_batches_are_divided() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0), payload_limit_bytes=20_000)) as fleet:
        texts = [f"{number} " + "y" * 1000 for number in range(640)]
        outcome = Harness(fleet.urls, texts).run()
    outcome.check_exact(MODEL)
    assert not outcome.quarantined
    assert not outcome.told("server_out")


@pytest.mark.seconds
def test_a_document_larger_than_the_payload_limit_is_too_large() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0), payload_limit_bytes=20_000)) as fleet:
        texts = [f"{number} " + "y" * (30_000 if number == 9 else 10) for number in range(64)]
        outcome = Harness(fleet.urls, texts).run()
    outcome.check_exact(MODEL)
    assert {number: entry["reason"] for number, entry in outcome.quarantined.items()} == {9: "too_large"}


def test_an_api_key_is_sent_and_told_to_nobody() -> None:
    config = StandinConfig(backend="sim", ports=(0, 0), api_key="m4rker-secret")
    with StandinFleet(config) as fleet:
        settings = ClientSettings(urls=fleet.urls, api_keys=("m4rker-secret", "m4rker-secret"))
        outcome = Harness(fleet.urls, _texts(200), settings=settings).run()
    outcome.check_exact(MODEL)
    assert "m4rker" not in repr(outcome.events)
    assert "m4rker" not in repr(settings)


@pytest.mark.seconds
def test_a_key_that_is_refused_midway_takes_the_server_out() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, _texts(2000))
        fleet.control(fleet.ports[0], faults=["status:code=401,body=empty"])
        outcome = harness.run(0, met=lambda: bool(harness.outcome.told("server_out", "client-0")))
    outcome.check_exact(MODEL)
    assert outcome.told("server_out", "client-0")
    assert not outcome.quarantined


@pytest.mark.parametrize("path", ["", "/", "/embed", "/v1/embeddings", "/embeddings/"])
def test_every_form_of_url_is_understood(path: str) -> None:
    with StandinFleet(StandinConfig(backend="sim")) as fleet:
        outcome = Harness((fleet.urls[0] + path,), _texts(64)).run()
    outcome.check_exact(MODEL)


def test_an_openai_compatible_server_is_used_without_tei_extras() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, server_kind="openai", model=MODEL)
        outcome = Harness(fleet.urls, _texts(1000), settings=settings).run()
    outcome.check_exact(MODEL)


def test_vectors_that_are_not_normalised_keep_their_length() -> None:
    with StandinFleet(StandinConfig(backend="sim")) as fleet:
        settings = ClientSettings(urls=fleet.urls, normalize=False)
        outcome = Harness(fleet.urls, _texts(100), settings=settings).run()
    assert outcome.finished
    assert all(float((vector**2).sum() ** 0.5) == pytest.approx(8.0, rel=1e-3) for vector in outcome.rows.values())


@pytest.mark.parametrize("dimensions", [256, 512])
def test_fewer_dimensions_can_be_asked_for(dimensions: int) -> None:
    with StandinFleet(StandinConfig(backend="sim")) as fleet:
        settings = ClientSettings(urls=fleet.urls, dimensions=dimensions)
        outcome = Harness(fleet.urls, _texts(100), settings=settings).run()
    assert outcome.finished
    assert {len(vector) for vector in outcome.rows.values()} == {dimensions}


@pytest.mark.seconds
def test_clients_in_processes_of_their_own_do_the_same() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        outcome = Harness(fleet.urls, _texts(2000), processes=True).run()
    outcome.check_exact(MODEL)
