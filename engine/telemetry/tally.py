"""The tally of a run: counts of documents, shards and requests, added up over all its generations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from engine.memory.channels import Message
from engine.records import ShardFacts
from engine.telemetry.metrics import LatencyHistogram, Stopwatch

ROLE_GROUPS = ("reader", "client", "writer")


@dataclass(slots=True, kw_only=True)
class ServerTally:
    """The counts of one server in a run, over all its generations.

    Attributes:
        node: The node that it works for, None without nodes.
        state: Where it stood when the run ended: `ok`, `out`, or `probing` (out, and being looked at).
        window: Requests that were allowed to be in flight at it, at last.
        documents: Rows that came from it.
        outs: How often it was taken out of service.
        doubtful: Rows that were committed although it could be asked for no canary after them.
        errors: Failed requests by class.
    """

    node: str | None = None
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

    def add(self, facts: Message) -> None:
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
            "url": url if self.node is None else url.removeprefix(f"{self.node} "),
            **({} if self.node is None else {"node": self.node}),
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
        beside_equals: Documents so long that their vectors may hang on texts of equal length beside them, at servers
            where that was seen; more than there are when a generation crashed.
        cpu_s: CPU seconds of ended children by group.
        agents_cpu_s: CPU seconds of the node processes that relayed what children told.
        requests, tokens: What the clients did, in ended generations.
        servers: The same and more of each server, by URL; by node and URL in a cluster.
        generations: Generations that were started.
        restarts: Generations that ended in a crash.
        refusals: Generations whose uncommitted rows were refused, because a server's vectors had turned wrong.
        marked_rows: Rows of the shards whose documents this run marked behind its commits.
        marking: Times that.
    """

    resumed: int = 0
    committed_rows: int = 0
    gone: int = 0
    quarantined: int = 0
    shards: int = 0
    bytes: int = 0
    read: int = 0
    truncated: int = 0
    beside_equals: int = 0
    cpu_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ROLE_GROUPS, 0.0))
    agents_cpu_s: float = 0.0
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
    marked_rows: int = 0
    marking: Stopwatch = field(default_factory=Stopwatch)

    @property
    def embedded(self) -> int:
        """Documents that are in a committed row and existed to be marked."""
        return self.committed_rows - self.gone

    def sum_agrees(self) -> bool:
        """G7: read = embedded + quarantined + gone."""
        return self.read == self.embedded + self.quarantined + self.gone

    def add_shard(self, facts: ShardFacts) -> None:
        """Add a shard that was committed."""
        self.committed_rows += facts.rows
        self.shards += 1
        self.bytes += facts.bytes
        self.truncated += facts.truncated

    def add_generation(
        self, reader: Message, clients: list[Message], *, committed_rows: int, crashed: bool, stopped: bool
    ) -> None:
        """Add the last figures of a generation that is over: what is settled, nothing else.

        Args:
            reader, clients: What its processes told.
            committed_rows: Rows that it committed.
            crashed: Whether it died; what it put into quarantine is met again, and counted, by the next one.
            stopped: Whether it was ended early; what it read beyond that is read again.
        """
        self.beside_equals += reader.get("beside_equals", 0)
        quarantined = reader.get("quarantined", 0) + reader.get("skipped", 0)
        unread = quarantined
        for facts in clients:
            self.add_client(facts)
            quarantined += facts.get("quarantined", 0)
        if crashed:
            self.read += committed_rows
            return
        self.quarantined += quarantined
        self.read += committed_rows + quarantined if stopped else reader.get("documents", 0) + unread

    def add_client(self, facts: Message) -> None:
        """Add the last figures of a client whose generation is over."""
        self.requests += facts.get("requests", 0)
        self.tokens += facts.get("tokens", 0)
        self.retries += facts.get("retries", 0)
        self.rejected_429 += facts.get("rejected_429", 0)
        self.saved_by_dedup += facts.get("saved_by_dedup", 0)
        self.latency.add(LatencyHistogram.from_sparse(facts.get("latency", {})))
        if "url" in facts:
            node = facts.get("node")
            key = facts["url"] if node is None else f"{node} {facts['url']}"
            self.servers.setdefault(key, ServerTally(node=node)).add(facts)
