"""The witness on a store goes with the run, and with it what nodes that were killed have left of their trials."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from bench.parts.s3_server import CREDENTIALS, S3Server
from commands.cluster.witness import leave_witness
from engine.config import RunConfig
from engine.objects.url import ColdUrl
from writers.cold.preflight import TRIALS
from writers.cold.settings import ColdSettings

BUCKET = "bucket-witness"


@pytest.mark.seconds
def test_trials_of_nodes_that_were_killed_go_with_the_witness(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.make_bucket(BUCKET)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    cold = ColdSettings(url=ColdUrl(url=f"s3://{BUCKET}/x", endpoint=s3.endpoint), prefix="db.c", budget_s=5.0)
    trials = f"x/db.c/{TRIALS}"
    another = f"{trials}/embedded.nodes-another"
    s3.put(BUCKET, another, b"of another run")

    with ExitStack() as stack:
        witness = leave_witness(RunConfig(), cold, stack)
        of_a_node = f"{trials}/{witness['name']}.0123.4567"
        s3.put(BUCKET, of_a_node, b"a node was killed behind this")
        assert set(s3.names(BUCKET)) == {another, f"{trials}/{witness['name']}", of_a_node}

    assert s3.names(BUCKET) == [another]
