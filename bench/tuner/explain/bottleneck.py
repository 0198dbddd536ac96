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


STILL_GROWS = 0.1
"""Growth from one point to the next with more in flight, from which on it was not over."""


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
    if target_p95_s is not None and _target_holds_back(record, findings, target_p95_s):
        return Limit.TARGET
    if record.client_cpu >= BUSY_CLIENT:
        return Limit.CLIENT
    if not split.known:
        return Limit.UNKNOWN
    if split.tokenization_s >= max(split.queue_s, BUSY_QUEUE * split.inference_s):
        return Limit.TOKENISER
    if split.queue_s >= 0.9 * split.inference_s:
        return Limit.INFERENCE
    size = record.point.batch_size
    if size in servers.limits.by_permits and record.point.concurrency >= servers.limits.ceilings[size]:
        return Limit.PERMITS
    if outside_s(record) >= 0.5 * record.mean_latency_s:
        return Limit.NETWORK
    return Limit.INFERENCE


def _target_holds_back(record: Record, findings: Findings, target_p95_s: float) -> bool:
    """Whether more in flight would bring more, but break the target.

    A point beyond the target may have been left before its rate was known: then it counts that throughput had still
    grown up to the last point within.
    """
    beyond = [other for other in findings.within(None) if not other.holds(target_p95_s)]
    if any(other.rate.per_s > (1 + WORTH_SAYING) * record.rate.per_s for other in beyond):
        return True
    same = findings.of_size(record.point.batch_size)
    fewer = [other for other in same if other.works and other.point.concurrency < record.point.concurrency]
    more = [other for other in same if other in beyond and other.point.concurrency > record.point.concurrency]
    return bool(more and fewer) and record.rate.per_s > (1 + STILL_GROWS) * fewer[-1].rate.per_s


def outside_s(record: Record) -> float:
    """Mean latency of a request that the servers do not account for."""
    split = record.split
    # without the whole, the mean text has to do: the slowest text of a request takes longer
    inside_s = split.total_s or split.tokenization_s + split.queue_s + split.inference_s
    return max(0.0, record.mean_latency_s - inside_s)
