"""A bad replica that joins nine good ones behind one URL while a run goes on: how much of it is committed."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bench.standin import StandinConfig, StandinFleet
from gpu_clients.diagnosis import proof
from gpu_clients.diagnosis.proof import Proof, UnprovenRows
from gpu_clients.errors import Failure, FailureKind
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness
from tests.gpu_clients.test_faults_transport import texts

N_ROWS = 100_000
N_RUNS = 200
BAD_SHARE = 0.1
WRONG = Failure(kind=FailureKind.DRIFTED, detail="the canary's vectors have drifted")


class _Replicas:
    """Stands for the side requests: every check is answered at once, by one replica of ten."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self.is_bad_there = False

    def start(self, check: Any, answered: Callable[[Failure | None], None], _now_s: float) -> None:
        check.close()
        answered(WRONG if self.is_bad_there and self._draw.random() < BAD_SHARE else None)


def wrong_rows_of_a_run(seed: int, shard_rows: int) -> int:
    """How many wrong rows are committed until the run has ended by itself; the replica joins at any row."""
    draw = random.Random(seed)
    replicas, unproven = _Replicas(draw), UnprovenRows()
    found_out: list[int] = []
    told: list[int] = []
    asked = Proof(
        unproven,
        replicas,  # type: ignore[arg-type]  # only `start` is called
        lambda: SimpleNamespace(short_is_steady=True, max_input_length=None),  # type: ignore[arg-type,return-value]
        patience_s=lambda: 1.0,
        told=lambda number, _: told.append(number),
        failed=lambda server, _: found_out.append(server),
    )
    joins_at, n_rows, committed = draw.randrange(N_ROWS), 0, 0
    while n_rows < N_ROWS:
        begin, n_rows = n_rows, min(N_ROWS, n_rows + shard_rows)
        replicas.is_bad_there = joins_at < n_rows
        wrong = sum(draw.random() < BAD_SHARE for _ in range(max(begin, joins_at), n_rows))
        unproven.rows_of[0] = n_rows
        asked.ask(begin)
        if found_out:
            break
        assert told[-1] == begin
        committed += wrong
    return committed


@pytest.mark.slow
@pytest.mark.parametrize("shard_rows", [50, 300, 1_000, 5_000, 85_000])
def test_of_a_hundred_thousand_at_most_one_in_a_thousand_is_wrong_in_nineteen_of_twenty_runs(shard_rows: int) -> None:
    kept = sum(wrong_rows_of_a_run(seed, shard_rows) <= N_ROWS // 1000 for seed in range(N_RUNS))
    assert kept >= 0.95 * N_RUNS


@pytest.mark.seconds
def test_one_look_a_shard_would_not_be_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the simulation can fail."""
    monkeypatch.setattr(proof, "MOST_LOOKS", 1)
    kept = sum(wrong_rows_of_a_run(seed, 5_000) <= N_ROWS // 1000 for seed in range(N_RUNS))
    assert kept < 0.5 * N_RUNS


@pytest.mark.seconds
def test_the_proof_finds_a_bad_replica_of_rows_that_a_right_one_has_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of ten, by a real server, after the canaries of the start; they are in no shard yet: they are refused."""
    monkeypatch.setattr(proof, "LOOKS_WITHIN_S", 600.0)
    with StandinFleet(StandinConfig(backend="sim", ports=(0,))) as fleet:
        settings = ClientSettings(urls=fleet.urls, canary_every_s=600.0)
        harness = Harness(fleet.urls, texts(2_000), settings=settings, clients=(0,))
        harness.start()
        try:
            harness.work(lambda: harness.accounted >= 2_000)
            fleet.control(fleet.ports[0], faults=["other_model:probability=0.3,seed=5"])
            harness.command(do="prove", number=1)
            harness.work(lambda: bool(harness.outcome.told("drift") or harness.outcome.told("proof")))
        finally:
            harness.finish()
    told = [event["event"] for event in harness.outcome.events["client-0"] if event["event"] in ("drift", "proof")]
    assert told[0] == "drift", "a proof that comes first lets the shard be committed"
    assert harness.outcome.told("drift")[0]["rows"] == 2_000
