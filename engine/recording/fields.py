"""The fields of a sample: what is taken from the figures of a run, under which name, and of which kind.

A *count* is what was added within the sample's seconds; merged samples add up. A *level* is the mean over them; merged
samples give the mean weighted by time. docs/report.md has the list; what other processes count besides is left alone.
"""

from __future__ import annotations

from typing import Any

RUN_COUNTS = {
    "rows": "embedded_now",
    "committed": "committed",
    "shards": "shards",
    "quarantined": "quarantined",
    "restarts": "restarts",
    "refusals": "refusals",
    "marks.rows": "marked_rows",
    "marks.seconds": "mark_s",
    "hot.fsyncs": "fsyncs",
    "hot.fsync_s": "fsync_s",
    "supervisor.cpu_s": "cpu_s",
}
"""Names in the figures by field."""
FROM_BEFORE = frozenset({"committed", "shards", "quarantined"})
"""Of these, what does not begin at 0 with the run."""
READER_COUNTS = (
    *("documents", "batches", "pages", "page_s", "rows_read", "characters", "skipped", "truncated", "quarantined"),
    *("ring_wait_s", "source_wait_s", "cpu_s"),
)
CLIENT_COUNTS = (
    *("rows", "requests", "answers", "retries", "rejected_429", "hedged", "reconnects", "outs", "quarantined"),
    *("tokens", "truncated", "bytes_in", "bytes_out"),
    *("latency_s", "ring_wait_s", "vector_wait_s", "cpu_s"),
)
SERVER_TIMES = ("queue_s", "tokenization_s", "inference_s")
CLIENT_LEVELS = ("in_flight", "window")
WRITER_COUNTS = (
    *("rows", "shards", "bytes", "writes", "write_s", "fsyncs", "fsync_s"),
    *("uploads", "upload_s", "upload_bytes", "upload_retries", "ring_wait_s", "busy_s", "cpu_s"),
)
RINGS = ("documents_ready", "vectors_ready", "vectors_busy")
PHASES = ("running", "delivering")
GPU_LEVELS = {
    "utilization": "utilization",
    "power": "power_w",
    "clock": "clock_mhz",
    "temperature": "temperature_c",
    "memory": "memory_used_bytes",
}
"""Names in the figures of a GPU by field."""
THROTTLES = ("power cap", "hardware slowdown", "heat", "heat (hardware)", "power brake")


def run_counts(figures: dict[str, Any]) -> dict[str, float]:
    """Counters of the run as they stand."""
    return {name: figures[key] for name, key in RUN_COUNTS.items() if figures.get(key) is not None}


def child_counts(figures: dict[str, Any]) -> dict[str, float]:
    """Counters of the children as they stand; all begin at 0 with their generation."""
    found: dict[str, float] = {}
    reader, writer = figures["reader"], figures["writer"]
    for name in READER_COUNTS:
        if name in reader:
            found[f"reader.{name}"] = reader[name]
    for bucket, count in reader.get("lengths", {}).items():
        found[f"reader.length.{bucket}"] = count
    for name in WRITER_COUNTS:
        if name in writer:
            found[f"writer.{name}"] = writer[name]
    for role, facts in figures["clients"].items():
        for name in CLIENT_COUNTS:
            if name in facts:
                found[f"{role}.{name}"] = facts[name]
        for name, seconds in facts.get("server_times", {}).items():
            found[f"{role}.{name}"] = seconds
        for name, count in facts.get("errors", {}).items():
            found[f"{role}.errors.{name}"] = count
    return found


def levels(figures: dict[str, Any]) -> dict[str, float]:
    """Levels of this moment."""
    found = {f"phase.{name}": float(figures["phase"] == name) for name in PHASES}
    found["unmarked_rows"] = float(figures.get("unmarked_rows") or 0)
    if figures.get("left_at_start") is not None:
        found["left"] = float(figures["left_at_start"] - figures["embedded_now"])
    for name in RINGS:
        if name in figures["rings"]:
            found[f"ring.{name}"] = figures["rings"][name]
    if figures["reader"]:
        found["reader.paused"] = float(bool(figures["reader"].get("paused")))
    if figures["writer"]:
        found["writer.sealing"] = float(figures["writer"].get("state") == "sealing")
    for role, facts in figures["clients"].items():
        if facts:
            found[f"{role}.up"] = float(facts.get("breaker", "ok") == "ok")
        for name in CLIENT_LEVELS:
            if name in facts:
                found[f"{role}.{name}"] = float(facts[name])
    for gpu in figures.get("gpus", ()):
        found.update(_gpu(gpu))
    return found


def _gpu(gpu: dict[str, Any]) -> dict[str, float]:
    """Levels of one GPU; a reason to be throttled is 1 while it holds, so that its mean is a share of the time."""
    prefix = f"gpu-{gpu['index']}"
    found = {f"{prefix}.{name}": float(gpu[key]) for name, key in GPU_LEVELS.items() if gpu.get(key) is not None}
    reasons = gpu.get("throttled") or ()
    return found | {f"{prefix}.throttle_{reason}": float(reason in reasons) for reason in THROTTLES}
