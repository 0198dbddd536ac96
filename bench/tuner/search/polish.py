"""The polish: points around a chosen one, each measured as often as a final does it, without being left early.

A search that has little time leaves a point as soon as it seems to miss the target. Near the target that is often
wrong: which one of a dozen points holds it is a matter of a percent. With time left over they get a second chance.
"""

from __future__ import annotations

from bench.tuner.measure.visit import Point
from bench.tuner.search.final import MAX_CONTENDERS
from bench.tuner.search.record import Record
from bench.tuner.search.survey import ROUNDS, Survey

_STEPS = 3
"""Concurrencies of each batch size that are tried, from as many texts in flight as the chosen point has upward."""
_MAY_HOLD = 1.03
"""Share of the target up to which one visit's 95th percentile may turn out to be in it."""


def polish(survey: Survey, chosen: Record) -> None:
    """Measure the points around a chosen one; what they are worth, the choice among all records says."""
    points = _around(survey, chosen)
    for point in points:
        if point != chosen.point and survey.has_time():
            _again(survey, point)
    target_s = survey.target_p95_s
    promising = [
        record
        for record in (survey.findings.records.get(point) for point in points)
        if record is not None
        and record.repeats
        and record.works
        and record.rate.per_s >= chosen.rate.per_s
        and (target_s is None or record.p_s(0.95) <= _MAY_HOLD * target_s)
    ]
    promising.sort(key=lambda record: record.rate.per_s, reverse=True)
    for record in promising[:MAX_CONTENDERS]:
        while len(record.repeats) < ROUNDS and survey.has_time():
            _again(survey, record.point)
    for record in promising:
        if len(record.repeats) < ROUNDS and record.point != chosen.point:
            del survey.findings.records[record.point]  # there was no time to make sure of it


def _around(survey: Survey, chosen: Record) -> list[Point]:
    in_flight = chosen.point.texts_in_flight
    found = []
    for size, ceiling in survey.limits.ceilings.items():
        first = max(1, in_flight // size)
        found += [Point(size, concurrency) for concurrency in range(first, min(ceiling, first + _STEPS - 1) + 1)]
    return sorted(found, key=lambda point: point.texts_in_flight)


def _again(survey: Survey, point: Point) -> None:
    """One more visit of the final's kind; a visit before it was of another kind, and counts no longer."""
    survey.visit("final", point, repeat=True)
