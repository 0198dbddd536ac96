"""Which stage sets the pace of a run, told from how full the rings were and how busy the machine was."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.memory.channels import Message

_SATURATED = 0.92


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
