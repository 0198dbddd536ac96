"""Documents a second that a run would come to: from a tuned file, or from a short measurement."""

from __future__ import annotations

from dataclasses import dataclass

from bench.tuner.report.tuned import Tuned, fleet_changes
from bench.tuner.search.survey import TuneConfig
from bench.tuner.tuning import Tuning, TuningPlan
from commands.plan.config import PlanConfig
from commands.plan.samples import Samples
from gpu_clients.servers.doctor import Fleet
from gpu_clients.settings import ClientSettings

_VISIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Documents a second, and where that comes from.

    Attributes:
        docs_per_second: Of all servers together.
        source: How it was found.
        dim: Numbers in a vector.
        notes: What a person should know of it.
    """

    docs_per_second: float
    source: str
    dim: int
    notes: tuple[str, ...] = ()


def tuned_rate(tuned: Tuned, fleet: Fleet | None) -> Rate:
    """The rate that `engine bench` measured, and how the servers have changed since."""
    notes = fleet_changes(tuned, fleet) if fleet is not None else []
    return Rate(
        docs_per_second=tuned.docs_per_second,
        source=f"measured by `engine bench` at {tuned.written_at}",
        dim=tuned.fingerprint.dim,
        notes=tuple(f"the fleet has changed since the tuned file was written: {note}" for note in notes),
    )


def measured_rate(config: PlanConfig, settings: ClientSettings, samples: Samples) -> Rate:
    """A short tuning with the run's batch size: the rate that a run with adaptive concurrency comes to.

    Raises:
        ServersUnavailable: no point could be measured.
    """
    assert samples.fleet is not None
    servers = config.run.servers
    search = TuneConfig(
        target_p95_s=servers.target_p95_s, seconds=min(_VISIT_S, config.max_seconds / 8), max_seconds=config.max_seconds
    )
    tuning_plan = TuningPlan(
        batch_sizes=(servers.batch_size,),
        concurrency_max=servers.concurrency or servers.max_concurrency,
        tune=search,
    )
    with Tuning(samples.fleet, settings, list(samples.queue.texts), tuning_plan) as tuning:
        findings = tuning.run().findings
    best = findings.chosen or findings.nearest()
    assert best is not None, "a search without any point that works raises"
    notes = []
    if findings.chosen is None:
        notes.append(f"no point holds p95 <= {servers.target_p95_s:g} s; the rate is that of the nearest one")
    return Rate(
        docs_per_second=best.rate.per_s,
        source=(
            f"measured for {findings.seconds:.0f} s: batch size {best.point.batch_size} x concurrency "
            f"{best.point.concurrency} per server, {best.rate.spread}"
        ),
        dim=samples.fleet.dim,
        notes=tuple(notes),
    )
