"""Documents that fail always, that kill servers, or that merely look odd: exactly the guilty one in quarantine."""

from __future__ import annotations

import pytest

from bench.standin import StandinConfig, StandinFleet
from gpu_clients.batches.failure_policy import SUSPICIOUS_ATTEMPTS
from gpu_clients.diagnosis.canary_schedule import LOOKS
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness

MODEL = "google/embeddinggemma-300m"
POISON = "p01s0n"


def texts_with_poison(n: int, *at: int) -> list[str]:
    """Distinct texts, some with the poison in them."""
    return [f"text {number} {POISON if number in at else 'good'}" for number in range(n)]


# row 54

REASONS = [
    ("poison:code=424", "backend"),
    ("poison:code=424,scope=batch", "backend"),
    ("poison:code=500", "backend"),
    ("poison:code=502", "backend"),
    ("poison:code=422", "rejected"),
    ("poison:code=413", "rejected"),
    ("poison:code=400", "empty"),
]


@pytest.mark.seconds
@pytest.mark.parametrize(("fault", "reason"), REASONS)
def test_a_text_that_fails_always_is_found_and_its_neighbours_are_embedded(
    fault: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on a slow machine its failures are some seconds apart, which would be taken for an unsteady server
    monkeypatch.setattr("gpu_clients.batches.lane.UNSTEADY_SECONDS", 1000)
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0), max_client_batch_size=64)) as fleet:
        for port in fleet.ports:
            fleet.control(port, faults=[f"{fault},contains={POISON}"])
        settings = ClientSettings(urls=fleet.urls, batch_size=64)
        texts = texts_with_poison(1280, 700)
        harness = Harness(fleet.urls, texts, batch_rows=64, settings=settings)
        for port in fleet.ports:
            fleet.control(port, reset_counters=True)
        outcome = harness.run()
        sent = sum(report["embed_requests"] for report in fleet.reports())
    outcome.check_exact(MODEL)
    assert set(outcome.quarantined) == {700}
    entry = outcome.quarantined[700]
    assert (entry["reason"], entry["attempts"], entry["text"]) == (reason, 2, None)
    assert not outcome.told("server_out")
    needed = len(texts) // 64
    canaries = 2 * 3 * (1 + LOOKS)
    assert sent <= needed + canaries + 20


@pytest.mark.seconds
def test_a_text_whose_failures_look_like_the_servers_is_found_after_a_few() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        for port in fleet.ports:
            fleet.control(port, faults=[f"poison:code=503,contains={POISON}"])
        outcome = Harness(fleet.urls, texts_with_poison(1280, 700)).run()
    outcome.check_exact(MODEL)
    assert {number: entry["reason"] for number, entry in outcome.quarantined.items()} == {700: "backend"}
    assert outcome.total("retries") >= SUSPICIOUS_ATTEMPTS - 1
    assert not outcome.told("server_out")


GATEWAY_STATUSES = [302, 403, 404, 418, 451, 503]


@pytest.mark.seconds
@pytest.mark.parametrize("code", GATEWAY_STATUSES)
def test_a_text_that_a_gateway_never_lets_pass_is_found_and_no_server_goes_out_for_it(code: int) -> None:
    """Several at the very end too, where nothing else is answered well between them."""
    bad = {100, 700, *range(1300, 1600, 40)}
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        for port in fleet.ports:
            fleet.control(port, faults=[f"poison:code={code},body=html,contains={POISON}"])
        outcome = Harness(fleet.urls, texts_with_poison(1600, *bad)).run()
    outcome.check_exact(MODEL)
    assert set(outcome.quarantined) == bad
    for entry in outcome.quarantined.values():
        assert entry["reason"] == ("backend" if code == 503 else "rejected")
        assert entry["detail"].startswith(f"HTTP {code}")
    assert not outcome.told("server_out")


@pytest.mark.seconds
@pytest.mark.parametrize("code", GATEWAY_STATUSES)
def test_servers_that_refuse_the_canary_too_are_out_and_nothing_is_blamed(code: int) -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts_with_poison(640))
        for port in fleet.ports:
            fleet.control(port, faults=[f"status:code={code},body=html"])
        harness.start()
        try:
            harness.work(lambda: harness.outcome.states() <= {"out", "probing"})
            assert harness.accounted == 0
            for port in fleet.ports:
                fleet.control(port, clear_faults=True)
            harness.outcome.finished = harness.work(lambda: harness.accounted >= 640)
        finally:
            harness.finish()
    harness.outcome.check_exact(MODEL)
    assert not harness.outcome.quarantined


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("reset:at=request", "backend"),
        ("reset:at=body", "backend"),
        ("html200:", "backend"),
        ("truncated_json:share=0.7", "backend"),
        ("huge_body:bytes=2000000000", "backend"),
        ("gzip_bomb:bytes=100000000", "backend"),
        ("redirect:location=/elsewhere", "rejected"),
    ],
)
def test_a_text_whose_answer_is_never_one_is_found_at_the_end_of_a_run_too(fault: str, reason: str) -> None:
    fault = f"{fault},contains={POISON}".replace(":,", ":")
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts_with_poison(96, 3, 40, 41, 95))
        for port in fleet.ports:
            fleet.control(port, faults=[fault])
        outcome = harness.run()
    outcome.check_exact(MODEL)
    assert {number: entry["reason"] for number, entry in outcome.quarantined.items()} == dict.fromkeys(
        (3, 40, 41, 95), reason
    )


@pytest.mark.seconds
def test_a_text_that_is_always_too_much_for_now_is_found_while_others_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_clients.batches.failure_policy.OVERLOADED_ALONE_S", 0.0)
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        for port in fleet.ports:
            fleet.control(port, faults=[f"poison:code=429,contains={POISON}"])
        outcome = Harness(fleet.urls, texts_with_poison(640, 100)).run()
    outcome.check_exact(MODEL)
    assert {number: entry["reason"] for number, entry in outcome.quarantined.items()} == {100: "too_large"}
    assert outcome.quarantined[100]["detail"].startswith("HTTP 429")
    assert not outcome.told("server_out")


@pytest.mark.seconds
def test_a_text_that_no_server_ever_answers_is_found_at_the_end_of_a_run() -> None:
    """Nothing else is answered beside it, so that every time the server looks as if it hung."""
    with StandinFleet(StandinConfig(backend="sim")) as fleet:
        harness = Harness(fleet.urls, texts_with_poison(2, 1), batch_rows=2, timeouts_s={0: 1.0})
        fleet.control(fleet.ports[0], faults=[f"black_hole:at=request,contains={POISON}"])
        outcome = harness.run()
    outcome.check_exact(MODEL)
    assert {number: entry["reason"] for number, entry in outcome.quarantined.items()} == {1: "backend"}


def test_the_reason_and_the_text_are_told_when_asked_for() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        for port in fleet.ports:
            fleet.control(port, faults=[f"poison:code=422,contains={POISON}"])
        settings = ClientSettings(urls=fleet.urls, keep_text=True)
        outcome = Harness(fleet.urls, texts_with_poison(64, 5), settings=settings).run()
    assert outcome.quarantined[5]["text"] == f"text 5 {POISON}"
    assert outcome.quarantined[5]["reason"] == "rejected"
    assert outcome.quarantined[5]["detail"].startswith("HTTP 422")


@pytest.mark.seconds
def test_several_bad_texts_in_one_batch_are_all_found() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        for port in fleet.ports:
            fleet.control(port, faults=[f"poison:code=424,contains={POISON}"])
        outcome = Harness(fleet.urls, texts_with_poison(320, 64, 65, 80, 95, 200)).run()
    outcome.check_exact(MODEL)
    assert set(outcome.quarantined) == {64, 65, 80, 95, 200}


@pytest.mark.seconds
def test_a_text_that_only_one_server_refuses_is_embedded_by_another() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        fleet.control(fleet.ports[0], faults=[f"poison:code=424,contains={POISON}"])
        outcome = Harness(fleet.urls, texts_with_poison(2000, *range(0, 2000, 101))).run()
    outcome.check_exact(MODEL)
    assert not outcome.quarantined


def test_in_a_fleet_of_one_a_text_is_heard_twice() -> None:
    with StandinFleet(StandinConfig(backend="sim")) as fleet:
        fleet.control(fleet.ports[0], faults=[f"poison:code=424,contains={POISON}"])
        outcome = Harness(fleet.urls, texts_with_poison(200, 70)).run()
    outcome.check_exact(MODEL)
    assert set(outcome.quarantined) == {70}
    assert "no other server" in outcome.quarantined[70]["detail"]


@pytest.mark.seconds
def test_a_server_whose_gpu_died_blames_no_document() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts_with_poison(3000))
        fleet.control(fleet.ports[0], faults=["dead_gpu:health=green"])
        outcome = harness.run()
    outcome.check_exact(MODEL)
    assert not outcome.quarantined
    assert outcome.told("server_out", "client-0")
    assert outcome.figures("client-0")["rows"] == 0


@pytest.mark.seconds
def test_when_every_gpu_is_dead_nothing_is_blamed_and_nothing_is_lost() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        harness = Harness(fleet.urls, texts_with_poison(3000))
        for port in fleet.ports:
            fleet.control(port, faults=["dead_gpu:health=green"])
        harness.start()
        try:
            harness.work(lambda: harness.outcome.states() <= {"out", "probing"})
            assert not harness.outcome.quarantined
            assert harness.outcome.total("taken_rows") == harness.accounted
            for port in fleet.ports:
                fleet.control(port, clear_faults=True)
            harness.outcome.finished = harness.work(lambda: harness.accounted >= 3000)
        finally:
            harness.finish()
    harness.outcome.check_exact(MODEL)


@pytest.mark.seconds
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_text_whose_vector_is_never_sound_goes_into_quarantine(value: str) -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        # the first row of every answer to a request with the poison in it; the poison is the first of its batch
        for port in fleet.ports:
            fleet.control(port, faults=[f"value:value={value},row=0,contains={POISON}"])
        outcome = Harness(fleet.urls, texts_with_poison(320, 64)).run()
    outcome.check_exact(MODEL)
    assert {number: entry["reason"] for number, entry in outcome.quarantined.items()} == {64: "unsound_vector"}


# row 55


@pytest.mark.seconds
def test_a_text_that_kills_servers_is_found_and_only_it_is_blamed() -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0, 0))) as fleet:
        harness = Harness(fleet.urls, texts_with_poison(3000, 1000), n_documents=60)
        for port in fleet.ports:
            fleet.control(port, faults=[f"exit:down_s=0.7,contains={POISON}"])
        outcome = harness.run()
        deaths = sum(report["faults_fired"]["exit"] for report in fleet.reports())
    outcome.check_exact(MODEL)
    assert set(outcome.quarantined) == {1000}
    assert outcome.quarantined[1000]["reason"] == "backend"
    assert deaths <= 6, "one in a crowd, one as a batch alone, one as a text alone, one to confirm; two for bad timing"


# row 56


@pytest.mark.seconds
def test_odd_texts_come_out_with_their_own_vectors() -> None:
    odd = [
        "\x00nul in the middle\x00",
        "\u202eright to left \u05d0\u05d1\u05d2 \u0627\u0644\u0639",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
        "e\u0301 combining",
        "\ufeffbom",
        '"quotes" \\ and / slashes',
        "\u2028line separator\u2029",
        " ",
        "a" * 500_000,
        "\ud7ff\ue000\uffff",
    ]
    texts = [f"{number} {odd[number % len(odd)]}" for number in range(60)]
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0), max_input_length=16_384)) as fleet:
        harness = Harness(fleet.urls, texts, batch_rows=3, n_documents=4, n_vectors=4)
        outcome = harness.run()
    assert outcome.finished
    assert not outcome.quarantined
    assert set(outcome.deliveries.values()) == {1}
    assert outcome.truncated == {number for number in range(60) if number % len(odd) == 8}
