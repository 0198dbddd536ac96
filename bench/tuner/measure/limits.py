"""Limits: the operating points that the servers admit, so that a tuner may try them."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ConfigError
from gpu_clients.batches.admission import Admission
from gpu_clients.server_facts import ServerFacts
from gpu_clients.servers.doctor import Fleet

CONCURRENCY_WITHOUT_PERMITS = 64
"""Requests in flight at a server that does not say what it admits."""

MAX_CONCURRENCY = 1024
"""What `engine run --concurrency` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The operating points that may be tried.

    Attributes:
        ceilings: Requests in flight per server that every server admits, by batch size, rising.
        by_permits: Batch sizes whose ceiling is the servers' `--max-concurrent-requests`.
        notes: Sentences on what was left out.
    """

    ceilings: dict[int, int]
    by_permits: frozenset[int]
    notes: tuple[str, ...]


def admitted(fleet: Fleet, batch_sizes: tuple[int, ...], concurrency_max: int | None) -> Limits:
    """The points that every server of the fleet admits, counted as a run's clients count them.

    Raises:
        ConfigError: there is none.
    """
    facts = [report.facts for report in fleet.servers if report.facts is not None]
    most = min((item.max_client_batch_size for item in facts if item.max_client_batch_size), default=None)
    permits = min((item.max_concurrent_requests for item in facts if item.max_concurrent_requests), default=None)
    notes = []
    fitting = sorted({size for size in batch_sizes if most is None or size <= most})
    if left_out := sorted(set(batch_sizes) - set(fitting)):
        notes.append(
            f"batch size {', '.join(map(str, left_out))} left out: the servers take {most} texts in a request "
            "(--max-client-batch-size)"
        )
    if not fitting and most is not None:
        fitting = [most]
        notes.append(f"batch size {most} taken instead")
    unplaced = [size for size in fitting if permits is not None and size > permits]
    if unplaced:
        notes.append(
            f"batch size {', '.join(map(str, unplaced))} left out: the servers admit {permits} texts at a time "
            "(--max-concurrent-requests), so such a request gets HTTP 429 for ever"
        )
        fitting = [size for size in fitting if size not in unplaced]
    if not fitting:
        raise ConfigError(
            f"no batch size of {', '.join(map(str, batch_sizes))} is admitted by the servers: add smaller ones"
        )
    ceilings = {}
    by_permits = set()
    for size in fitting:
        by_server = [_window_requests(item, size) for item in facts]
        ceiling = min(by_server)
        if concurrency_max is not None and concurrency_max < ceiling:
            ceiling = concurrency_max
        elif permits is not None:
            by_permits.add(size)
        ceilings[size] = ceiling
    return Limits(ceilings=ceilings, by_permits=frozenset(by_permits), notes=tuple(notes))


def _window_requests(facts: ServerFacts, batch_size: int) -> int:
    """Requests that a client of a run would have in flight at most: it leaves a margin of the permits to others."""
    permits = facts.max_concurrent_requests
    window = Admission(
        batch_texts=batch_size,
        permits=permits,
        concurrency=MAX_CONCURRENCY if permits is not None else CONCURRENCY_WITHOUT_PERMITS,
        max_concurrency=MAX_CONCURRENCY,
        target_p95_s=None,
    )
    return window.window_requests


def grid(ceilings: dict[int, int]) -> list[tuple[int, int]]:
    """The full grid over the same space: every batch size at 1, 2, 4, ... requests in flight up to its ceiling."""
    points = []
    for size, ceiling in ceilings.items():
        concurrency = 1
        while concurrency < ceiling:
            points.append((size, concurrency))
            concurrency *= 2
        points.append((size, ceiling))
    return points
