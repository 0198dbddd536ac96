"""The summary of a run, as `engine run --json` prints it, and the clock that its rates are taken from."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.telemetry.metrics import WindowedRate
from engine.telemetry.tally import Tally

MINUTES_S = 300.0


@dataclass(slots=True)
class RunClock:
    """Times and rates of a run over the last seconds and the last minutes; everything on the monotonic clock."""

    started_s: float = field(default_factory=time.monotonic)
    rows: WindowedRate = field(default_factory=WindowedRate)
    rows_of_minutes: WindowedRate = field(default_factory=lambda: WindowedRate(MINUTES_S))

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_s


def own_cpu_s() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def summary(
    tally: Tally,
    clock: RunClock,
    *,
    run: str,
    collection: str,
    bottleneck: str,
    exit_code: int,
    gpus: Sequence[dict[str, Any]] = (),
    nodes: Sequence[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The summary of a run, as `engine run --json` prints it.

    Args:
        gpus: What each GPU of this machine came to (`engine.gpus.watch.GpuTotals`); empty where none is in sight.
        nodes: What each node of a cluster came to; None without nodes, and there is then nothing said of them.
    """
    seconds = clock.seconds
    cpu_s = {"reader": tally.cpu_s["reader"], "clients": tally.cpu_s["client"], "writer": tally.cpu_s["writer"]}
    cpu_s["supervisor"] = own_cpu_s() + tally.agents_cpu_s
    documents = tally.committed_rows
    cpu = {role: round(spent / documents * 1e6, 2) if documents else 0.0 for role, spent in cpu_s.items()}
    found = {
        "run": run,
        "collection": collection,
        "read": tally.read,
        "embedded": tally.embedded,
        "quarantined": tally.quarantined,
        "gone": tally.gone,
        "resumed": tally.resumed,
        "shards": tally.shards,
        "bytes": tally.bytes,
        "seconds": round(seconds, 3),
        "docs_per_second": round(tally.embedded / seconds, 1),
        "tokens_per_second": round(tally.tokens / seconds, 1),
        "cpu_us_per_document": cpu,
        "latency": {"p50": tally.latency.quantile(0.5), "p95": tally.latency.quantile(0.95)},
        "requests": tally.requests,
        "retries": tally.retries,
        "rejected_429": tally.rejected_429,
        "truncated": tally.truncated,
        "beside_equals": tally.beside_equals,
        "saved_by_dedup": tally.saved_by_dedup,
        "restarts": tally.restarts,
        "refusals": tally.refusals,
        "servers": [server.as_dict(url) for url, server in tally.servers.items()],
        "gpus": list(gpus),
        "bottleneck": bottleneck,
        "exit": exit_code,
    }
    return found if nodes is None else {**found, "nodes": list(nodes)}
