"""Advice: server flags that would help, and by how much, as far as that follows from what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.tuner.explain.bottleneck import WORTH_SAYING, Limit, MeasuredServers
from bench.tuner.measure.statistics import Numbers
from bench.tuner.search.findings import Findings, is_full
from bench.tuner.search.record import Record

_LIKE_SERVERS = 0.15
_ENOUGH_REQUESTS = 20
_FITS = 0.8
"""Share of a GPU batch up to which a request certainly is in one: its tokens are estimated from its characters."""
_DRAWN_OUT = 4
"""How many times larger than the largest single request a GPU batch may be for the line to be believed."""
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
    """Twice the tokens of a GPU batch: the part of its time that does not depend on them is paid half as often.

    What a token costs is the slope through single requests of different length, each alone at its server. What is
    left of a full GPU batch's time does not depend on its tokens.
    """
    limit_tokens = servers.least("max_batch_tokens")
    if limit_tokens is None or not record.tokens_exact or not is_full(record) or not _are_alike(record):
        return None
    batch_s = record.split.inference_s
    now = findings.tokens_per_s(record) / servers.n_servers * batch_s
    alone = _single_requests(findings, limit_tokens)
    if len(alone) < _ENOUGH_REQUESTS or not _spans(alone[:, 0], now):
        return None
    slope_s = float(np.polyfit(alone[:, 0], alone[:, 1], 1)[0])
    fixed_s = batch_s - slope_s * now
    if fixed_s <= 0 or slope_s <= 0:
        return None
    gain = 2 * batch_s / (fixed_s + 2 * slope_s * now) - 1
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
            f"a token costs {slope_s * 1e6:.1f} us (line through {len(alone)} single requests); of the "
            f"{batch_s * 1000:.0f} ms that a GPU batch of about {now:,.0f} tokens takes, {fixed_s * 1000:.1f} ms do "
            f"not depend on its tokens{condition}; the GPU's memory has to allow it"
        ),
    )


def _are_alike(record: Record) -> bool:
    """Whether all servers do about as much, so that a mean says something about each."""
    texts = np.sum([visit.texts_by_server for visit in record.counted], axis=0)
    return bool(len(texts)) and float(texts.max()) <= (1 + _LIKE_SERVERS) * float(texts.mean())


def _single_requests(findings: Findings, limit_tokens: int) -> Numbers:
    """Tokens and latency of every request that was alone at its server and fits into a GPU batch, float64 (n, 2)."""
    found = [np.empty((0, 2))]
    for point, record in findings.records.items():
        if point.concurrency == 1 and record.characters_per_token:
            for visit in record.counted:
                pairs = np.column_stack([visit.characters / record.characters_per_token, visit.latencies_s])
                found.append(pairs[pairs[:, 0] <= _FITS * limit_tokens])
    return np.concatenate(found)


def _spans(tokens: Numbers, now: float) -> bool:
    """Whether a line through these is more than noise, and need not be drawn out far to full GPU batches."""
    low, high = np.quantile(tokens, (0.05, 0.95))
    return bool(high >= 2 * low and high >= now / _DRAWN_OUT)
