"""Many faults at once, at random, the seed in the test's name: nothing is lost, doubled, wrong or blamed falsely."""

from __future__ import annotations

import random

import pytest

from bench.standin import Dialect, StandinConfig, StandinFleet
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness

MODEL = "google/embeddinggemma-300m"
POISON = "p01s0n"
FAULTS = [
    "status:code=503",
    "status:code=429",
    "status:code=500",
    "status:code=424",
    "status:code=502,body=html",
    "reset:at=request",
    "reset:at=headers",
    "reset:at=body",
    "reset:at=request,how=fin",
    "delay:s=0.2",
    "truncated_json:share=0.7",
    "content_type:value=text/html",
    "count:delta=-1",
    "dim:to=769",
    "value:value=nan,row=1",
    "index:how=reorder",
    "index:how=gap",
    "zero:",
    "html200:",
    "close:",
    "black_hole:at=request",
    "refuse:down_s=0.3",
    "dead_gpu:health=green",
]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_any_mixture_of_faults_leaves_every_document_accounted_for(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # a server is believed until it has failed in three seconds of thirty; in those of a quick machine chance may blame
    # a text by two failures out of two
    monkeypatch.setattr("gpu_clients.batches.lane.UNSTEADY_SECONDS", 1)
    rng = random.Random(seed)
    poisoned = set(rng.sample(range(2400), 3))
    texts = [f"text {number} {POISON if number in poisoned else 'fine'}" for number in range(2400)]
    dialect = rng.choice([Dialect.V1_8, Dialect.V1_9])
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0, 0), dialect=dialect)) as fleet:
        settings = ClientSettings(urls=fleet.urls, request_timeout_s=0.7, canary_every_s=0.5)
        harness = Harness(fleet.urls, texts, settings=settings, n_documents=40)
        poison = f"poison:code={rng.choice([422, 424])},contains={POISON}"

        def stir() -> None:
            for port in fleet.ports:
                chosen = rng.sample(FAULTS, 3)
                faults = [
                    f"{fault},probability={rng.choice([0.05, 0.2, 0.5])},seed={rng.randrange(99)}" for fault in chosen
                ]
                fleet.control(port, faults=[poison, *(fault.replace(":,", ":") for fault in faults)])

        stir()  # before the first text is asked for: the poison is poison from the beginning
        harness.start()
        try:
            for share in range(1, 6):
                harness.work(lambda share=share: harness.accounted >= 2400 * share // 7, 1.0)  # type: ignore[misc]
                stir()
            for port in fleet.ports:
                fleet.control(port, faults=[poison])
            harness.outcome.finished = harness.work(lambda: harness.accounted >= 2400)
            assert harness.stop()
        finally:
            harness.finish()
    harness.outcome.check_exact(MODEL)
    assert set(harness.outcome.quarantined) == poisoned
    for role in harness.outcome.events:
        figures = harness.outcome.figures(role)
        assert figures["taken_rows"] == figures["rows"] + figures["quarantined"]
