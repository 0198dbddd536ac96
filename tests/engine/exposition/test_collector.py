"""The metrics of a run, and that docs/metrics.md lists them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from engine.exposition.buckets import BOUNDS, EDGES, cumulative
from engine.exposition.collector import RunCollector
from engine.exposition.counting import added
from engine.exposition.families import DEPRECATED, FAMILIES, PHASES, THROTTLES, Family
from engine.gpus import nvml
from engine.recording import fields
from engine.supervision.lifecycle import Phase
from engine.telemetry import logs
from engine.telemetry.metrics import LatencyHistogram
from tests.parts.promql import scraped

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"

GPU = {
    "index": 1,
    "server": "http://gpu:80",
    "utilization": 0.97,
    "memory_used_bytes": 6 << 30,
    "memory_total_bytes": 24 << 30,
    "power_w": 310.0,
    "power_limit_w": 350.0,
    "clock_mhz": 1980,
    "temperature_c": 71,
    "throttled": ["heat (hardware)"],
}


def figures(generation: int = 1, rows: int = 0, **client: Any) -> dict[str, Any]:
    """The figures of a run with one server; `rows` and `client` are its client's."""
    facts = {"url": "http://gpu:80", "breaker": "ok", "rows": rows, "errors": {}, "latency": {}, **client}
    return {
        "at": 1000.0,
        "phase": "running",
        "generation": generation,
        "restarts": generation - 1,
        "refusals": 0,
        "committed": 7,
        "marked_rows": 0,
        "unmarked_rows": 0,
        "quarantined": 2,
        "shards": 1,
        "marked_shards": 1,
        "mark_s": 0.5,
        "embedded_now": rows,
        "left_at_start": 100,
        "rate": 5.0,
        "rate_of_minutes": 10.0,
        "totals": {
            "committed_rows": 7,
            "gone": 0,
            "truncated": 0,
            "shards": 1,
            "bytes": 9,
            "quarantined": {"empty": 2},
        },
        "rings": {"documents_ready": 0.25},
        "reader": {"rows_read": rows},
        "writer": {"open_rows": 3, "bytes": 10},
        "clients": {"client-0": facts},
        "gpus": [GPU],
    }


@pytest.fixture
def collector() -> RunCollector:
    """Of a run that has told nothing yet."""
    return RunCollector(run="db.c.done", collection="db.c", version="1.2.3", error_kinds=["lost", "timeout"])


def values(collector: RunCollector) -> dict[str, float]:
    """What is scraped, by name and labels except `run`."""
    registry = CollectorRegistry()
    registry.register(collector)
    lines = generate_latest(registry).decode().splitlines()
    split = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {
        re.sub(r'run="[^"]*",?', "", name).replace(",}", "}").replace("{}", ""): float(value) for name, value in split
    }


def test_before_the_first_figures_there_are_only_facts(collector: RunCollector) -> None:
    names = {name.partition("{")[0] for name in values(collector)}

    assert names == {"engine_build_info", "engine_run_info", "engine_run_start_time_seconds"}


def test_a_counter_does_not_fall_when_a_generation_ends(collector: RunCollector) -> None:
    """A new generation's processes begin at 0, and at first they have told nothing."""
    name = 'engine_server_documents_embedded_total{server="http://gpu:80"}'
    seen = []
    nothing_yet: dict[str, Any] = {**figures(2), "clients": {"client-0": {}}, "reader": {}, "writer": {}}
    end: dict[str, Any] = {**figures(2), "clients": {}, "reader": {}, "writer": {}, "rings": {}}
    for told in (figures(1, 40), figures(1, 60), nothing_yet, figures(2, 0), figures(2, 5), end):
        collector.update(told)
        found = values(collector)
        seen.append((found[name], found["engine_documents_read_total"], found["engine_documents_embedded_total"]))

    assert [rows for rows, _, _ in seen] == [40, 60, 60, 60, 65, 65]
    assert all(rows == read == embedded for rows, read, embedded in seen)


def test_what_is_no_count_is_as_the_living_process_told_it(collector: RunCollector) -> None:
    collector.update(figures(1, 1, window=8, in_flight=3))
    collector.update(figures(2, 1, window=4, in_flight=2, breaker="out"))

    found = values(collector)

    assert found['engine_server_requests_allowed{server="http://gpu:80"}'] == 4
    assert found['engine_server_requests_in_flight{server="http://gpu:80"}'] == 2
    assert found['engine_server_up{server="http://gpu:80"}'] == 0
    assert found['engine_server_state{server="http://gpu:80",state="out"}'] == 1


def test_kinds_and_reasons_are_0_before_their_first(collector: RunCollector) -> None:
    """A rate needs two values: without the 0 the first error would not be seen."""
    collector.update(figures(1, 1, errors={"lost": 2}))

    found = values(collector)

    assert found['engine_server_errors_total{kind="lost",server="http://gpu:80"}'] == 2
    assert found['engine_server_errors_total{kind="timeout",server="http://gpu:80"}'] == 0
    assert found['engine_documents_quarantined_total{reason="empty"}'] == 2
    assert found['engine_documents_quarantined_total{reason="too_long"}'] == 0


def test_time_left_is_absent_while_it_is_unknown(collector: RunCollector) -> None:
    collector.update(figures(1, 50))
    known = values(collector)
    collector.update({**figures(1, 50), "left_at_start": None})
    unknown = values(collector)

    assert (known["engine_eta_seconds"], known["engine_documents_left"]) == (5.0, 50.0)
    assert not {"engine_eta_seconds", "engine_documents_left"} & unknown.keys()


def test_latencies_are_counted_up_to_each_bound() -> None:
    latency = LatencyHistogram()
    for seconds in (0.0005, 0.01, 0.011, 3.0, 10_000.0):
        latency.record(seconds)

    counts = dict(cumulative(latency))

    assert [float(bound) for bound in BOUNDS] == sorted(float(bound) for bound in BOUNDS)
    assert len(BOUNDS) == len(EDGES) == 20
    assert (counts[BOUNDS[0]], counts["+Inf"]) == (1, 5)
    assert counts[next(bound for bound in BOUNDS if float(bound) > 0.012)] == 3
    assert counts[BOUNDS[-1]] == 4


def test_a_gpu_is_shown_with_its_server_and_what_it_does_not_say_is_absent(collector: RunCollector) -> None:
    silent = {**GPU, "index": 2, "server": None, "power_w": None, "throttled": []}
    collector.update({**figures(), "gpus": [GPU, silent]})
    found = values(collector)

    assert found['engine_gpu_power_watts{gpu="1",server="http://gpu:80"}'] == 310
    assert found['engine_gpu_clock_hertz{gpu="1",server="http://gpu:80"}'] == 1.98e9
    reasons = {name: value for name, value in found.items() if name.startswith('engine_gpu_throttled{gpu="1"')}
    assert {name for name, value in reasons.items() if value} == {
        'engine_gpu_throttled{gpu="1",reason="heat_hardware",server="http://gpu:80"}'
    }
    assert 'engine_gpu_temperature_celsius{gpu="2",server=""}' in found
    assert 'engine_gpu_power_watts{gpu="2",server=""}' not in found


def test_uploads_are_counted_over_all_generations(collector: RunCollector) -> None:
    for generation, uploads in ((1, 3), (2, 2)):
        writer = {"uploads": uploads, "upload_bytes": 10 * uploads, "upload_s": 0.5 * uploads, "upload_retries": 1}
        collector.update({**figures(generation), "writer": writer})
    found = values(collector)

    assert (found["engine_uploads_total"], found["engine_upload_bytes_total"]) == (5, 50)
    assert (found["engine_upload_seconds_total"], found["engine_upload_retries_total"]) == (2.5, 2)


def test_reasons_of_throttling_have_a_label_each() -> None:
    assert set(THROTTLES) == set(nvml._THROTTLES.values()) == set(fields.THROTTLES)


def test_a_secret_in_a_url_is_not_shown(collector: RunCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_SECRETS", {"t0ken"})
    collector.update(figures(1, 1, url="http://user:pass@gpu:80/t0ken"))

    assert not [name for name in values(collector) if "t0ken" in name or "pass" in name]


def test_both_formats_of_a_scrape_are_valid_and_show_documented_families_alone(collector: RunCollector) -> None:
    collector.update(figures(1, 50, latency={"100": 3}, latency_s=0.5))
    registry = CollectorRegistry()
    registry.register(collector)
    text, strict = generate_latest(registry).decode(), openmetrics.generate_latest(registry).decode()

    of_text = {re.sub(r"(?<=seconds)_(bucket|sum|count)$", "", dict(one)["__name__"]) for one in scraped(text)}
    names = {family.name for family in (*FAMILIES, *DEPRECATED)}
    types = {one.name: one.type for one in parse_openmetrics(strict)}

    assert of_text == names
    suffixes = {"counter": "_total", "info": "_info"}
    assert {name + suffixes.get(kind, "") for name, kind in types.items()} == names


def test_phases_are_those_of_a_generation() -> None:
    assert tuple(phase.value for phase in Phase) == PHASES


def row(family: Family) -> str:
    """The line of docs/metrics.md about a family."""
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.text} |"


def test_every_family_has_its_line_in_the_documentation_and_no_other_has() -> None:
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `engine_")]

    assert lines == [row(family) for family in (*FAMILIES, *DEPRECATED)]


def test_messages_are_added_number_by_number() -> None:
    first = {"rows": 1, "errors": {"lost": 1}, "exact": True, "url": "a"}
    second = {"rows": 2, "errors": {"lost": 2, "timeout": 1}, "exact": False, "url": "b", "none": None}

    assert added(first, second) == {
        "rows": 3,
        "errors": {"lost": 3, "timeout": 1},
        "exact": False,
        "url": "b",
        "none": None,
    }
