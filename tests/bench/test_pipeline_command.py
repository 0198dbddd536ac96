"""`engine bench pipeline`: the engine's own figures, measured by running it."""

from __future__ import annotations

import json

import pytest

from bench.measure.pipeline import PipelineConfig, as_text, measure


@pytest.mark.slow
def test_the_pipeline_is_measured_stage_by_stage_with_the_plain_script_beside_it() -> None:
    """A real mongod, canned servers, the real command; small, so the figures mean nothing here."""
    figures = measure(PipelineConfig(n_documents=1100, dim=32, n_servers=2, compare=True, files=("parquet", "jsonl")))

    engine, script = figures["engine"], figures["plain_script"]
    assert set(engine["cpu_us_per_document"]) == {"reader", "clients", "writer", "supervisor", "engine"}
    assert all(value > 0 for value in engine["cpu_us_per_document"].values())
    assert engine["documents_per_second"] > 0
    assert engine["bottleneck"]
    assert script["documents"] == 1000
    assert [found["documents_per_second"] > 0 for found in figures["files"].values()] == [True, True]
    assert script["cpu_us_per_document"] > 0
    json.dumps(figures, allow_nan=False)
    text = as_text(figures)
    for part in (
        "reader",
        "clients",
        "writer",
        "mongod",
        "end to end",
        "bottleneck: ",
        "plain script",
        "from parquet",
        "from jsonl",
    ):
        assert part in text
