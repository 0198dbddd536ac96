"""Samples: increments over generations, means of levels, quantiles of the time since the last one."""

from __future__ import annotations

from typing import Any

import pytest

from engine.recording.sampling import Merged, Sample, Sampler


def figures(
    rows: int, *, generation: int = 1, ready: float = 0.5, latency: dict[str, int] | None = None
) -> dict[str, Any]:
    """Live figures of a run with one client."""
    return {
        "at": 100.0,
        "phase": "running",
        "generation": generation,
        "embedded_now": rows,
        "committed": 1000,
        "reader": {"pages": 3, "page_s": 0.5, "lengths": {"12": 4}, "paused": True},
        "writer": {"rows": rows, "state": "sealing"},
        "rings": {"documents_ready": ready},
        "clients": {"client-0": {"url": "http://a", "rows": rows, "breaker": "ok", "latency": latency or {}}},
    }


def test_counts_are_what_was_added_since_the_last_sample() -> None:
    sampler = Sampler(0.0)
    sampler.see(figures(10), 1.0)
    first = sampler.take(figures(10), {}, 1.0)
    sampler.see(figures(25), 3.0)
    second = sampler.take(figures(25), {"machine.load": 2.0}, 3.0)

    assert (first.counts["rows"], first.counts["client-0.rows"], first.seconds) == (10, 10, 1.0)
    assert (second.counts["rows"], second.counts["reader.pages"], second.seconds) == (15, 0, 2.0)
    assert first.counts["committed"] == 0  # these were there before
    assert second.levels["machine.load"] == 2.0


def test_a_new_generation_counts_from_0_again() -> None:
    sampler = Sampler(0.0)
    sampler.see(figures(50), 1.0)
    sampler.take(figures(50), {}, 1.0)
    sampler.see(figures(20, generation=2), 2.0)

    assert sampler.take(figures(20, generation=2), {}, 2.0).counts["client-0.rows"] == 20


def test_levels_are_means_over_the_time_for_which_they_stood() -> None:
    sampler = Sampler(0.0)
    sampler.see(figures(1, ready=1.0), 1.0)
    sampler.see(figures(2, ready=0.0), 4.0)

    found = sampler.take(figures(2), {}, 4.0).levels

    assert found["ring.documents_ready"] == pytest.approx(0.25)
    assert (found["reader.paused"], found["writer.sealing"], found["client-0.up"]) == (1.0, 1.0, 1.0)


def test_quantiles_are_of_the_answers_since_the_last_sample() -> None:
    sampler = Sampler(0.0)
    sampler.see(figures(1, latency={"100": 5}), 1.0)
    first = sampler.take(figures(1, latency={"100": 5}), {}, 1.0).levels["client-0.p50"]
    sampler.see(figures(2, latency={"100": 5, "150": 1}), 2.0)
    second = sampler.take(figures(2, latency={"100": 5, "150": 1}), {}, 2.0).levels["client-0.p50"]

    assert second > 5 * first


def test_merged_samples_add_counts_and_weigh_levels() -> None:
    merged = Merged(10.0)
    assert merged.add(Sample(at=4.0, seconds=4.0, counts={"rows": 4.0}, levels={"load": 1.0})) is None
    found = merged.add(Sample(at=12.0, seconds=8.0, counts={"rows": 2.0}, levels={"load": 4.0, "new": 7.0}))

    assert found is not None
    assert (found.at, found.seconds, found.counts) == (12.0, 12.0, {"rows": 6.0})
    assert found.levels == {"load": pytest.approx(3.0), "new": pytest.approx(7.0)}
    assert merged.take() is None


def test_a_reason_to_be_throttled_becomes_a_share_of_the_time() -> None:
    sampler = Sampler(0.0)
    gpu = {"index": 1, "utilization": 0.9, "power_w": None, "throttled": ["heat"]}
    sampler.see({**figures(1), "gpus": [gpu]}, 1.0)
    sampler.see({**figures(2), "gpus": [{**gpu, "throttled": []}]}, 4.0)

    found = sampler.take(figures(2), {}, 4.0).levels

    assert found["gpu-1.throttle_heat"] == pytest.approx(0.25)
    assert found["gpu-1.throttle_power cap"] == 0.0
    assert found["gpu-1.utilization"] == pytest.approx(0.9)
    assert "gpu-1.power" not in found


def test_what_the_last_children_told_counts_although_they_are_gone_when_the_sample_is_taken() -> None:
    sampler = Sampler(0.0)
    sampler.see(figures(50), 1.0)
    gone = {**figures(50), "clients": {}, "reader": {}, "writer": {}, "rings": {}}
    sampler.see(gone, 2.0)

    assert sampler.take(gone, {}, 2.0).counts["client-0.rows"] == 50
