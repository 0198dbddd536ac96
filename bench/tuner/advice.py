"""Server flags that would help, and by how much, as far as that follows from what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.tuner.bottleneck import WORTH_SAYING, Limit, MeasuredServers
from bench.tuner.findings import Findings, is_full
from bench.tuner.record import Record
from bench.tuner.statistics import Numbers

_LIKE_SERVERS = 0.15
_WITHOUT_GAPS = 0.8
"""GPU batches that a text waits for when GPU batches follow each other without a gap."""
_DIFFERENT_FILLS = 1.25
_PRECISE = 0.1
_FULL_WAITING = 2.25
"""GPU batches in flight that keep a GPU's batches full: one worked on, one cut, some of the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A server flag that would help.

    Attributes:
        flag: Its name.
        value: What to set it to, None for "more than now".
        gain: Throughput gained, as a share.
        why: How that follows from what was measured.
    """

    flag: str
    value: int | None
    gain: float
    why: str

    @property
    def sentence(self) -> str:
        """It in words."""
        value = f" {self.value}" if self.value is not None else ""
        return f"{self.flag}{value} would bring about {self.gain:+.0%}: {self.why}."


def advise(
    record: Record, findings: Findings, servers: MeasuredServers, limit: Limit, target_p95_s: float | None
) -> list[Advice]:
    """The flags that promise a gain worth saying, for the point at hand."""
    found: list[Advice | None] = []
    if limit is Limit.TOKENISER:
        found.append(_more_tokenizers(record, findings, servers))
    if limit in (Limit.PERMITS, Limit.INFERENCE):
        found.append(_more_permits(record, findings, servers))
    room = target_p95_s is None or 2 * record.p_s(0.95) <= target_p95_s
    if limit is Limit.INFERENCE and room:
        found.append(_larger_gpu_batches(record, findings, servers))
    return [advice for advice in found if advice is not None and advice.gain >= WORTH_SAYING]


def _more_tokenizers(record: Record, findings: Findings, servers: MeasuredServers) -> Advice | None:
    """Twice the workers: at most twice as much, and at most what the GPUs were seen to do alone."""
    alone = [other for other in findings.within(None) if other.point.concurrency == 1 and other.split.inference_s > 0]
    if not alone:
        return None
    largest = max(alone, key=lambda other: other.point.batch_size)
    gpus_per_s = servers.n_servers * largest.point.batch_size / largest.split.inference_s
    workers = servers.least("tokenization_workers")
    return Advice(
        flag="--tokenization-workers",
        value=2 * workers if workers is not None else None,
        gain=min(2.0, gpus_per_s / record.rate.per_s) - 1,
        why=(
            f"at most; a text is tokenised for {record.split.tokenization_s:.3f} s and in inference for "
            f"{record.split.inference_s:.3f} s, and the GPUs alone would do {gpus_per_s:,.0f} documents/s "
            f"({largest.point.batch_size} texts in {largest.split.inference_s:.3f} s)"
        ),
    )


def _more_permits(record: Record, findings: Findings, servers: MeasuredServers) -> Advice | None:
    """Twice as many texts in flight, continued from the last two points on 1/rate = a/in_flight + b."""
    size = record.point.batch_size
    permits = servers.least("max_concurrent_requests")
    tried = [other for other in findings.of_size(size) if other.works and other.rate.relative < _PRECISE]
    at_the_edge = (
        size in servers.limits.by_permits
        and bool(tried)
        and tried[-1].point.concurrency >= (servers.limits.ceilings[size])
    )
    if permits is None or not at_the_edge or len(tried) < 2 or is_full(tried[-1]):
        return None
    before, last = tried[-2], tried[-1]
    inverse_before, inverse_last = 1 / before.rate.per_s, 1 / last.rate.per_s
    few, many = before.point.texts_in_flight, last.point.texts_in_flight
    wait_s = (inverse_before - inverse_last) / (1 / few - 1 / many)
    least_s = inverse_last - wait_s / many
    if wait_s <= 0 or least_s <= 0:
        return None
    doubled_per_s = 1 / (wait_s / (2 * many) + least_s)
    return Advice(
        flag="--max-concurrent-requests",
        value=2 * permits,
        gain=doubled_per_s / record.rate.per_s - 1,
        why=(
            f"throughput still grew from {few} to {many} texts in flight ({before.rate.per_s:,.0f} to "
            f"{last.rate.per_s:,.0f} documents/s); continued on 1/rate = a/in_flight + b"
        ),
    )


def _larger_gpu_batches(record: Record, findings: Findings, servers: MeasuredServers) -> Advice | None:
    """Twice the tokens of a GPU batch: the part of its time that does not depend on them is paid half as often."""
    limit_tokens = servers.least("max_batch_tokens")
    if limit_tokens is None or not is_full(record) or not _are_alike(record):
        return None
    tokens, seconds = _gpu_batches(findings, servers.n_servers)
    if len(tokens) < 3 or tokens.max() < _DIFFERENT_FILLS * tokens.min():
        return None
    slope_s, fixed_s = (float(value) for value in np.polyfit(tokens, seconds, 1))
    if fixed_s <= 0 or slope_s <= 0:
        return None
    now = _gpu_batch_tokens(findings, record, servers.n_servers)
    gain = 2 * (fixed_s + slope_s * now) / (fixed_s + 2 * slope_s * now) - 1
    texts = math.ceil(2 * _FULL_WAITING * now * record.rate.per_s / findings.tokens_per_s(record))
    permits = servers.least("max_concurrent_requests")
    condition = ""
    if permits is not None and texts > permits:
        condition = f", with --max-concurrent-requests {texts} to fill them"
    return Advice(
        flag="--max-batch-tokens",
        value=2 * limit_tokens,
        gain=gain,
        why=(
            f"a GPU batch takes {fixed_s * 1000:.1f} ms whatever it holds and {slope_s * 1e6:.1f} us a token (line "
            f"through {len(tokens)} points), and now holds about {now:,.0f} tokens{condition}; the GPU's memory has to "
            "allow it"
        ),
    )


def _are_alike(record: Record) -> bool:
    """Whether all servers do about as much, so that a mean says something about each."""
    texts = np.sum([visit.texts_by_server for visit in record.counted], axis=0)
    return bool(len(texts)) and float(texts.max()) <= (1 + _LIKE_SERVERS) * float(texts.mean())


def _gpu_batch_tokens(findings: Findings, record: Record, n_servers: int) -> float:
    """Tokens of a GPU batch of a busy server: what it does in the time that a batch takes."""
    return findings.tokens_per_s(record) / n_servers * record.split.inference_s


def _gpu_batches(findings: Findings, n_servers: int) -> tuple[Numbers, Numbers]:
    """Tokens and seconds of the GPU batches at every point at which the GPUs were busy and tokens were counted.

    With one or two requests in flight a server makes two GPU batches of unlike size from each of them, of which a mean
    says nothing.
    """
    busy = [
        record
        for record in findings.within(None)
        if record.tokens_exact
        and record.point.concurrency > 2
        and record.rate.relative < _PRECISE
        and record.split.inference_s > 0
        and record.split.queue_s >= _WITHOUT_GAPS * record.split.inference_s
    ]
    tokens = np.array([_gpu_batch_tokens(findings, record, n_servers) for record in busy])
    return tokens, np.array([record.split.inference_s for record in busy])
