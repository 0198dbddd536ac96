"""What a run says of itself: live figures while it goes on, one summary on the way out, the bottleneck in words."""

from __future__ import annotations

import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from engine.memory.channels import Message
from engine.records import ShardFacts
from engine.telemetry.metrics import LatencyHistogram, WindowedRate

ROLE_GROUPS = ("reader", "client", "writer")


@dataclass(slots=True, kw_only=True)
class ServerTally:
    """What one server did in a run, over all its generations.

    Attributes:
        state: Where it stood when the run ended: `ok`, `out`, or `probing` (out, and being looked at).
        window: Requests that were allowed to be in flight at it, at last.
        documents: Rows that came from it.
        outs: How often it was taken out of service.
        doubtful: Rows that were committed although it could be asked for no canary after them.
        errors: Failed requests by class.
    """

    state: str = "starting"
    window: int = 0
    documents: int = 0
    requests: int = 0
    retries: int = 0
    rejected_429: int = 0
    hedged: int = 0
    outs: int = 0
    doubtful: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)

    def take(self, facts: Message) -> None:
        """Add the last figures of its client whose generation is over."""
        self.state = facts.get("breaker", self.state)
        self.window = facts.get("window", self.window)
        self.documents += facts.get("rows", 0)
        self.requests += facts.get("requests", 0)
        self.retries += facts.get("retries", 0)
        self.rejected_429 += facts.get("rejected_429", 0)
        self.hedged += facts.get("hedged", 0)
        self.outs += facts.get("outs", 0)
        self.doubtful += facts.get("doubtful_rows", 0)
        self.errors.update(facts.get("errors", {}))
        self.latency.add(LatencyHistogram.from_sparse(facts.get("latency", {})))

    def as_dict(self, url: str) -> dict[str, Any]:
        """Its part of the summary."""
        return {
            "url": url,
            "state": self.state,
            "window": self.window,
            "documents": self.documents,
            "requests": self.requests,
            "retries": self.retries,
            "rejected_429": self.rejected_429,
            "hedged": self.hedged,
            "outs": self.outs,
            "doubtful": self.doubtful,
            "errors": dict(self.errors),
            "latency": {"p50": self.latency.quantile(0.5), "p95": self.latency.quantile(0.95)},
        }


@dataclass(slots=True, kw_only=True)
class Tally:
    """The counts of a run over all its generations.

    Attributes:
        resumed: Rows that were in committed shards when the run started.
        committed_rows: Rows this run committed.
        gone: Of these, rows whose document was deleted meanwhile.
        quarantined: Documents this run found unfit, those known from before included.
        shards, bytes: Shards this run committed.
        read: Documents taken from the work queue and settled.
        truncated: Rows flagged as truncated.
        cpu_s: CPU seconds of ended children by group.
        requests, tokens: What the clients did, in ended generations.
        servers: The same and more of each server, by URL.
        generations: Generations that were started.
        restarts: Generations that ended in a crash.
        refusals: Generations whose uncommitted rows were refused, because a server's vectors had turned wrong.
    """

    resumed: int = 0
    committed_rows: int = 0
    gone: int = 0
    quarantined: int = 0
    shards: int = 0
    bytes: int = 0
    read: int = 0
    truncated: int = 0
    cpu_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ROLE_GROUPS, 0.0))
    requests: int = 0
    tokens: int = 0
    retries: int = 0
    rejected_429: int = 0
    saved_by_dedup: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    generations: int = 0
    restarts: int = 0
    refusals: int = 0
    servers: dict[str, ServerTally] = field(default_factory=dict)

    @property
    def embedded(self) -> int:
        """Documents that are in a committed row and existed to be marked."""
        return self.committed_rows - self.gone

    def sum_agrees(self) -> bool:
        """G7: read = embedded + quarantined + gone."""
        return self.read == self.embedded + self.quarantined + self.gone

    def take_shard(self, facts: ShardFacts) -> None:
        """Add a shard that was committed."""
        self.committed_rows += facts.rows
        self.shards += 1
        self.bytes += facts.bytes
        self.truncated += facts.truncated

    def take_generation(
        self, reader: Message, clients: list[Message], *, committed_rows: int, crashed: bool, stopped: bool
    ) -> None:
        """Add the last figures of a generation that is over: what is settled, nothing else.

        Args:
            reader, clients: What its processes told.
            committed_rows: Rows that it committed.
            crashed: Whether it died; what it put into quarantine is met again, and counted, by the next one.
            stopped: Whether it was ended early; what it read beyond that is read again.
        """
        quarantined = reader.get("quarantined", 0) + reader.get("skipped", 0)
        unread = quarantined
        for facts in clients:
            self.take_client(facts)
            quarantined += facts.get("quarantined", 0)
        if crashed:
            self.read += committed_rows
            return
        self.quarantined += quarantined
        self.read += committed_rows + quarantined if stopped else reader.get("documents", 0) + unread

    def take_client(self, facts: Message) -> None:
        """Add the last figures of a client whose generation is over."""
        self.requests += facts.get("requests", 0)
        self.tokens += facts.get("tokens", 0)
        self.retries += facts.get("retries", 0)
        self.rejected_429 += facts.get("rejected_429", 0)
        self.saved_by_dedup += facts.get("saved_by_dedup", 0)
        self.latency.add(LatencyHistogram.from_sparse(facts.get("latency", {})))
        if "url" in facts:
            self.servers.setdefault(facts["url"], ServerTally()).take(facts)


_SATURATED = 0.92


@dataclass(frozen=True, slots=True)
class MachineCpu:
    """Processor time of the whole machine, from /proc/stat, in clock ticks."""

    busy: int
    total: int

    @classmethod
    def now(cls) -> MachineCpu:
        """The counters of this moment."""
        with open("/proc/stat", encoding="ascii") as lines:
            ticks = [int(word) for word in lines.readline().split()[1:9]]
        idle = ticks[3] + ticks[4]
        return cls(sum(ticks) - idle, sum(ticks))

    def busy_share_since(self) -> float | None:
        """Share of all cores' time that was used since then, None when no time has passed."""
        now = MachineCpu.now()
        passed = now.total - self.total
        return (now.busy - self.busy) / passed if passed else None


@dataclass(slots=True)
class Occupancy:
    """How full the rings were, sampled while the pipeline was running: what the bottleneck verdict stands on."""

    cpu: MachineCpu = field(default_factory=MachineCpu.now)
    samples: int = 0
    documents_ready: float = 0.0
    vectors_ready: float = 0.0
    vectors_busy: float = 0.0

    def sample(self, documents_ready: float, vectors_ready: float, vectors_busy: float) -> None:
        """Note three shares of a ring, each 0 to 1."""
        self.samples += 1
        self.documents_ready += documents_ready
        self.vectors_ready += vectors_ready
        self.vectors_busy += vectors_busy

    def means(self) -> dict[str, float]:
        """Mean shares."""
        n = max(1, self.samples)
        return {
            "documents_ready": round(self.documents_ready / n, 3),
            "vectors_ready": round(self.vectors_ready / n, 3),
            "vectors_busy": round(self.vectors_busy / n, 3),
        }

    def verdict(self, reader: Message, clients: list[Message]) -> str:
        """The bottleneck in words.

        Cores that are used up explain every wait. A full vector ring means that the writer or its disk is slow;
        documents waiting in the document ring mean that the servers are; an empty one means that the reader is, and
        its own waiting time says whether MongoDB is.
        """
        if not self.samples:
            return "nothing to judge by: the run was too short"
        means = self.means()
        busy = self.cpu.busy_share_since()
        if busy is not None and busy > _SATURATED:
            return f"the machine's processor: its cores were {busy:.0%} busy with everything that runs here"
        if means["vectors_busy"] > 0.9:
            return "the writer: the vector ring is full; cold storage or Parquet encoding sets the pace"
        if means["documents_ready"] > 0.25:
            return f"the embedding servers: documents wait for them{_server_split(clients)}"
        if reader.get("source_wait_s", 0.0) > reader.get("ring_wait_s", 0.0):
            return "the source: clients wait for documents while the reader waits for MongoDB"
        return "the clients: documents do not wait for servers, nor servers for documents; try a larger --batch-size"


def _server_split(clients: list[Message]) -> str:
    queue_s = sum(facts.get("server_times", {}).get("queue_s", 0.0) for facts in clients)
    inference_s = sum(facts.get("server_times", {}).get("inference_s", 0.0) for facts in clients)
    tokenization_s = sum(facts.get("server_times", {}).get("tokenization_s", 0.0) for facts in clients)
    total = queue_s + inference_s + tokenization_s
    if not total:
        return ""
    return (
        f" (of the servers' own time {queue_s / total:.0%} is queue, {inference_s / total:.0%} inference, "
        f"{tokenization_s / total:.0%} tokenising)"
    )


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
    tally: Tally, clock: RunClock, *, run: str, collection: str, bottleneck: str, exit_code: int
) -> dict[str, Any]:
    """The summary of a run, as `engine run --json` prints it."""
    seconds = clock.seconds
    cpu_s = {"reader": tally.cpu_s["reader"], "clients": tally.cpu_s["client"], "writer": tally.cpu_s["writer"]}
    cpu_s["supervisor"] = own_cpu_s()
    documents = tally.committed_rows
    cpu = {role: round(spent / documents * 1e6, 2) if documents else 0.0 for role, spent in cpu_s.items()}
    return {
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
        "saved_by_dedup": tally.saved_by_dedup,
        "restarts": tally.restarts,
        "refusals": tally.refusals,
        "servers": [server.as_dict(url) for url, server in tally.servers.items()],
        "bottleneck": bottleneck,
        "exit": exit_code,
    }
