"""The collector: turns the live figures of a run into metric families whenever somebody scrapes them.

What a run pays is the assignment of a dict a second; everything else is done when it is asked for, by whoever asks.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from engine.exposition.buckets import cumulative
from engine.exposition.counting import Accumulated
from engine.exposition.families import DEPRECATED, FAMILIES, PHASES, STATES, THROTTLES, Family
from engine.memory.channels import Message
from engine.records import QUARANTINE_REASONS
from engine.telemetry.logs import redact
from engine.telemetry.metrics import LatencyHistogram
from engine.telemetry.progress import seconds_left

Labels = dict[str, str]
Sample = tuple[str, Labels, float]
"""Name of a family, labels, value."""


class RunCollector(Collector):
    """Shows the live figures of a run; an observer of it (`engine.telemetry.reporting`).

    Attributes:
        updated_s: When figures came last, on the monotonic clock; None before the first.
    """

    def __init__(self, *, run: str, collection: str, version: str, error_kinds: Sequence[str] = ()) -> None:
        """
        Args:
            error_kinds: Kinds of failed requests, which are shown as 0 until the first of them.
        """
        self._run = run
        self._collection = collection
        self._version = version
        self._error_kinds = error_kinds
        self._began = time.time()
        self._lock = threading.Lock()
        self._figures: dict[str, Any] = {}
        self._reader, self._writer = Accumulated(), Accumulated()
        self._clients: dict[str, Accumulated] = {}
        self.updated_s: float | None = None

    def update(self, figures: dict[str, Any]) -> None:
        """Take the figures of this moment."""
        generation = figures["generation"]
        with self._lock:
            self._figures = figures
            self._reader.update(generation, figures["reader"])
            self._writer.update(generation, figures["writer"])
            for role in self._clients.keys() | figures["clients"].keys():
                self._clients.setdefault(role, Accumulated()).update(generation, figures["clients"].get(role, {}))
        self.updated_s = time.monotonic()

    def collect(self) -> Iterable[Metric]:
        """Every family that has something to show."""
        samples: dict[str, list[tuple[Labels, float]]] = {}
        with self._lock:
            for name, labels, value in self._samples():
                samples.setdefault(name, []).append((labels, value))
            latencies = {_url(role, client): client.total for role, client in self._clients.items()}
        for family in (*FAMILIES, *DEPRECATED):
            if family.kind == "histogram":
                yield self._histogram(family, latencies)
            elif family.name in samples:
                yield _metric(family, samples[family.name])

    def _samples(self) -> Iterator[Sample]:
        yield "engine_build_info", {"version": self._version, "python": platform.python_version()}, 1
        of_run = [("engine_run_info", {"collection": self._collection}, 1.0)]
        of_run.append(("engine_run_start_time_seconds", {}, self._began))
        if self._figures:
            of_run += _of_run(self._figures)
            of_run += _of_documents(self._figures, self._reader.total, [c.total for c in self._clients.values()])
            of_run += _of_stages(self._figures, self._reader, self._writer, list(self._clients.values()))
            of_run += _of_gpus(self._figures.get("gpus", ()))
            of_run += _deprecated(self._figures)
            for role, client in self._clients.items():
                of_run += _of_server(_url(role, client), client, self._error_kinds)
        for name, labels, value in of_run:
            yield name, {"run": self._run, **labels}, value

    def _histogram(self, family: Family, latencies: dict[str, Message]) -> Metric:
        metric = HistogramMetricFamily(family.name, family.text, labels=["run", *family.labels])
        for url, facts in latencies.items():
            buckets = cumulative(LatencyHistogram.from_sparse(facts.get("latency", {})))
            metric.add_metric([self._run, url], buckets=buckets, sum_value=facts.get("latency_s", 0.0))
        return metric


def _metric(family: Family, samples: list[tuple[Labels, float]]) -> Metric:
    names = [*samples[0][0]]
    if family.kind == "info":
        info = InfoMetricFamily(family.name.removesuffix("_info"), family.text)
        for labels, _ in samples:
            info.add_metric([], labels)
        return info
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.text, labels=names)
    for labels, value in samples:
        metric.add_metric([labels[name] for name in names], value)
    return metric


def _url(role: str, client: Accumulated) -> str:
    return redact(str(client.total.get("url", role)))


def _of_run(figures: dict[str, Any]) -> Iterator[Sample]:
    for phase in PHASES:
        yield "engine_run_phase", {"phase": phase}, float(figures["phase"] == phase)
    yield "engine_run_updated_time_seconds", {}, figures["at"]
    yield "engine_run_generations_total", {}, figures["generation"]
    yield "engine_run_crashes_total", {}, figures["restarts"]
    yield "engine_run_refusals_total", {}, figures["refusals"]


def _of_documents(figures: dict[str, Any], reader: Message, clients: list[Message]) -> Iterator[Sample]:
    yield "engine_documents_read_total", {}, reader.get("rows_read", 0)
    yield "engine_documents_embedded_total", {}, sum(client.get("rows", 0) for client in clients)
    deduplicated = sum(client.get("saved_by_dedup", 0) for client in clients)
    yield "engine_documents_deduplicated_total", {}, deduplicated
    totals = figures["totals"]
    yield "engine_documents_committed_total", {}, totals["committed_rows"]
    yield "engine_documents_marked_total", {}, figures["marked_rows"]
    yield "engine_documents_gone_total", {}, totals["gone"]
    yield "engine_documents_truncated_total", {}, totals["truncated"]
    yield "engine_shards_committed_total", {}, totals["shards"]
    yield "engine_shard_bytes_committed_total", {}, totals["bytes"]
    for reason, count in (dict.fromkeys(QUARANTINE_REASONS, 0) | totals["quarantined"]).items():
        yield "engine_documents_quarantined_total", {"reason": reason}, count
    yield "engine_quarantine_documents", {}, figures["quarantined"]
    yield "engine_documents_stored", {}, figures["committed"]
    yield "engine_documents_unmarked", {}, figures["unmarked_rows"]
    yield "engine_documents_open", {}, figures["writer"].get("open_rows", 0)
    if figures["left_at_start"] is not None:
        yield "engine_documents_left", {}, max(0, figures["left_at_start"] - figures["embedded_now"])
    if (left_s := seconds_left({**figures, "rate": figures["rate_of_minutes"]})) is not None:
        yield "engine_eta_seconds", {}, left_s


def _of_stages(
    figures: dict[str, Any], reader: Accumulated, writer: Accumulated, clients: list[Accumulated]
) -> Iterator[Sample]:
    for ring, share in figures["rings"].items():
        yield "engine_ring_fill_ratio", {"ring": ring}, share
    read, written = reader.total, writer.total
    told = [client.total for client in clients]
    for stage, cause, seconds in (
        ("reader", "source", read.get("source_wait_s", 0.0)),
        ("reader", "ring", read.get("ring_wait_s", 0.0)),
        ("clients", "documents", sum(client.get("ring_wait_s", 0.0) for client in told)),
        ("clients", "ring", sum(client.get("vector_wait_s", 0.0) for client in told)),
        ("writer", "vectors", written.get("ring_wait_s", 0.0)),
    ):
        yield "engine_stage_wait_seconds_total", {"stage": stage, "cause": cause}, seconds
    yield "engine_source_pages_total", {}, read.get("pages", 0)
    yield "engine_source_page_seconds_total", {}, read.get("page_s", 0.0)
    yield "engine_mark_seconds_total", {}, figures["mark_s"]
    yield "engine_shards_unmarked", {}, figures["shards"] - figures["marked_shards"]
    yield "engine_shard_bytes_written_total", {}, written.get("bytes", 0)
    yield "engine_writes_total", {}, written.get("writes", 0)
    yield "engine_write_seconds_total", {}, written.get("write_s", 0.0)
    for process, facts in (("supervisor", figures), ("writer", written)):
        yield "engine_fsyncs_total", {"process": process}, facts.get("fsyncs", 0)
        yield "engine_fsync_seconds_total", {"process": process}, facts.get("fsync_s", 0.0)
    for name, key in (
        ("s", "uploads"),
        ("_bytes", "upload_bytes"),
        ("_seconds", "upload_s"),
        ("_retries", "upload_retries"),
    ):
        yield f"engine_upload{name}_total", {}, written.get(key, 0)
    cpu_s = {"reader": read, "writer": written, "supervisor": figures}
    for process, facts in cpu_s.items():
        yield "engine_process_cpu_seconds_total", {"process": process}, facts.get("cpu_s", 0.0)
    clients_s = sum(client.get("cpu_s", 0.0) for client in told)
    yield "engine_process_cpu_seconds_total", {"process": "clients"}, clients_s


def _of_server(url: str, client: Accumulated, error_kinds: Sequence[str]) -> Iterator[Sample]:
    server = {"server": url}
    now, total = client.now, client.total
    state = now.get("breaker", "")
    yield "engine_server_up", server, float(state == "ok")
    for name in STATES:
        yield "engine_server_state", {**server, "state": name}, float(state == name)
    yield "engine_server_requests_in_flight", server, now.get("in_flight", 0)
    yield "engine_server_requests_allowed", server, now.get("window", 0)
    for name, key in (
        ("outages", "outs"),
        ("documents_embedded", "rows"),
        ("tokens", "tokens"),
        ("requests", "requests"),
        ("request_retries", "retries"),
        ("requests_hedged", "hedged"),
        ("overloaded", "rejected_429"),
        ("sent_bytes", "bytes_out"),
        ("received_bytes", "bytes_in"),
    ):
        yield f"engine_server_{name}_total", server, total.get(key, 0)
    for kind, count in (dict.fromkeys(error_kinds, 0) | total.get("errors", {})).items():
        yield "engine_server_errors_total", {**server, "kind": kind}, count
    yield from _of_phases(server, total)


def _of_phases(server: Labels, total: Message) -> Iterator[Sample]:
    told = total.get("server_times", {})
    for phase in ("queue", "tokenization", "inference"):
        yield "engine_server_request_phase_seconds_total", {**server, "phase": phase}, told.get(f"{phase}_s", 0.0)


def _of_gpus(gpus: Sequence[dict[str, Any]]) -> Iterator[Sample]:
    for gpu in gpus:
        labels = {"gpu": str(gpu["index"]), "server": redact(gpu["server"] or "")}
        for name, key, factor in (
            ("utilization_ratio", "utilization", 1),
            ("power_watts", "power_w", 1),
            ("power_limit_watts", "power_limit_w", 1),
            ("clock_hertz", "clock_mhz", 1_000_000),
            ("temperature_celsius", "temperature_c", 1),
            ("memory_used_bytes", "memory_used_bytes", 1),
            ("memory_bytes", "memory_total_bytes", 1),
        ):
            if gpu[key] is not None:
                yield f"engine_gpu_{name}", labels, gpu[key] * factor
        for words, reason in THROTTLES.items():
            yield "engine_gpu_throttled", {**labels, "reason": reason}, float(words in gpu["throttled"])


def _deprecated(figures: dict[str, Any]) -> Iterator[Sample]:
    for name, key in (
        ("embedded_documents", "embedded_now"),
        ("committed_documents", "committed"),
        ("documents_per_second", "rate"),
        ("quarantined_documents", "quarantined"),
        ("shards", "shards"),
        ("restarts", "restarts"),
        ("refusals", "refusals"),
    ):
        yield f"engine_{name}", {}, figures[key]
    for role, facts in figures["clients"].items():
        p95 = LatencyHistogram.from_sparse(facts.get("latency", {})).quantile(0.95) or 0.0
        values = {"documents": facts.get("rows", 0), "latency_p95_seconds": p95}
        values |= {name: facts.get(name, 0) for name in ("in_flight", "window", "retries", "rejected_429")}
        for name, value in values.items():
            yield f"engine_server_{name}", {"server": role}, value
