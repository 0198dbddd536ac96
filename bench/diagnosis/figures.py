"""The figures of a stretch: what every stage and every server did in it, as ratios that can be compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from bench.recording.recording import Recording

NAN = math.nan


def ratio(over: float, under: float) -> float:
    """A quotient, NaN where it has no meaning."""
    return over / under if under > 0 and math.isfinite(over) else NAN


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFigures:
    """One server in a stretch.

    Attributes:
        rows_s, tokens_s: Documents and tokens a second.
        up: Share of the time in which it was in service; NaN when nobody said.
        window, in_flight: Requests, on average.
        p50, p95: Seconds of latency.
        inference: Its own inference seconds a thousand tokens.
        queue, tokenization, work, network: Seconds an answer; what neither the server's queue nor its work explains
            is network.
        latency: Seconds an answer.
        rejected, failed: Of its requests, the share answered 429, or repeated or failed.
        outs: How often it was taken out.
        starved, held: Shares of the time without documents, and without room for answers.
        cpu: Processors that its client used.
    """

    rows_s: float
    tokens_s: float
    up: float
    window: float
    in_flight: float
    p50: float
    p95: float
    inference: float
    queue: float
    tokenization: float
    work: float
    network: float
    latency: float
    rejected: float
    failed: float
    outs: float
    starved: float
    held: float
    cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A stretch of a run.

    Attributes:
        seconds: How long it is.
        rows_s, tokens_s: Documents and tokens a second.
        tokens: Tokens a document; characters when no server counts tokens.
        characters: Characters a document, as they were read.
        servers: By URL.
        values: The other figures by name (docs/report.md); NaN where nothing was recorded.
    """

    seconds: float
    rows_s: float
    tokens_s: float
    tokens: float
    characters: float
    servers: dict[str, ServerFigures] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.values.get(name, NAN)


class Summing:
    """Sums and means over the samples of a stretch."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.seconds = float(recording.seconds.sum())

    def total(self, name: str) -> float:
        """What a count came to."""
        return float(self._recording.column(name).sum(dtype=np.float64))

    def rate(self, name: str) -> float:
        """A count a second."""
        return ratio(self.total(name), self.seconds)

    def mean(self, name: str) -> float:
        """The mean of a level over the samples that have it."""
        values = self._recording.columns.get(name)
        if values is None:
            return NAN
        there = np.isfinite(values)
        weights = self._recording.seconds[there]
        return float(np.average(values[there], weights=weights)) if weights.sum() > 0 else NAN


def figures_of(recording: Recording, cores: float) -> Figures:
    """The figures of a recording, or of a part of one.

    Args:
        cores: Processors of the machine.
    """
    sums = Summing(recording)
    servers = {url: _server(sums, f"server-{index}.") for index, url in enumerate(recording.servers)}
    servers = {url: facts for url, facts in servers.items() if math.isfinite(facts.up) or facts.rows_s > 0}
    rows = sum(sums.total(f"server-{index}.rows") for index in range(len(recording.servers)))
    tokens = sum(sums.total(f"server-{index}.tokens") for index in range(len(recording.servers)))
    own = sum(sums.rate(f"{role}.cpu_s") for role in ("reader", "writer", "supervisor"))
    own += sum(server.cpu for server in servers.values())
    busy = sums.mean("machine.cpu_busy") * cores
    n_servers = max(1, len(servers))
    values = {
        "starved": sum(server.starved for server in servers.values()) / n_servers,
        "held": sum(server.held for server in servers.values()) / n_servers,
        "documents_ready": sums.mean("ring.documents_ready"),
        "vectors_busy": sums.mean("ring.vectors_busy"),
        "source_wait": sums.rate("reader.source_wait_s"),
        "reader_wait": sums.rate("reader.ring_wait_s"),
        "page": ratio(sums.total("reader.page_s"), sums.total("reader.pages")),
        "page_row": 1000 * ratio(sums.total("reader.page_s"), sums.total("reader.rows_read")),
        "fetching": sums.rate("reader.page_s"),
        "paused": sums.mean("reader.paused"),
        "marking": sums.rate("marks.seconds"),
        "mark_row": 1000 * ratio(sums.total("marks.seconds"), sums.total("marks.rows")),
        "unmarked": sums.mean("unmarked_rows"),
        "cold_write": ratio(sums.total("writer.write_s"), sums.total("writer.bytes") / (1 << 20)),
        "cold_fsync": ratio(sums.total("writer.fsync_s"), sums.total("writer.fsyncs")),
        "cold_io": sums.rate("writer.write_s") + sums.rate("writer.fsync_s"),
        "upload": ratio(sums.total("writer.upload_s"), sums.total("writer.upload_bytes") / (1 << 20)),
        "uploading": sums.rate("writer.upload_s"),
        "sealing": sums.mean("writer.sealing"),
        "hot_fsync": ratio(sums.total("hot.fsync_s"), sums.total("hot.fsyncs")),
        "hot_io": sums.rate("hot.fsync_s"),
        "reader_cpu": sums.rate("reader.cpu_s"),
        "writer_cpu": sums.rate("writer.cpu_s"),
        "supervisor_cpu": sums.rate("supervisor.cpu_s"),
        "client_cpu": max((server.cpu for server in servers.values()), default=NAN),
        "own_cores": own,
        "other_cores": busy - own,
        "cpu_busy": sums.mean("machine.cpu_busy"),
        "load": sums.mean("machine.load"),
        "io_wait": sums.mean("machine.io_wait"),
        "pressure_cpu": sums.mean("machine.pressure_cpu"),
        "pressure_io": sums.mean("machine.pressure_io"),
        "pressure_memory": sums.mean("machine.pressure_memory"),
        "memory_free": sums.mean("machine.memory_free"),
        "hot_free": sums.mean("hot.free"),
        "cold_free": sums.mean("cold.free"),
        "restarts": sums.total("restarts"),
    }
    for name in recording.columns:
        if name.startswith("gpu-"):
            values[name] = sums.mean(name)
    return Figures(
        seconds=sums.seconds,
        rows_s=sums.rate("rows"),
        tokens_s=ratio(tokens, sums.seconds),
        tokens=ratio(tokens, rows),
        characters=ratio(sums.total("reader.characters"), sums.total("reader.rows_read")),
        servers=servers,
        values=values,
    )


def _server(sums: Summing, prefix: str) -> ServerFigures:
    answers, requests = sums.total(f"{prefix}answers"), sums.total(f"{prefix}requests")
    tokens = sums.total(f"{prefix}tokens")
    queue, tokenization, inference, latency = (
        sums.total(f"{prefix}{name}") for name in ("queue_s", "tokenization_s", "inference_s", "latency_s")
    )
    return ServerFigures(
        rows_s=sums.rate(f"{prefix}rows"),
        tokens_s=sums.rate(f"{prefix}tokens"),
        up=sums.mean(f"{prefix}up"),
        window=sums.mean(f"{prefix}window"),
        in_flight=sums.mean(f"{prefix}in_flight"),
        p50=sums.mean(f"{prefix}p50"),
        p95=sums.mean(f"{prefix}p95"),
        inference=1000 * ratio(inference, tokens),
        queue=ratio(queue, answers),
        tokenization=ratio(tokenization, answers),
        work=ratio(inference, answers),
        network=ratio(max(0.0, latency - queue - tokenization - inference), answers),
        latency=ratio(latency, answers),
        rejected=ratio(sums.total(f"{prefix}rejected_429"), requests),
        failed=ratio(sums.total(f"{prefix}retries"), requests),
        outs=sums.total(f"{prefix}outs"),
        starved=sums.rate(f"{prefix}ring_wait_s"),
        held=sums.rate(f"{prefix}vector_wait_s"),
        cpu=sums.rate(f"{prefix}cpu_s"),
    )
