"""Table, curve and JSON of a tuning; texts from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.tuner.explain.verdict import judge
from bench.tuner.measure.limits import admitted
from bench.tuner.measure.measure import Point
from bench.tuner.report.curve import draw
from bench.tuner.report.plot import write_png
from bench.tuner.report.report import COLUMNS, as_dict, as_text, table
from bench.tuner.search.survey import TuneConfig
from bench.tuner.texts.files import MAX_TEXTS, read_texts
from bench.tuner.tuning import Outcome, TuningPlan
from engine.errors import ConfigError
from gpu_clients.server_facts import ServerFacts
from tests.bench.tuner.test_tuner_search import FLEETS, SECONDS, corpus, limits_of, searched
from tests.bench.tuner.test_tuner_tuned import fleet
from tests.bench.tuner.test_tuner_verdict import servers_of


def outcome_on(name: str, target_p95_s: float | None) -> Outcome:
    """A finished tuning on modelled servers."""
    findings = searched(name, target_p95_s, 1).findings
    return Outcome(
        plan=TuningPlan(tune=TuneConfig(target_p95_s=target_p95_s, seconds=SECONDS, seed=1)),
        fleet=fleet("http://a:1"),
        limits=limits_of(FLEETS[name]),
        corpus=corpus(),
        findings=findings,
        verdict=judge(findings, servers_of(FLEETS[name]), target_p95_s),
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

    write_png(path, list(findings.records.values()), findings.chosen, 0.5)

    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["curve.png"]


# -- what the servers admit --------------------------------------------------------------------------------


def facts(**limits: int | None) -> ServerFacts:
    """A server with these limits."""
    return ServerFacts(kind="tei", model_id="m", **limits)  # type: ignore[arg-type]


def test_permits_belong_to_texts_and_a_client_leaves_a_margin() -> None:
    """512 permits are 15 requests of 32, not 16."""
    found = admitted(
        fleet("http://a:1", facts=facts(max_concurrent_requests=512, max_client_batch_size=32)), (8, 16, 32, 64), None
    )

    assert found.ceilings == {8: 60, 16: 30, 32: 15}
    assert found.by_permits == {8, 16, 32}
    assert any("batch size 64 left out" in note for note in found.notes)


def test_a_smaller_ceiling_of_the_user_counts_and_servers_without_limits_get_one() -> None:
    """An OpenAI-compatible server says nothing."""
    admitted_by_tei = admitted(fleet("http://a:1", facts=facts(max_concurrent_requests=512)), (32,), 4)
    unknown = admitted(fleet("http://a:1", facts=facts()), (32,), None)

    assert admitted_by_tei.ceilings == {32: 4}
    assert not admitted_by_tei.by_permits
    assert unknown.ceilings == {32: 64}


def test_batch_sizes_that_can_never_be_answered_are_left_out() -> None:
    """A request with more texts than permits gets 429 for ever."""
    found = admitted(fleet("http://a:1", facts=facts(max_concurrent_requests=16)), (8, 64), None)

    assert set(found.ceilings) == {8}
    assert any("HTTP 429 for ever" in note for note in found.notes)
    with pytest.raises(ConfigError, match="no batch size of 64 is admitted"):
        admitted(fleet("http://a:1", facts=facts(max_concurrent_requests=16)), (64,), None)


def test_points_sort_by_batch_size_and_then_concurrency() -> None:
    """As the table shows them."""
    assert sorted([Point(16, 2), Point(8, 30), Point(16, 1)]) == [Point(8, 30), Point(16, 1), Point(16, 2)]


# -- texts from a file -------------------------------------------------------------------------------------


def test_texts_come_one_a_line_or_from_json_lines(tmp_path: Path) -> None:
    """Blank lines are none."""
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("one\n\n  two \nthree", encoding="utf-8")
    lines.write_text('{"text": "one\\ntwo", "id": 1}\n{"text": ""}\n', encoding="utf-8")

    assert read_texts(plain, 1) == ["one", "  two ", "three"]
    assert read_texts(lines, 1) == ["one\ntwo", ""]


def test_of_a_large_file_a_random_sample_is_taken_that_the_seed_decides(tmp_path: Path) -> None:
    """Of all of it, not of its beginning."""
    path = tmp_path / "many.txt"
    path.write_text("\n".join(str(number) for number in range(3 * MAX_TEXTS)))

    first, again, other = read_texts(path, 1), read_texts(path, 1), read_texts(path, 2)

    assert len(first) == len(set(first)) == MAX_TEXTS
    assert first == again != other
    assert max(map(int, first)) > 2.9 * MAX_TEXTS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n\n", "holds no text"),
        ("a.jsonl", b'{"text": 3}\n', "line 1 has no string in a field `text`"),
        ("a.jsonl", b'{"text": "x"}\n{bad\n', "line 2 is not JSON"),
    ],
)
def test_a_file_without_texts_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """Which line, and what was expected."""
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=message):
        read_texts(path, 1)
