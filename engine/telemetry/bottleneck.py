"""Which stage sets the pace of a run, told from what clients and reader waited for and how busy the machine was."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.memory.channels import Message

_SATURATED = 0.92
_FULL_RING = 0.9
_WRITER = "the writer: clients wait for room in the vector ring; cold storage or Parquet encoding sets the pace"
_FULL_CORE = 0.85
"""Share of a core from which a process is what holds up everything."""
_MOST = 0.5
"""A wait of more than half of the time sets the pace; a shorter one may be chance."""
_ENOUGH_S = 1.0
"""Seconds of work below which nothing is said."""


@dataclass(frozen=True, slots=True)
class MachineCpu:
    """Processor time of the whole machine so far, from /proc/stat, in clock ticks."""

    busy: int
    total: int

    @classmethod
    def now(cls) -> MachineCpu:
        """The counters of this moment; zeros where there is no /proc, and the processor is then never blamed."""
        try:
            with open("/proc/stat", encoding="ascii") as lines:
                ticks = [int(word) for word in lines.readline().split()[1:9]]
        except OSError:
            return cls(0, 0)
        idle = ticks[3] + ticks[4]
        return cls(sum(ticks) - idle, sum(ticks))

    def busy_share_since(self) -> float | None:
        """Share of all cores' time that was used since then, None when no time has passed."""
        now = MachineCpu.now()
        passed = now.total - self.total
        return (now.busy - self.busy) / passed if passed else None


@dataclass(slots=True)
class Occupancy:
    """How full the rings were on average, sampled while the pipeline was running, and the bottleneck that follows."""

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

    def bottleneck(self, reader: Message, clients: list[Message]) -> str:
        """The bottleneck in words, or why none is named.

        Clients say what they have waited for since their first request. What they waited for most of the time sets
        the pace: servers, documents (then the reader's own waits say what it waited for), or the writer. Where no wait
        is the larger half of the time nothing is named.

        Args:
            reader: The reader's last figures.
            clients: The last figures of each client.
        """
        busy = self.cpu.busy_share_since()
        cores_short = busy is not None and busy > _SATURATED
        remark = (
            f"; this machine's cores were {busy:.0%} busy, which holds up whatever runs on it" if cores_short else ""
        )
        if self.samples and self.means()["vectors_busy"] > _FULL_RING:
            return f"{_WRITER}{remark}"
        waits = Waits.of(clients)
        if waits.longest_s < _ENOUGH_S:
            return "nothing to judge by: the run was too short"
        if waits.vectors > _MOST:
            return f"{_WRITER}{remark}"
        if waits.documents > _MOST and (cause := _before_the_reader(reader, waits)):
            return f"{cause}{remark}"
        if waits.servers > _MOST and waits.cpu <= _FULL_CORE and waits.server_share_is_most:
            return f"the embedding servers: documents wait for them{_server_split(clients)}{remark}"
        if waits.idle > _MOST:
            return (
                f"the end of the run: every document was embedded, and for {waits.idle:.0%} of the time what was left "
                f"was to write, to prove and to mark the last shards{remark}"
            )
        if cores_short:
            return f"the machine's processor: its cores were {busy:.0%} busy with everything that runs here"
        return _own_work(waits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """What the clients waited for, as shares of the time since their first request.

    Attributes:
        longest_s: Seconds since the first request of any of them.
        documents: For documents, while more were to come.
        vectors: For an empty vector slot.
        servers: For their server.
        idle: For nothing, since no document was left: the share of the client that had something to do the longest.
        cpu: Processor time; may overlap with the waits.
        server_share: What servers say of a request's time, as a share of what it took; None when they do not say.
    """

    longest_s: float
    documents: float
    vectors: float
    servers: float
    idle: float
    cpu: float
    server_share: float | None

    @classmethod
    def of(cls, clients: list[Message]) -> Waits:
        """Add up what the clients told."""

        def summed(name: str) -> float:
            return float(sum(facts.get(name, 0.0) for facts in clients))

        def of_servers(name: str) -> float:
            return float(sum(facts.get("server_times", {}).get(name, 0.0) for facts in clients))

        worked_s = summed("worked_s")
        whole = worked_s or 1.0
        answered_s = of_servers("answered_s")
        return cls(
            longest_s=max((facts.get("worked_s", 0.0) for facts in clients), default=0.0),
            documents=summed("ring_wait_s") / whole,
            vectors=summed("vector_wait_s") / whole,
            servers=summed("server_wait_s") / whole,
            idle=min(
                (facts.get("idle_s", 0.0) / facts["worked_s"] for facts in clients if facts.get("worked_s")),
                default=0.0,
            ),
            cpu=summed("worked_cpu_s") / whole,
            server_share=of_servers("total_s") / answered_s if answered_s else None,
        )

    @property
    def server_share_is_most(self) -> bool:
        """Whether requests take their time at the servers, and not on the way there and back."""
        return self.server_share is None or self.server_share > _MOST


def _before_the_reader(reader: Message, waits: Waits) -> str | None:
    """What the reader waited for while clients waited for it; None when it was itself at work."""
    starved_s = waits.documents * waits.longest_s
    if reader.get("pause_wait_s", 0.0) > _MOST * starved_s:
        return "the marks: reading waits until MongoDB has taken the marks of what was committed"
    if reader.get("source_wait_s", 0.0) > _MOST * starved_s:
        return "the source: clients wait for documents while the reader waits for it"
    if reader.get("ring_wait_s", 0.0) > _MOST * starved_s:
        return "the document ring: all its slots are in flight; try a smaller --batch-size"
    return None


def _own_work(waits: Waits) -> str:
    """What sets the pace when nothing was waited for that is not the engine's own."""
    if waits.documents > _MOST:
        return "the reader: clients wait for documents while it screens and encodes them, with one core"
    if waits.cpu > _FULL_CORE:
        return f"the clients: their processes were {waits.cpu:.0%} busy; try a larger --batch-size"
    if waits.servers > _MOST:
        return (
            f"the way to the servers: they account for {waits.server_share or 0.0:.0%} of the time that a request "
            "takes, the rest passes in the network, in a proxy or in their HTTP side"
        )
    return (
        f"no single stage: clients waited {waits.servers:.0%} of the time for servers, {waits.documents:.0%} for "
        f"documents and {waits.vectors:.0%} for the writer"
    )


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
