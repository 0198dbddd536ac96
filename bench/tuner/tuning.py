"""A tuning: the parts of the tuner put together, from texts and servers to an outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType

from bench.tuner.explain.bottleneck import MeasuredServers
from bench.tuner.explain.verdict import Verdict, judge
from bench.tuner.measure.limits import MAX_CONCURRENCY, Limits, admitted, grid
from bench.tuner.measure.load import FleetLoad
from bench.tuner.measure.visit import Point
from bench.tuner.search.findings import Findings
from bench.tuner.search.record import Record
from bench.tuner.search.search import Search
from bench.tuner.search.survey import ROUNDS, Listener, TuneConfig
from bench.tuner.texts.corpus import Corpus
from engine.config import MAX_BATCH_SIZE
from engine.errors import ConfigError
from gpu_clients.server_facts import ServerFacts
from gpu_clients.servers.doctor import Fleet
from gpu_clients.settings import ClientSettings

CHARACTERS_PER_TOKEN = 32
"""A run cuts texts on the client at so many characters for each token the model takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningPlan:
    """What is tuned with what.

    Attributes:
        batch_sizes: Texts of a request that may be tried.
        concurrency_max: Requests in flight per server at most, or None for what the servers admit.
        tune: The search.
    """

    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    concurrency_max: int | None = None
    tune: TuneConfig = field(default_factory=TuneConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be tried.

        Raises:
            ConfigError: no batch size, or a number out of its range.
        """
        if not self.batch_sizes:
            raise ConfigError("--batch-sizes is empty; name at least one, for example 8,16,32,64")
        for size in self.batch_sizes:
            if not 1 <= size <= MAX_BATCH_SIZE:
                raise ConfigError(f"--batch-sizes holds {size}; allowed is 1 to {MAX_BATCH_SIZE}")
        if self.concurrency_max is not None and not 1 <= self.concurrency_max <= MAX_CONCURRENCY:
            raise ConfigError(f"--concurrency-max is {self.concurrency_max}; allowed is 1 to {MAX_CONCURRENCY}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a tuning found, complete or interrupted.

    Attributes:
        plan: What was asked for.
        fleet: The servers.
        limits: The points that were allowed.
        corpus: The texts.
        findings: Every point.
        verdict: What they mean.
    """

    plan: TuningPlan
    fleet: Fleet
    limits: Limits
    corpus: Corpus
    findings: Findings
    verdict: Verdict

    @property
    def grid_points(self) -> int:
        """Points of the full grid: every batch size at 1, 2, 4, ... requests in flight up to its ceiling."""
        return len(grid(self.limits.ceilings))

    @property
    def grid_seconds(self) -> float:
        """What that grid would take without warm-ups, every point repeated as a contender is."""
        return self.grid_points * ROUNDS * self.plan.tune.seconds

    @property
    def tokens_per_text(self) -> float:
        """Mean tokens of a text; an estimate when the servers do not count."""
        return float(self.corpus.lengths.mean()) / self.findings.characters_per_token


class Tuning:
    """A tuning on a fleet that the doctor has seen; use it as a context manager."""

    def __init__(
        self,
        fleet: Fleet,
        settings: ClientSettings,
        texts: list[str],
        plan: TuningPlan,
        *,
        listener: Listener | None = None,
    ) -> None:
        """
        Args:
            settings: How servers are asked, as a run's clients are told.

        Raises:
            ConfigError: no text can be used, or no batch size is admitted.
        """
        self._fleet = fleet
        self._plan = plan
        facts = _facts(fleet)
        lengths = [item.max_input_length for item in facts if item.max_input_length is not None]
        most = min(lengths) * CHARACTERS_PER_TOKEN if lengths else None
        self._corpus = Corpus(texts, prompt=settings.prompt, max_characters=most if settings.truncate else None)
        self._limits = admitted(fleet, plan.batch_sizes, plan.concurrency_max)
        self._load = FleetLoad(fleet, settings)
        gpu_batches = [item.max_batch_tokens for item in facts if item.max_batch_tokens is not None]
        self._search = Search(
            self._load,
            self._corpus,
            self._limits,
            plan.tune,
            max_batch_tokens=min(gpu_batches, default=None),
            listener=listener,
        )

    def __enter__(self) -> Tuning:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._load.__exit__(kind, error, trace)

    def sight(self, point: Point, *, bucketing: bool, expected_per_s: float) -> Record | None:
        """Measure one point before the search; None when the servers do not admit it."""
        return self._search.sight(point, bucketing=bucketing, expected_per_s=expected_per_s)

    def adopt(self, former: Findings, budgets: float = 1.0) -> None:
        """Begin where another search on the same servers has ended, with so many times the time of a search."""
        self._search.adopt(former, budgets)

    def run(self, worth_beating: float | None = None) -> Outcome:
        """Search for the operating point.

        Args:
            worth_beating: Documents a second, see `bench.tuner.search.search.Search.run`.

        Raises:
            ServersUnavailable, ConfigError: see there.
        """
        self._search.run(worth_beating)
        return self.outcome()

    def outcome(self) -> Outcome:
        """What is known so far."""
        servers = MeasuredServers(facts=_facts(self._fleet), limits=self._limits)
        return Outcome(
            plan=self._plan,
            fleet=self._fleet,
            limits=self._limits,
            corpus=self._corpus,
            findings=self._search.findings,
            verdict=judge(self._search.findings, servers, self._plan.tune.target_p95_s),
        )


def _facts(fleet: Fleet) -> tuple[ServerFacts, ...]:
    return tuple(report.facts for report in fleet.servers if report.facts is not None)
