"""The report: the outcome of a tuning as text and as JSON."""

from __future__ import annotations

import math
from typing import Any

from bench.tuner.measure.visit import Point, StopReason
from bench.tuner.report.curve import draw
from bench.tuner.search.findings import Findings
from bench.tuner.search.record import Record
from bench.tuner.search.survey import ROUNDS
from bench.tuner.tuning import Outcome

COLUMNS = ("Batch Size", "Concurrency", "Docs/s", "Tok/s", "p50 (s)", "p95 (s)", "Errors", "Total Time (s)")

_REMARKS = {
    StopReason.GROWS: "left early: more in flight brings more",
    StopReason.SLOWER: "left early: slower than the best",
    StopReason.OVER_TARGET: "left early: over the target",
    StopReason.REFUSED: "left early: the server answered 429",
    StopReason.FAILING: "left early: requests fail",
}


def as_text(outcome: Outcome) -> str:
    """Table, curve and verdict."""
    findings, plan = outcome.findings, outcome.plan
    lines = table(outcome)
    curve = draw(list(findings.records.values()), findings.chosen, plan.tune.target_p95_s)
    if curve:
        lines += ["", *curve]
    lines += ["", *outcome.verdict.sentences]
    lines += [f"Note: {note}." for note in notes(outcome)]
    return "\n".join(lines)


def table(outcome: Outcome) -> list[str]:
    """A line for each point, by batch size and concurrency; the chosen one is marked."""
    findings = outcome.findings
    rows = [[*cells(record, findings), remark(record, outcome)] for _, record in sorted(findings.records.items())]
    widths = [max(len(name), *(len(row[at]) for row in rows)) if rows else len(name) for at, name in enumerate(COLUMNS)]
    lines = ["  ".join(name.rjust(width) for name, width in zip(COLUMNS, widths, strict=True))]
    for *figures, said in rows:
        line = "  ".join(cell.rjust(width) for cell, width in zip(figures, widths, strict=True))
        lines.append(f"{line}  {said}".rstrip())
    return lines


def cells(record: Record, findings: Findings) -> list[str]:
    """The figures of a point, one for each of `COLUMNS`."""
    p50_s, p95_s = record.p_s(0.5), record.p_s(0.95)
    return [
        str(record.point.batch_size),
        str(record.point.concurrency),
        f"{record.rate.per_s:,.1f}",
        ("" if record.tokens_exact else "~") + f"{findings.tokens_per_s(record):,.0f}",
        f"{p50_s:.3f}" if _finite(p50_s) is not None else "-",
        f"{p95_s:.3f}" if _finite(p95_s) is not None else "-",
        str(record.errors.total()),
        f"{record.total_s:.1f}",
    ]


def remark(record: Record, outcome: Outcome) -> str:
    """What a point came to, in words: `<- chosen`, why it was left early, or nothing."""
    if record is outcome.findings.chosen:
        return "<- chosen"
    target_s = outcome.plan.tune.target_p95_s
    early = _REMARKS.get(record.counted[-1].stop_reason)
    if early is None and record.works and not record.holds(target_s):
        early = "over the target"
    if outcome.findings.ended and outcome.findings.chosen is None and record is outcome.findings.nearest():
        return f"<- nearest ({early})" if early else "<- nearest"
    return early or ""


def notes(outcome: Outcome) -> list[str]:
    """What else one has to know to read the figures."""
    findings, corpus = outcome.findings, outcome.corpus
    found = [
        f"{len(findings.records)} points in {findings.seconds:.0f} s (seed {outcome.plan.tune.seed}); the full grid of "
        f"{outcome.grid_points} points, {ROUNDS} rounds of {outcome.plan.tune.seconds:g} s each, would take "
        f"{outcome.grid_seconds:.0f} s",
        f"{corpus.n_texts:,} texts, {corpus.lengths.mean():.0f} characters and "
        f"{'about ' if findings.tokens_estimated else ''}{outcome.tokens_per_text:.0f} tokens on average",
    ]
    if findings.tokens_estimated:
        found.append(
            "the servers do not count tokens: Tok/s is estimated at "
            f"{findings.characters_per_token:g} characters a token"
        )
    if corpus.n_unusable:
        found.append(
            f"{corpus.n_unusable:,} texts left out: empty or no valid Unicode; a run puts them into quarantine"
        )
    if away := [report.url for report in outcome.fleet.servers if report.facts is None]:
        found.append(
            f"{', '.join(away)} left out: no answer; {len(outcome.fleet.servers) - len(away)} of "
            f"{len(outcome.fleet.servers)} servers were measured"
        )
    return [*found, *outcome.limits.notes, *findings.notes]


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """The outcome for a program."""
    findings, verdict, plan = outcome.findings, outcome.verdict, outcome.plan
    chosen = findings.chosen
    return {
        "chosen": _point(chosen, outcome) if chosen is not None else None,
        "held": chosen is not None,
        "target_p95": plan.tune.target_p95_s,
        "bucketing": "on" if findings.bucketing else "off",
        "sorting_gain": findings.sorting_gain,
        "max_concurrency": findings.ceiling if chosen is not None else None,
        "knee": _place(verdict.knee),
        "floor": _point(findings.floor, outcome) if findings.floor is not None else None,
        "nearest": _point(nearest, outcome) if (nearest := findings.nearest()) is not None else None,
        "limit": verdict.limit.value,
        "advice": [
            {"flag": advice.flag, "value": advice.value, "gain": round(advice.gain, 4), "why": advice.why}
            for advice in verdict.advice
        ],
        "verdict": list(verdict.sentences),
        "notes": notes(outcome),
        "points": [_point(record, outcome) for _, record in sorted(findings.records.items())],
        "seed": plan.tune.seed,
        "seconds": round(findings.seconds, 2),
        "grid_points": outcome.grid_points,
        "grid_seconds": outcome.grid_seconds,
        "texts": {
            "usable": outcome.corpus.n_texts,
            "unusable": outcome.corpus.n_unusable,
            "tokens_per_text": round(outcome.tokens_per_text, 2),
            "tokens_estimated": findings.tokens_estimated,
        },
        "fingerprint": outcome.fleet.fingerprint.as_dict(),
        "servers": [report.url for report in outcome.fleet.servers if report.reachable],
        "ended": findings.ended,
    }


def _place(point: Point | None) -> dict[str, int] | None:
    return {"batch_size": point.batch_size, "concurrency": point.concurrency} if point is not None else None


def _point(record: Record, outcome: Outcome) -> dict[str, Any]:
    split, rate = record.split, record.rate
    shares = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {
        "batch_size": record.point.batch_size,
        "concurrency": record.point.concurrency,
        "docs_per_second": round(rate.per_s, 2),
        "docs_per_second_half_width": _finite(rate.half_width),
        "tokens_per_second": round(outcome.findings.tokens_per_s(record), 1),
        "tokens_exact": record.tokens_exact,
        "latency": {name: _finite(record.p_s(share)) for name, share in shares.items()},
        "requests": len(record.latencies_s),
        "errors": dict(record.errors),
        "total_seconds": round(record.total_s, 2),
        "server_times": {
            "tokenization_s": split.tokenization_s,
            "queue_s": split.queue_s,
            "inference_s": split.inference_s,
        },
        "client_cpu": round(record.client_cpu, 4),
        "visits": len(record.visits),
        "repeats": len(record.repeats),
        "ended": record.counted[-1].stop_reason.value,
    }


def _finite(value: float) -> float | None:
    """A figure for JSON, which knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None
