"""What the search must reach, on modelled servers in virtual time whose best point is known by arithmetic.

The truth is a long closed loop on the same model, at every point of a fine grid (`modelled_load.truth`)."""

from __future__ import annotations

import functools

import pytest

from bench.measure.load.modelled_load import ModelledLoad, truth
from bench.tuner.measure.limits import grid
from bench.tuner.measure.load import Answer
from bench.tuner.measure.visit import Point, StopReason
from bench.tuner.search.survey import ROUNDS
from bench.tuner.texts.corpus import Order
from engine.errors import ServersUnavailable
from tests.bench.tuner.modelled import FLEETS, SECONDS, corpus, limits_of, search, searched


@functools.cache
def true_point(fleet_name: str, point: Point, order: Order) -> tuple[float, float]:
    """Documents a second and 95th percentile at a point, by the model."""
    return truth(corpus(), FLEETS[fleet_name], point.batch_size, point.concurrency, order=order, n_cycles=1)


@functools.cache
def best_feasible(fleet_name: str, order: Order, target_p95_s: float | None) -> float:
    """Documents a second of the best point that holds the target, by the model."""
    found = []
    for size, ceiling in limits_of(FLEETS[fleet_name]).ceilings.items():
        low, high = 0, ceiling
        while low < high:  # the most in flight that holds the target
            middle = (low + high + 1) // 2
            held = target_p95_s is None or true_point(fleet_name, Point(size, middle), order)[1] <= target_p95_s
            low, high = (middle, high) if held else (low, middle - 1)
        if low:
            found.append(true_point(fleet_name, Point(size, low), order)[0])
    return max(found)


CASES = [
    ("one", None),
    ("one", 0.5),
    ("one", 0.15),
    ("one that pads", None),
    ("one that pads", 0.5),
    ("four equal", None),
    ("four equal", 0.15),
    ("four equal that pad", None),
    ("four equal that pad", 0.5),
    ("four unlike", None),
    ("four unlike", 0.15),
    ("four unlike that pad", None),
    ("four unlike that pad", 0.5),
    ("few permits", None),
    ("slow tokenizer", None),
]


@pytest.mark.seconds
@pytest.mark.parametrize(("name", "target"), CASES)
def test_the_chosen_point_has_97_percent_of_the_best_throughput_and_holds_the_target(
    name: str, target: float | None
) -> None:
    """By the model, not by what was measured."""
    findings = searched(name, target, 1).findings
    assert findings.chosen is not None
    order = Order.SORTED if findings.bucketing else Order.NATURAL

    docs_per_s, p95_s = true_point(name, findings.chosen.point, order)

    assert docs_per_s >= 0.97 * best_feasible(name, order, target)
    assert target is None or p95_s <= target
    # what was measured is what the model does
    assert findings.chosen.rate.per_s == pytest.approx(docs_per_s, rel=0.05)


@pytest.mark.parametrize(("name", "target"), CASES)
def test_the_search_takes_a_quarter_of_the_full_grids_time(name: str, target: float | None) -> None:
    """The grid: every batch size at 1, 2, 4, ... in flight, each point repeated as a contender is."""
    findings = searched(name, target, 1).findings
    points = grid(limits_of(FLEETS[name]).ceilings)

    assert findings.seconds <= 0.25 * len(points) * ROUNDS * SECONDS
    assert len(findings.records) < len(points)


@pytest.mark.seconds
@pytest.mark.parametrize(("name", "target"), CASES)
def test_two_searches_choose_points_within_3_percent(name: str, target: float | None) -> None:
    """With other noise and another seed."""
    rates = []
    for seed in (1, 2):
        findings = searched(name, target, seed).findings
        assert findings.chosen is not None
        order = Order.SORTED if findings.bucketing else Order.NATURAL
        rates.append(true_point(name, findings.chosen.point, order)[0])

    assert min(rates) >= 0.97 * max(rates)


@pytest.mark.parametrize("name", ["one", "one that pads", "four equal", "four equal that pad", "four unlike that pad"])
def test_whether_sorting_pays_is_found_out_and_decides_the_order_of_everything_else(name: str) -> None:
    """A server that pads wants like lengths together; for another they only make latencies uneven."""
    found = searched(name, None, 1)

    assert found.findings.bucketing is ("pad" in name)
    orders = {visit.order for part, visit in found.visits if part != "order"}
    assert orders == ({Order.SPREAD, Order.SORTED} if "pad" in name else {Order.NATURAL})


def test_it_starts_with_one_request_in_flight_and_doubles() -> None:
    """The old tuner began far past saturation."""
    found = searched("one", None, 1)

    climbed = [
        visit.point.concurrency for part, visit in found.visits if part == "climb" and visit.point.batch_size == 32
    ]

    assert found.visits[0][1].point.concurrency == 1
    assert climbed == [2, 4, 8, 15]


@pytest.mark.seconds
def test_it_never_has_more_texts_in_flight_than_the_servers_admit() -> None:
    """Not even while going from one point to the next."""
    config = FLEETS["few permits"]
    load = ModelledLoad(config, seed=1)

    search(config, load=load)

    assert load.texts_in_flight_max <= config.max_concurrent_requests


@pytest.mark.parametrize("name", ["one", "four unlike that pad"])
def test_a_target_that_no_point_holds_leaves_the_floor_and_the_nearest_point(name: str) -> None:
    """And takes little time, because every larger request is slower still."""
    findings = search(FLEETS[name], 0.004).findings

    assert findings.chosen is None
    assert findings.floor is not None
    assert findings.floor.point == Point(8, 1)
    nearest = findings.nearest()
    assert nearest is not None
    assert nearest.p_s(0.95) > 0.004
    assert {point.concurrency for point in findings.records} == {1}
    assert findings.seconds < 30


def test_percentiles_of_a_sorted_cycle_count_every_request_once() -> None:
    """It begins with the longest texts: once and a bit around would count those twice, and they decide the p95."""
    found = searched("four equal that pad", 0.5, 1)
    rounds = [visit for part, visit in found.visits if part == "final"]

    assert any(visit.coverage > 1.0 for visit in rounds)
    for visit in rounds:
        texts_behind_latencies = len(visit.latencies_s) * visit.point.batch_size
        assert texts_behind_latencies <= visit.n_texts / visit.coverage * 1.01


def test_a_point_past_the_target_is_left_early() -> None:
    """Long before its visit would have been over."""
    found = searched("one", 0.15, 1)

    late = [visit for _, visit in found.visits if visit.stop_reason is StopReason.OVER_TARGET]

    assert late
    assert all(visit.total_s < SECONDS / 4 for visit in late)


def test_contenders_are_repeated_in_an_order_that_the_seed_decides() -> None:
    """Round by round, every one in each."""
    found = searched("one", None, 1)
    finals = [visit.point for part, visit in found.visits if part == "final"]
    contenders = set(finals)

    assert len(contenders) >= 2
    assert set(found.findings.contenders) == contenders
    for start in range(0, 2 * len(contenders), len(contenders)):
        assert set(finals[start : start + len(contenders)]) == contenders


@pytest.mark.seconds
def test_servers_that_get_slower_all_the_time_do_not_make_the_early_points_win() -> None:
    """By 15% within the search; each round sees the contenders at about the same speed."""
    config = FLEETS["one"]
    load = ModelledLoad(config, seed=1, slowdown_per_s=0.004)

    findings = search(config, load=load).findings

    assert findings.chosen is not None
    docs_per_s, _ = true_point("one", findings.chosen.point, Order.NATURAL)
    assert docs_per_s >= 0.97 * best_feasible("one", Order.NATURAL, None)


@pytest.mark.seconds
def test_the_time_is_kept_and_what_is_known_by_then_is_chosen_from() -> None:
    """Too little of it is said."""
    findings = search(FLEETS["one that pads"], max_seconds=40.0).findings

    assert findings.seconds <= 1.05 * 40.0
    assert findings.chosen is not None
    assert any("--max-seconds 40 was used up" in note for note in findings.notes)


def test_of_batch_sizes_that_are_equal_the_larger_one_is_taken_without_a_climb_of_its_own() -> None:
    """Texts in flight decide, not requests: one visit shows that nothing is gained."""
    found = searched("one that pads", None, 1)
    climbs = [visit.point.batch_size for part, visit in found.visits if part == "climb"]

    assert climbs.count(32) > climbs.count(8)
    assert climbs.count(8) <= 2


class _Overloaded(ModelledLoad):
    """Somebody else holds most permits: from so many texts in flight on the server answers 429."""

    def step(self, timeout_s: float) -> list[Answer]:
        answers = super().step(timeout_s)
        if self._cycle is None or self._concurrency * self._cycle.batch_size <= 128:
            return answers
        return [
            Answer(a.point, a.server, a.request, a.n_texts, a.finished_s, a.latency_s, error="overloaded")
            for a in answers
        ]


@pytest.mark.seconds
def test_a_point_that_is_answered_429_ends_the_climb_below_it() -> None:
    """Whatever `/info` promised."""
    config = FLEETS["one"]
    found = search(config, load=_Overloaded(config, seed=1))

    refused = [visit for _, visit in found.visits if visit.stop_reason is StopReason.REFUSED]

    assert refused
    assert all(visit.errors["overloaded"] >= 2 for visit in refused)
    assert found.findings.chosen is not None
    assert found.findings.chosen.point.texts_in_flight <= 128


class _Broken(ModelledLoad):
    """Every request fails."""

    def step(self, timeout_s: float) -> list[Answer]:
        return [
            Answer(a.point, a.server, a.request, a.n_texts, a.finished_s, a.latency_s, error="backend")
            for a in super().step(timeout_s)
        ]


def test_servers_that_fail_every_request_are_no_operating_point_but_an_error() -> None:
    """With the class of the failures."""
    config = FLEETS["one"]

    with pytest.raises(ServersUnavailable, match=r"requests failed \(\d+ backend\)"):
        search(config, load=_Broken(config, seed=1))


def test_what_was_measured_obeys_littles_law() -> None:
    """In flight per rate is the mean latency."""
    for point, record in searched("one", 0.5, 1).findings.records.items():
        if record.works and len(record.latencies_s) > 100:
            assert record.mean_latency_s == pytest.approx(point.texts_in_flight / record.rate.per_s, rel=0.15)
