"""The metric families of a run: names, kinds, labels and meanings, as docs/metrics.md lists them.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for what only grows. A counter counts
from the start of the process; what a crash took back has been counted and is counted again when it is done again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]

PHASES = ("running", "delivering", "stopping", "sealing", "settling", "finished")
"""Values of the label `phase` of `engine_run_phase`, those of `engine.supervision.lifecycle.Phase`."""

STATES = ("ok", "out", "probing")
"""Values of the label `state` of `engine_server_state`."""


THROTTLES = {
    "power cap": "power_cap",
    "hardware slowdown": "hardware_slowdown",
    "heat": "heat",
    "heat (hardware)": "heat_hardware",
    "power brake": "power_brake",
}
"""Values of the label `reason` of `engine_gpu_throttled` by the words of `engine.gpus.nvml`."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family.

    Attributes:
        name: As it is scraped; a histogram's without `_bucket`, `_sum`, `_count`.
        text: What it means.
        labels: Besides `run`, which all of them have but `engine_build_info`.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()


_OF_RUN = (
    Family("engine_build_info", "info", "Always 1: the engine's version and Python's.", ("version", "python")),
    Family("engine_run_info", "info", "Always 1: which collection the run embeds.", ("collection",)),
    Family("engine_run_phase", "gauge", "1 for the phase that the run is in, 0 for the others.", ("phase",)),
    Family("engine_run_start_time_seconds", "gauge", "When the run began, Unix time."),
    Family("engine_run_updated_time_seconds", "gauge", "When the run told its figures last, Unix time."),
    Family("engine_run_generations_total", "counter", "Generations of child processes that were started."),
    Family("engine_run_crashes_total", "counter", "Generations that ended in a crash."),
    Family("engine_run_refusals_total", "counter", "Generations whose uncommitted rows were refused, wrong vectors."),
    Family("engine_process_cpu_seconds_total", "counter", "Processor time by kind of process.", ("process",)),
)
_OF_DOCUMENTS = (
    Family("engine_documents_read_total", "counter", "Documents that the reader took, unfit ones included."),
    Family("engine_documents_embedded_total", "counter", "Documents whose vectors reached the writer's ring."),
    Family("engine_documents_committed_total", "counter", "Rows of the shards that this run committed."),
    Family("engine_documents_marked_total", "counter", "Documents of committed shards that were settled."),
    Family("engine_documents_gone_total", "counter", "Documents that were deleted before they were marked."),
    Family("engine_documents_truncated_total", "counter", "Committed rows whose text was cut."),
    Family("engine_documents_deduplicated_total", "counter", "Documents that shared another one's text and vector."),
    Family("engine_documents_quarantined_total", "counter", "Documents that went into quarantine.", ("reason",)),
    Family("engine_quarantine_documents", "gauge", "Documents in quarantine, those of earlier runs included."),
    Family("engine_documents_left", "gauge", "Documents left to embed; absent until the queue was estimated."),
    Family("engine_documents_unmarked", "gauge", "Committed rows that wait for their marks."),
    Family("engine_documents_open", "gauge", "Rows in the open shard: what a crash would embed again."),
    Family("engine_documents_stored", "gauge", "Rows of all committed shards, those of earlier runs included."),
    Family("engine_eta_seconds", "gauge", "Time left at the rate of the last minutes; absent while unknown."),
)
_OF_STAGES = (
    Family("engine_ring_fill_ratio", "gauge", "Share of a ring, 0 to 1.", ("ring",)),
    Family("engine_stage_wait_seconds_total", "counter", "Time that a stage waited, by for what.", ("stage", "cause")),
    Family("engine_source_pages_total", "counter", "Pages read from the source."),
    Family("engine_source_page_seconds_total", "counter", "Time that the source took for them."),
    Family("engine_mark_seconds_total", "counter", "Time that marking took."),
    Family("engine_shards_committed_total", "counter", "Shards that this run committed."),
    Family("engine_shards_unmarked", "gauge", "Committed shards that are not marked yet."),
    Family("engine_shard_bytes_committed_total", "counter", "Bytes of the shards that this run committed."),
    Family("engine_shard_bytes_written_total", "counter", "Bytes written to shards, the open one included."),
    Family("engine_writes_total", "counter", "Writes of the writer to its files."),
    Family("engine_write_seconds_total", "counter", "Time that they took."),
    Family("engine_fsyncs_total", "counter", "Calls that made files durable, by process.", ("process",)),
    Family("engine_fsync_seconds_total", "counter", "Time that they took.", ("process",)),
    Family("engine_uploads_total", "counter", "Shards that a cold store has got; 0 where cold is a folder."),
    Family("engine_upload_bytes_total", "counter", "Bytes of these shards."),
    Family("engine_upload_seconds_total", "counter", "Time that uploads took, those under way included."),
    Family("engine_upload_retries_total", "counter", "Uploads that the store did not take at once, by try."),
)
_OF_SERVERS = (
    Family("engine_server_up", "gauge", "1 while documents may be sent to a server, else 0.", ("server",)),
    Family("engine_server_state", "gauge", "1 for the state that a server is in, 0 for others.", ("server", "state")),
    Family("engine_server_outages_total", "counter", "Times that a server was taken out of service.", ("server",)),
    Family("engine_server_documents_embedded_total", "counter", "Documents that a server embedded.", ("server",)),
    Family("engine_server_tokens_total", "counter", "Tokens that a server counted, or an estimate.", ("server",)),
    Family("engine_server_requests_total", "counter", "Embedding requests sent for documents.", ("server",)),
    Family("engine_server_requests_in_flight", "gauge", "Requests in flight.", ("server",)),
    Family("engine_server_requests_allowed", "gauge", "Requests that may be in flight.", ("server",)),
    Family("engine_server_request_retries_total", "counter", "Requests that repeated a failed one.", ("server",)),
    Family("engine_server_requests_hedged_total", "counter", "Copies of late requests sent elsewhere.", ("server",)),
    Family("engine_server_overloaded_total", "counter", "Requests answered 429.", ("server",)),
    Family("engine_server_errors_total", "counter", "Requests that failed, by kind.", ("server", "kind")),
    Family("engine_server_sent_bytes_total", "counter", "Bytes of requests that were answered.", ("server",)),
    Family("engine_server_received_bytes_total", "counter", "Bytes of their answers.", ("server",)),
    Family(
        "engine_server_request_duration_seconds", "histogram", "Seconds from request to its last byte.", ("server",)
    ),
    Family(
        "engine_server_request_phase_seconds_total",
        "counter",
        "Of these, as the server says: queue, tokenization, inference; 0 when it says nothing.",
        ("server", "phase"),
    ),
)
_OF_GPUS = (
    Family("engine_gpu_utilization_ratio", "gauge", "Share of the time in which it worked.", ("gpu", "server")),
    Family("engine_gpu_power_watts", "gauge", "Power that it draws.", ("gpu", "server")),
    Family("engine_gpu_power_limit_watts", "gauge", "Power that it may draw.", ("gpu", "server")),
    Family("engine_gpu_clock_hertz", "gauge", "Clock of its multiprocessors.", ("gpu", "server")),
    Family("engine_gpu_temperature_celsius", "gauge", "Its temperature.", ("gpu", "server")),
    Family("engine_gpu_memory_used_bytes", "gauge", "Its memory in use.", ("gpu", "server")),
    Family("engine_gpu_memory_bytes", "gauge", "All of its memory.", ("gpu", "server")),
    Family(
        "engine_gpu_throttled",
        "gauge",
        "1 for a reason for which it runs slower than it could, 0 for the others.",
        ("gpu", "server", "reason"),
    ),
)

FAMILIES = (*_OF_RUN, *_OF_DOCUMENTS, *_OF_STAGES, *_OF_SERVERS, *_OF_GPUS)

DEPRECATED = (
    Family("engine_embedded_documents", "gauge", "Use engine_documents_embedded_total."),
    Family("engine_committed_documents", "gauge", "Use engine_documents_stored."),
    Family("engine_documents_per_second", "gauge", "Use rate(engine_documents_embedded_total[1m])."),
    Family("engine_quarantined_documents", "gauge", "Use engine_quarantine_documents."),
    Family("engine_shards", "gauge", "Use engine_shards_committed_total."),
    Family("engine_restarts", "gauge", "Use engine_run_crashes_total."),
    Family("engine_refusals", "gauge", "Use engine_run_refusals_total."),
    Family("engine_server_documents", "gauge", "Use engine_server_documents_embedded_total.", ("server",)),
    Family("engine_server_in_flight", "gauge", "Use engine_server_requests_in_flight.", ("server",)),
    Family("engine_server_window", "gauge", "Use engine_server_requests_allowed.", ("server",)),
    Family("engine_server_retries", "gauge", "Use engine_server_request_retries_total.", ("server",)),
    Family("engine_server_rejected_429", "gauge", "Use engine_server_overloaded_total.", ("server",)),
    Family(
        "engine_server_latency_p95_seconds",
        "gauge",
        "Use histogram_quantile over engine_server_request_duration_seconds_bucket.",
        ("server",),
    ),
)
"""Names of earlier versions, whose label `server` is a client's role; see docs/versioning.md for how long they stay."""
