"""Table, curve and JSON of a tuning; texts from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.tuner.explain.verdict import judge
from bench.tuner.report.curve import draw
from bench.tuner.report.plot import write_curve
from bench.tuner.report.report import COLUMNS, as_dict, as_text, table
from bench.tuner.search.survey import TuneConfig
from bench.tuner.tuning import Outcome, TuningPlan
from tests.bench.tuner.modelled import FLEETS, SECONDS, corpus, limits_of, measured_servers, searched
from tests.bench.tuner.tuned_file import fleet


def outcome_on(name: str, target_p95_s: float | None) -> Outcome:
    """A finished tuning on modelled servers."""
    findings = searched(name, target_p95_s, 1).findings
    return Outcome(
        plan=TuningPlan(tune=TuneConfig(target_p95_s=target_p95_s, seconds=SECONDS, seed=1)),
        fleet=fleet("http://a:1"),
        limits=limits_of(FLEETS[name]),
        corpus=corpus(),
        findings=findings,
        verdict=judge(findings, measured_servers(FLEETS[name]), target_p95_s),
    )


def test_the_table_has_the_columns_of_the_contract_and_marks_one_row() -> None:
    """A row for each point."""
    outcome = outcome_on("one", 0.5)

    head, *rows = table(outcome)

    assert COLUMNS == ("Batch Size", "Concurrency", "Docs/s", "Tok/s", "p50 (s)", "p95 (s)", "Errors", "Total Time (s)")
    assert [name.strip() for name in head.split("  ") if name.strip()] == list(COLUMNS)
    assert len(rows) == len(outcome.findings.records)
    (chosen,) = [row for row in rows if row.endswith("<- chosen")]
    assert outcome.findings.chosen is not None
    point = outcome.findings.chosen.point
    assert chosen.split()[:2] == [str(point.batch_size), str(point.concurrency)]


def test_the_text_holds_table_curve_verdict_seed_and_what_the_grid_would_take() -> None:
    """Everything that a person needs to believe it."""
    text = as_text(outcome_on("one", 0.5))

    for part in (
        "Batch Size",
        "* chosen",
        ". . target",
        "Chosen: ",
        "Knee: ",
        "Limit: ",
        "(seed 1)",
        "the full grid of",
    ):
        assert part in text


def test_when_no_point_meets_the_target_the_nearest_is_marked() -> None:
    """And nothing is called chosen."""
    lines = table(outcome_on("one", 0.004))

    assert not [line for line in lines if "<- chosen" in line]
    assert len([line for line in lines if "<- nearest" in line]) == 1


@pytest.mark.seconds
def test_the_json_has_all_percentiles_times_and_errors_of_every_point() -> None:
    """And survives a strict parser: no NaN, no infinity."""
    figures = json.loads(json.dumps(as_dict(outcome_on("four unlike that pad", 0.5)), allow_nan=False))

    assert figures["held"] is True
    assert figures["bucketing"] == "on"
    assert figures["limit"] in ("inference", "target")
    for point in figures["points"]:
        latency = point["latency"]
        assert latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"] <= latency["max"]
        assert set(point["server_times"]) == {"tokenization_s", "queue_s", "inference_s"}
        assert point["errors"] == {}
        assert point["client_cpu"] == pytest.approx(0.05, abs=0.02)
    chosen = figures["chosen"]
    assert chosen["tokens_per_second"] == pytest.approx(
        chosen["docs_per_second"] * figures["texts"]["tokens_per_text"], rel=0.02
    )


def test_the_curve_shows_every_batch_size_and_the_chosen_point() -> None:
    """Higher is slower, further right is more."""
    findings = searched("one", 0.5, 1).findings
    lines = draw(list(findings.records.values()), findings.chosen, 0.5)

    assert sum(line.count("*") for line in lines[:-1]) == 1
    assert any(". . . ." in line for line in lines)
    assert draw([], None, None) == []


def test_the_png_is_written_as_a_whole(tmp_path: Path) -> None:
    """With matplotlib, which is an extra."""
    findings = searched("one", 0.5, 1).findings
    path = tmp_path / "curve.png"

    write_curve(path, list(findings.records.values()), findings.chosen, 0.5)

    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["curve.png"]
