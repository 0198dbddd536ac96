"""The verdict in words: the knee, the chosen point and its headroom, what limits it, and which flag would help.

Every figure is measured, or follows from measured ones by a formula that its sentence names; none is a rule of thumb.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.tuner.explain.advice import Advice, advise
from bench.tuner.explain.bottleneck import BUSY_QUEUE, Limit, MeasuredServers, limit_of, outside_s
from bench.tuner.measure.visit import Point
from bench.tuner.search.findings import INDIFFERENCE, Findings
from bench.tuner.search.record import Record

_ROUGH = 0.05
"""Half width of a rate's interval, as a share of it, above which a choice is hardly one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What limits the chosen point, where the knee is, which server flags would help; all of it also in words.

    Attributes:
        limit: What limits the chosen (or nearest) point.
        knee: Where more in flight stops to pay, for its batch size.
        advice: Flags that would help.
        sentences: All of it in words.
    """

    limit: Limit
    knee: Point | None
    advice: tuple[Advice, ...]
    sentences: tuple[str, ...]


def judge(findings: Findings, servers: MeasuredServers, target_p95_s: float | None) -> Verdict:
    """Put the findings into words."""
    subject = findings.chosen or (None if findings.ended else findings.best(target_p95_s)) or findings.nearest()
    if subject is None:
        return Verdict(limit=Limit.UNKNOWN, knee=None, advice=(), sentences=("nothing was measured",))
    limit = limit_of(subject, findings, servers, target_p95_s)
    turn = findings.knee(subject.point.batch_size, None)
    advice = tuple(advise(subject, findings, servers, limit, target_p95_s))
    if findings.chosen is None and not findings.ended:
        sentences = [_unfinished(subject)]
    elif findings.chosen is None:
        sentences = _impossible(findings, subject, target_p95_s or 0.0)
    else:
        sentences = [*_choice(findings.chosen, findings, servers, target_p95_s), *_knee(turn, findings)]
    if findings.chosen is not None:
        sentences += _limit(subject, limit)
    sentences += _where_time_goes(subject, findings)
    sentences += _order(findings)
    sentences += [item.sentence for item in advice]
    if findings.chosen is not None and not advice and limit is Limit.INFERENCE:
        sentences.append("No server flag promises more by what was measured: faster GPUs or more of them would.")
    return Verdict(limit=limit, knee=turn.point if turn else None, advice=advice, sentences=tuple(sentences))


def _name(point: Point) -> str:
    return f"batch size {point.batch_size} x concurrency {point.concurrency}"


def _unfinished(best: Record) -> str:
    return (
        f"Stopped before the end, nothing is chosen; the best so far is {_name(best.point)} with "
        f"{best.rate.per_s:,.0f} documents/s and p95 {best.p_s(0.95):.3f} s."
    )


def _choice(chosen: Record, findings: Findings, servers: MeasuredServers, target_p95_s: float | None) -> list[str]:
    rate, p95_s = chosen.rate, chosen.p_s(0.95)
    head = (
        f"Chosen: {_name(chosen.point)} per server: {rate.per_s:,.0f} documents/s ({rate.spread}) with "
        f"p50 {chosen.p_s(0.5):.3f} s, p90 {chosen.p_s(0.9):.3f} s, p95 {p95_s:.3f} s, p99 {chosen.p_s(0.99):.3f} s, "
        f"max {chosen.p_s(1.0):.3f} s."
    )
    sentences = [head]
    best = max(findings.within(target_p95_s), key=lambda record: record.rate.per_s)
    behind = 1 - rate.per_s / best.rate.per_s
    if behind > INDIFFERENCE and not best.repeats:
        sentences.append(
            f"{_name(best.point)} measured {behind:.1%} more in a single visit, which there was no time to repeat."
        )
    elif best is not chosen and behind >= 0.0005:  # what is printed as 0.1%
        longer = best.p_s(0.95) / p95_s - 1
        sentences.append(
            f"{_name(best.point)} measured {behind:.1%} more, which is no difference worth {longer:+.0%} of latency."
        )
    if rate.relative > _ROUGH:
        sentences.append("That is a rough figure, the visits were too short for a finer one: give more --seconds.")
    in_flight = chosen.point.texts_in_flight
    permits = servers.least("max_concurrent_requests")
    headroom = []
    if target_p95_s is not None:
        headroom.append(f"p95 is {1 - p95_s / target_p95_s:.0%} under the target of {target_p95_s:g} s")
    if permits is not None:
        headroom.append(f"{in_flight} of the {permits} texts that a server admits are in flight")
    if headroom:
        sentences.append(f"Headroom: {', '.join(headroom)}.")
    return sentences


def _knee(turn: Record | None, findings: Findings) -> list[str]:
    if turn is None:
        return []
    beyond = [r for r in findings.of_size(turn.point.batch_size) if r.point.concurrency > turn.point.concurrency]
    beyond = [record for record in beyond if record.works]
    if not beyond:
        return [f"Knee: not reached; throughput still grew up to {_name(turn.point)}."]
    last = beyond[-1]
    return [
        f"Knee: {_name(turn.point)}; {last.point.concurrency / turn.point.concurrency:.1f} times as many in flight "
        f"brought {last.rate.per_s / turn.rate.per_s - 1:+.1%} throughput and "
        f"{last.p_s(0.95) / turn.p_s(0.95) - 1:+.0%} p95."
    ]


def _limit(record: Record, limit: Limit) -> list[str]:
    split = record.split
    busy = split.queue_s >= BUSY_QUEUE * split.inference_s
    words = {
        Limit.CLIENT: f"this client: it used {record.client_cpu:.0%} of a core, so the servers may do more than shown",
        Limit.TOKENISER: "the servers' tokenizers: texts wait for them, the GPU waits for texts",
        Limit.INFERENCE: "inference: GPU batches follow each other without a gap"
        if busy
        else "inference: it takes most of a request's time, and more in flight did not bring more",
        Limit.PERMITS: "--max-concurrent-requests: no more texts may be in flight, and the GPU still has gaps",
        Limit.NETWORK: "the way to the servers: requests spend most of their time outside of them",
        Limit.TARGET: "the target: more in flight would bring more throughput, and more latency",
        Limit.UNKNOWN: "unknown: the servers do not say where their time goes",
    }
    return [f"Limit: {words[limit]}."]


def _where_time_goes(record: Record, findings: Findings) -> list[str]:
    sentences = []
    split, latency_s = record.split, record.mean_latency_s
    if split.known and latency_s > 0:
        sentences.append(
            f"Of a mean latency of {latency_s:.3f} s a text was tokenised for {split.tokenization_s / latency_s:.0%}, "
            f"queued for {split.queue_s / latency_s:.0%}, in inference for {split.inference_s / latency_s:.0%}; "
            + _rest(record)
        )
    floor = findings.floor
    if floor is not None and len(floor.latencies_s):
        sentences.append(
            f"Latency floor, {_name(floor.point)}: p50 {floor.p_s(0.5):.3f} s, p95 {floor.p_s(0.95):.3f} s"
            + (f", of which {outside_s(floor):.3f} s outside the servers." if floor.split.known else ".")
        )
    return sentences


def _rest(record: Record) -> str:
    """Where the remainder of a latency went, as far as the servers say."""
    cpu = f"client CPU {record.client_cpu:.0%} of a core"
    if not record.split.total_s:
        return f"the rest is the slowest text of its request, network and client ({cpu})."
    outside = outside_s(record) / record.mean_latency_s
    return f"network and client took {outside:.0%} ({cpu}), waiting for the slowest text of a request the rest."


def _order(findings: Findings) -> list[str]:
    gain = findings.sorting_gain
    if gain is None:
        return []
    if findings.bucketing:
        return [
            f"Bucketing: on; a request of texts of any length took {gain:.2f} times as long as one of like lengths, so "
            "the servers pad."
        ]
    return [
        f"Bucketing: off; requests of like lengths were no faster (factor {gain:.2f}), and unsorted texts keep "
        "latencies even."
    ]


def _impossible(findings: Findings, closest: Record, target_p95_s: float) -> list[str]:
    """No point holds the target: how near one came, and what would have to change."""
    p95_s = closest.p_s(0.95)
    sentences = [
        f"No operating point holds p95 <= {target_p95_s:g} s.",
        f"Nearest: {_name(closest.point)} with p95 {p95_s:.3f} s and {closest.rate.per_s:,.0f} documents/s, "
        f"{p95_s / target_p95_s:.1f} times the target.",
    ]
    start_s, slope_s = _latency_line(findings)
    smallest = min(point.batch_size for point in findings.records)
    fitting = math.floor((target_p95_s - start_s) / slope_s) if slope_s > 0 else 0
    if 1 <= fitting < smallest:
        sentences.append(
            f"Needed: smaller requests. One alone takes {start_s:.3f} s and {slope_s:.4f} s for each text (line "
            f"through the p95 of all batch sizes at concurrency 1): try --batch-sizes {fitting}."
        )
    else:
        sentences.append(
            f"Needed: servers {p95_s / target_p95_s:.1f} times as fast for texts of these lengths (shorter texts, a "
            f"smaller model, a faster GPU), or a target of at least {_rounded_up(p95_s):g} s."
        )
    return sentences


def _latency_line(findings: Findings) -> tuple[float, float]:
    """p95 at concurrency 1 as a line over the batch size; through the origin when there is only one."""
    alone = [record for record in findings.within(None) if record.point.concurrency == 1]
    sizes = np.array([record.point.batch_size for record in alone], dtype=np.float64)
    p95s = np.array([record.p_s(0.95) for record in alone])
    if len(alone) >= 2:
        slope_s, start_s = np.polyfit(sizes, p95s, 1)
        if start_s >= 0 and slope_s > 0:
            return float(start_s), float(slope_s)
    return 0.0, float((p95s / sizes).max()) if alone else 0.0


def _rounded_up(value: float) -> float:
    """Two significant digits, upward."""
    if value <= 0:
        return value
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / digit) * digit, 9)
