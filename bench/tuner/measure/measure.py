"""Measuring one operating point: warm-up left out, and no longer than it takes to be sure.

A visit to a point goes on until one of these is certain:

    SETTLED       all lengths have been seen and the rate is known to the precision asked for
    GROWS         far above the point it was compared with: there is more to be had with more in flight
    SLOWER        cannot reach the best point any more
    OVER_TARGET   the 95th percentile will be above the target
    REFUSED       the server answers 429: somebody else holds permits
    FAILING       too many requests fail
    TIME          none of these in time

`OVER_TARGET` is certain early: at most 5% of a cycle's requests may be slower than the target, and by Little's law the
mean latency is what is in flight divided by the rate, which the 95th percentile is not below.
"""

from __future__ import annotations

import math

from bench.tuner.measure.load import Load
from bench.tuner.measure.meter import Meter
from bench.tuner.measure.statistics import Rate
from bench.tuner.measure.visit import Point, Rules, StopReason, Visit
from bench.tuner.texts.corpus import Cycle, Order
from engine.errors import ServersUnavailable
from gpu_clients.errors import FailureKind

STEP_S = 0.05
JUDGEMENTS_PER_CYCLE = 24
MIN_TURNOVERS, MIN_TURNOVERS_OF_A_SAMPLE = 2, 4
"""Answers for each request in flight before a visit may end: of sorted texts, and of a sample."""
MIN_ANSWERS, MIN_ANSWERS_PER_SERVER = 40, 24
"""Answers of a sample before a visit may end, whichever is more."""
MIN_COVERAGE = 0.52
"""Share of a sorted cycle before a visit may end early: half a cycle from its start holds every length."""
MAX_ERROR_SHARE = 0.05
QUIET_SHARE_OF_TARGET = 0.7
"""A point is left for the next one only while its slowest request keeps so far away from the target."""
_PATIENCE = 6
"""Times the time of a visit until a fleet that does not answer at all is given up."""


def measure(load: Load, cycle: Cycle, concurrency: int, rules: Rules) -> Visit:
    """Visit an operating point.

    Raises:
        ServersUnavailable: not a single answer came.
    """
    point = Point(cycle.batch_size, concurrency)
    meter = Meter(load, cycle, point, load.begin(cycle, concurrency))
    warm_until_s = meter.began_s + 2 * rules.max_s
    every = max(1, len(cycle.requests) // JUDGEMENTS_PER_CYCLE)
    judge_at = every
    while True:
        meter.take(load.step(STEP_S))
        now_s = load.now_s()
        if stop_reason := _broken(meter):
            return meter.visit(stop_reason)
        if meter.steady_since_s is None:
            if now_s >= warm_until_s:
                meter.end_warm_up(now_s)
            continue
        if meter.n_answers >= judge_at:
            judge_at = meter.n_answers + every
            if stop_reason := _judge(meter, load, cycle, point, rules):
                return meter.visit(stop_reason)
        if now_s >= meter.steady_since_s + rules.max_s:
            if meter.n_answers or meter.errors:
                return meter.visit(StopReason.TIME)
            if now_s >= meter.began_s + _PATIENCE * rules.max_s:
                raise ServersUnavailable(
                    f"no server answered within {now_s - meter.began_s:.0f} s at batch size {point.batch_size} and "
                    f"concurrency {concurrency}: look at the servers, or give more --seconds for a point"
                )


def _broken(meter: Meter) -> StopReason | None:
    failed = meter.errors.total()
    if meter.errors[FailureKind.OVERLOADED.value] >= 2:
        return StopReason.REFUSED
    if failed >= 5 and failed > MAX_ERROR_SHARE * (failed + meter.n_answers):
        return StopReason.FAILING
    return None


def _judge(meter: Meter, load: Load, cycle: Cycle, point: Point, rules: Rules) -> StopReason | None:
    reading = meter.read()
    rate, coverage = reading.rate, reading.coverage
    target_s = rules.target_p95_s
    if target_s is not None and _is_late(meter, load, cycle, point, rate, target_s):
        return StopReason.OVER_TARGET
    turnovers = meter.n_answers / (point.concurrency * load.n_servers)
    is_sample = cycle.order is not Order.SORTED
    if is_sample:
        has_seen_enough = turnovers >= MIN_TURNOVERS_OF_A_SAMPLE and meter.n_answers >= max(
            MIN_ANSWERS, MIN_ANSWERS_PER_SERVER * load.n_servers
        )
    else:
        has_seen_enough = turnovers >= MIN_TURNOVERS and coverage >= MIN_COVERAGE
    if not has_seen_enough:
        return None
    if rules.must_reach is not None and rate.high < rules.must_reach:
        return StopReason.SLOWER
    quiet = target_s is None or meter.slowest_s < QUIET_SHARE_OF_TARGET * target_s
    if rules.grows_beyond is not None and rate.low > rules.grows_beyond and quiet:
        return StopReason.GROWS
    if rate.relative <= rules.precision and (is_sample or coverage >= rules.cycles):
        return StopReason.SETTLED
    # more of it would sharpen the rate only against a noise that repeating the visit shows better
    return StopReason.SETTLED if coverage >= rules.cycles else None


def _is_late(meter: Meter, load: Load, cycle: Cycle, point: Point, rate: Rate, target_s: float) -> bool:
    """Whether the 95th percentile is certain to be above the target."""
    n_late = meter.n_slower_than(target_s)
    if cycle.order is Order.SORTED:
        # what comes later in the cycle may all be quick: more than 5% of everything has to be late already
        return n_late > max(1.0, 0.05 * len(cycle.requests))
    in_flight = point.texts_in_flight * load.n_servers
    if math.isfinite(rate.half_width) and in_flight / rate.high > target_s:
        return True
    allowed = 0.05 * meter.n_answers
    return n_late > allowed + 3.0 * math.sqrt(allowed) + 2.0
