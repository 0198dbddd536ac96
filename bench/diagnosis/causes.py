"""The causes that a report knows, and what to do about each (docs/report.md); `none` is the steady stretch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause.

    Attributes:
        title: For people, as the end of "slower because ...".
        advice: What to do.
    """

    title: str
    advice: str


NONE, UNKNOWN = "none", "unknown"
CAUSES: dict[str, Cause] = {
    NONE: Cause("nothing: this is the run's usual rate", ""),
    UNKNOWN: Cause("of something that was not recorded", "Compare the evidence with what changed then."),
    "longer_texts": Cause(
        "the texts are longer",
        "Nothing is wrong: tokens a second are what they were. `engine plan` forecasts with the new length.",
    ),
    "shorter_texts": Cause("the texts are shorter", "Nothing to do."),
    "server_out": Cause(
        "a server is out of service", "Look at that server's log, start it again: the run takes it back by itself."
    ),
    "server_flapping": Cause(
        "a server goes out and comes back", "Look at that server's log and at what stands between: a proxy, a restart."
    ),
    "server_slower": Cause(
        "one server takes longer for the same work",
        "Compare it with the others: clocks, temperature and power of its GPU, who else uses it, its version.",
    ),
    "servers_slower": Cause(
        "all servers take longer for the same work",
        "Look for what they share: host, power limit, cooling, another job on the GPUs, a new version.",
    ),
    "gpu_throttled": Cause(
        "the GPU is throttled", "Mend the cooling, or raise the power limit (`nvidia-smi -q -d PERFORMANCE`)."
    ),
    "network_slower": Cause(
        "answers take longer on their way",
        "Look at the network between: packet loss, a proxy, another transfer; a larger --concurrency hides latency.",
    ),
    "server_overloaded": Cause(
        "servers refuse requests (429): they have too few permits",
        "Raise --max-concurrent-requests of the servers, or see who else asks them.",
    ),
    "server_errors": Cause("requests fail and are repeated", "The errors by class are in the evidence and in the log."),
    "source_slower": Cause(
        "pages from MongoDB take longer",
        "`engine index --check`; then look at mongod's disk and cache (`mongostat`), and at other work on it.",
    ),
    "marks_slower": Cause(
        "marks in MongoDB take longer",
        "Look at mongod's writes: its disk, replication lag (marks wait for a majority), other writers.",
    ),
    "cold_slower": Cause(
        "cold storage takes longer to write", "Look at that disk or store: another job on it, its health, its limits."
    ),
    "hot_slower": Cause(
        "hot storage takes longer to fsync", "Move --hot-dir to a local NVMe, or find who else writes to that disk."
    ),
    "busy_machine": Cause(
        "other processes use this machine's processors", "Move them elsewhere; who they are is in the evidence."
    ),
    "client_cpu": Cause(
        "a client process uses a whole core", "Use a larger --batch-size, or several URLs for that server's replicas."
    ),
    "reader_cpu": Cause("the reader uses a whole core", "Fewer --columns, or shorter documents by a projection view."),
    "writer_cpu": Cause("the writer uses a whole core", "--vector-type float16 halves what it encodes."),
    "memory_pressure": Cause(
        "memory is short on this machine", "Free memory: page cache that MongoDB or Parquet needs is taken away."
    ),
    "disk_pressure": Cause(
        "processes of this machine wait for disks", "Find who reads or writes (`iotop`), and move it elsewhere."
    ),
    "restart": Cause("the run's processes were started anew", "The reason is in the events."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule has found.

    Attributes:
        cause: A key of `CAUSES`.
        subject: What it is about: a URL, a stage, a folder; empty when it is about all.
        explains: Share of the change that it explains, 0 to 1; the largest wins.
        evidence: Sentences with figures.
    """

    cause: str
    subject: str = ""
    explains: float = 0.0
    evidence: tuple[str, ...] = field(default=())
