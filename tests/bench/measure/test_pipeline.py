"""The measurements of the whole engine work and add up; what they measure is for people to judge."""

from __future__ import annotations

import pytest

from bench.measure import pipeline, start_time


@pytest.mark.slow
def test_the_pipelines_figures_are_of_every_stage_beside_a_plain_script() -> None:
    """A few documents, so only the shape and the sums are looked at."""
    figures = pipeline.measure(pipeline.PipelineConfig(n_documents=1_100, already_marked=50, dim=16, compare=True))

    engine = figures["engine"]
    stages = engine["cpu_us_per_document"]
    assert set(stages) == {"reader", "clients", "writer", "supervisor", "engine"}
    assert abs(sum(stages.values()) - 2 * stages["engine"]) < 0.1
    assert set(engine["cpu_us_per_document_beside"]) == {"mongod", "servers"}
    assert engine["peak_resident_mib"] > 0
    assert figures["plain_script"]["documents"] == 1_000
    text = pipeline.as_text(figures)
    assert text.startswith("1,100 documents of 16 dimensions")
    for name in (*stages, "mongod", "servers", "cores", "end to end", "memory", "plain script"):
        assert f"\n{name}" in text, name


@pytest.mark.slow
def test_a_start_is_timed_beside_documents_that_the_engine_marked_itself() -> None:
    """As many timed runs as asked for, each with new documents of its own."""
    figures = start_time.measure(start_time.StartConfig(marked=(60,), new=40, repeats=1, dim=16))

    (start,) = figures["starts"]
    assert start["marked"] == 60
    assert len(start["all"]) == 1
    assert min(start["all"]) > 0
