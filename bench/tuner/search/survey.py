"""Visits to operating points: how long each may take, which texts it sends, and what is remembered of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from bench.tuner.measure.limits import Limits, grid
from bench.tuner.measure.load import Load
from bench.tuner.measure.measure import measure
from bench.tuner.measure.visit import Point, Rules, Visit
from bench.tuner.search.findings import Findings
from bench.tuner.search.record import Record
from bench.tuner.texts.corpus import WINDOW_TEXTS, Corpus, Order
from engine.errors import ConfigError

Listener = Callable[[str, Visit], None]

_EXPLORING_SHARE = 0.6
"""Share of the time after which only the final is left."""

ROUNDS = 3
"""Times that a contender is measured, and that the full grid would measure every point."""
_SHARE_OF_THE_GRID = 0.25
"""Of the full grid's time, what a search may take ..."""
_LEAST_VISITS = 12
"""... unless that grid is so small that there is nothing to save: a search has the time of as many full visits."""

_PRECISIONS = {"order": 0.1, "floor": 0.1, "climb": 0.04, "refine": 0.04, "final": 0.03}
_WORTH_REACHING = 0.9
"""A point that certainly stays below this share of the best is left early."""
_CERTAIN_GROWTH = 1.15
"""A point that certainly brings so much more than the one before is left early, for the next."""
_LEAST_VISIT = 0.75
_MIN_CYCLE_TEXTS = 256
_CYCLE_SHARE_OF_A_VISIT = 0.8
_DEFAULT_BATCH_TOKENS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """What to look for, and how long.

    Attributes:
        target_p95_s: Bound on the 95th percentile of request latency, or None.
        seconds: Steady state of one visit to a point, at most.
        max_seconds: The whole search, at most.
        seed: Of the order in which contenders are repeated.
    """

    target_p95_s: float | None = None
    seconds: float = 10.0
    max_seconds: float = 300.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigError: a number out of its range.
        """
        if self.target_p95_s is not None:
            _require("--target-p95", self.target_p95_s, 0.001, 3600)
        _require("--seconds", self.seconds, 0.1, 3600)
        _require("--max-seconds", self.max_seconds, 1, 86_400)


def _require(option: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{option} is {value:g}; allowed is {low:g} to {high:g}")


class Survey:
    """What every part of a search shares: load, texts, limits, the time left, and what was found.

    Attributes:
        findings: What is known so far.
        limits: The points that may be tried.
        target_p95_s: Bound on the 95th percentile, or None.
        rng: Of everything that is shuffled.
        n_servers: Servers under load.
        expected_per_s: Documents a second that are likely as long as nothing is known.
    """

    def __init__(
        self,
        load: Load,
        corpus: Corpus,
        limits: Limits,
        config: TuneConfig,
        *,
        max_batch_tokens: int | None,
        listener: Listener | None,
    ) -> None:
        self.findings = Findings(characters_per_text=float(corpus.lengths.mean()))
        self.limits = limits
        self.target_p95_s = config.target_p95_s
        self.rng = random.Random(config.seed)
        self.n_servers = load.n_servers
        self.expected_per_s = 0.0
        self._load = load
        self._corpus = corpus
        self._config = config
        self._listener = listener
        self._began_s = load.now_s()
        grid_s = len(grid(limits.ceilings)) * ROUNDS * config.seconds
        self._budget_s = min(config.max_seconds, max(_SHARE_OF_THE_GRID * grid_s, _LEAST_VISITS * config.seconds))
        self._exploring = True
        self._gpu_batch_tokens = max_batch_tokens or _DEFAULT_BATCH_TOKENS
        self._dense_texts: int | None = None

    def extend(self, budgets: float) -> None:
        """Take so many times the time of a search."""
        self._budget_s *= budgets

    def stop_exploring(self) -> None:
        """From now on the rest of the time may be used."""
        self._exploring = False

    def has_time(self) -> bool:
        """Whether another visit may begin: a shorter one than half of what is asked for would say little."""
        return self._left_s() > _LEAST_VISIT * self._config.seconds

    def visit(
        self, part: str, point: Point, *, before: Record | None = None, repeat: bool = False, cycles: int = 1
    ) -> Record:
        """Visit a point that is not known yet; a repeat is added to what is known of it.

        Args:
            part: Part of the search, which decides how precise the visit has to be.
            before: The point from which a climb comes.
            cycles: Times that a repeat goes round all texts.
        """
        record = self.findings.records.get(point)
        if record is not None and not repeat:
            return record
        order = Order.NATURAL
        if self.findings.bucketing:
            # two in flight already meet at the end of their latencies, which only a target asks for
            lonely = 1 if self.target_p95_s is not None else 2
            order = Order.SPREAD if point.concurrency <= lonely and not repeat else Order.SORTED
        visit = self.measure(part, point, order, self._rules(part, point, before, cycles), dense=cycles > 1)
        if record is None:
            record = self.findings.records[point] = Record(point)
        (record.repeats if repeat else record.visits).append(visit)
        return record

    def measure(
        self, part: str, point: Point, order: Order, rules: Rules | None = None, *, dense: bool = False
    ) -> Visit:
        """Measure a point, without remembering it; `dense` with sorted texts that lie as densely as a visit allows."""
        if rules is None:
            rules = self._rules(part, point, None)
        cycle = self._corpus.cycle(point.batch_size, self._cycle_texts(order, dense), order, self.rng)
        visit = measure(self._load, cycle, point.concurrency, rules)
        self.findings.seconds = self._load.now_s() - self._began_s
        if self._listener is not None:
            self._listener(part, visit)
        return visit

    def _rules(self, part: str, point: Point, before: Record | None, cycles: int = 1) -> Rules:
        precision, target_s = _PRECISIONS[part], self.target_p95_s
        if part == "floor":
            return Rules(max_s=self._slice_s(point) / 2, precision=precision, target_p95_s=target_s)
        if part in ("order", "final"):
            return Rules(max_s=self._slice_s(point, cycles), precision=precision, cycles=cycles)
        best = self.findings.best(target_s)
        goes_on = before is not None and point.concurrency < self.limits.ceilings[point.batch_size]
        return Rules(
            max_s=self._slice_s(point),
            precision=precision,
            target_p95_s=target_s,
            must_reach=_WORTH_REACHING * best.rate.per_s if best is not None else None,
            grows_beyond=_CERTAIN_GROWTH * before.rate.per_s if before is not None and goes_on else None,
        )

    def _cycle_texts(self, order: Order, dense: bool) -> int:
        """Texts of a cycle: as dense as a run's window where order matters, and short enough to be gone round."""
        if order is not Order.SORTED:
            return min(self._corpus.n_texts, 2 * WINDOW_TEXTS)
        best = self.findings.best(None)
        expected_per_s = best.rate.per_s if best is not None else self.expected_per_s
        affordable = _CYCLE_SHARE_OF_A_VISIT * self._slice_s() * expected_per_s
        if dense:
            return int(min(max(affordable, _MIN_CYCLE_TEXTS), 2 * min(self._corpus.n_texts, WINDOW_TEXTS)))
        if self._dense_texts is None:
            characters = self._gpu_batch_tokens * self.findings.characters_per_token
            self._dense_texts = self._corpus.texts_for_density(self.n_servers * characters)
        return int(min(max(affordable, _MIN_CYCLE_TEXTS), self._dense_texts))

    def _slice_s(self, point: Point | None = None, cycles: int = 1) -> float:
        """Steady state of one visit, at most: what is asked for, or what is left after the warm-up."""
        best = self.findings.best(None)
        # by Little's law one turnover of what is in flight, which is what a warm-up takes
        warm_up_s = point.texts_in_flight * self.n_servers / best.rate.per_s if point and best else 0.0
        return max(0.2, min(cycles * self._config.seconds, self._left_s() - warm_up_s))

    def _left_s(self) -> float:
        share = _EXPLORING_SHARE if self._exploring else 1.0
        return share * self._budget_s - (self._load.now_s() - self._began_s)
