"""The bottleneck: what keeps throughput at an operating point from being higher."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from bench.tuner.measure.limits import Limits
from bench.tuner.search.findings import Findings
from bench.tuner.search.record import Record
from gpu_clients.server_facts import ServerFacts

BUSY_CLIENT = 0.85
"""CPU seconds of the client per second from which the client may be what is measured."""

BUSY_QUEUE = 0.5
"""GPU batches that a text waits for at a GPU that hardly pauses."""
WORTH_SAYING = 0.02
"""A smaller gain in throughput is not worth a sentence."""


class Limit(enum.Enum):
    """What keeps throughput from being higher."""

    CLIENT = "client CPU"
    TOKENISER = "tokeniser"
    INFERENCE = "inference"
    PERMITS = "permits"
    NETWORK = "network"
    TARGET = "target"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredServers:
    """What the verdict has to know of the servers.

    Attributes:
        facts: Of each server that was measured.
        limits: The points that were allowed.
    """

    facts: tuple[ServerFacts, ...]
    limits: Limits

    @property
    def n_servers(self) -> int:
        """Servers that were measured."""
        return len(self.facts)

    def least(self, name: str) -> int | None:
        """The smallest value of a limit over all servers, None when one does not say."""
        values = [getattr(item, name) for item in self.facts]
        return None if None in values else min(values)


def limit_of(record: Record, findings: Findings, servers: MeasuredServers, target_p95_s: float | None) -> Limit:
    """What keeps throughput at a point from being higher."""
    split = record.split
    if record.client_cpu >= BUSY_CLIENT:
        return Limit.CLIENT
    if not split.known:
        return Limit.UNKNOWN
    if split.tokenization_s >= max(split.queue_s, BUSY_QUEUE * split.inference_s):
        return Limit.TOKENISER
    best = findings.best(None)
    more_exists = best is not None and best.rate.per_s > (1 + WORTH_SAYING) * record.rate.per_s
    if target_p95_s is not None and more_exists:
        return Limit.TARGET
    if split.queue_s >= 0.9 * split.inference_s:
        return Limit.INFERENCE
    size = record.point.batch_size
    if size in servers.limits.by_permits and record.point.concurrency >= servers.limits.ceilings[size]:
        return Limit.PERMITS
    if outside_s(record) >= 0.5 * record.mean_latency_s:
        return Limit.NETWORK
    return Limit.INFERENCE


def outside_s(record: Record) -> float:
    """Mean latency of a request that the servers do not account for."""
    split = record.split
    # without the whole, the mean text has to do: the slowest text of a request takes longer
    inside_s = split.total_s or split.tokenization_s + split.queue_s + split.inference_s
    return max(0.0, record.mean_latency_s - inside_s)
