"""Two tuned fleets side by side: rates, latencies, and how well their vectors agree."""

from __future__ import annotations

import dataclasses
from typing import Any

from bench.tuner.report import report
from bench.tuner.report.agreement import Agreement
from bench.tuner.search.record import Record
from bench.tuner.tuning import Outcome
from gpu_clients.vectors.soundness import MIN_COSINE

_LIKE = 0.05
"""Rates that differ by less are called alike."""


def as_text(one: Outcome, other: Outcome, agreement: Agreement | None) -> str:
    """Both reports, the table, and what to conclude from it."""
    lines = [
        f"--tei-urls, {_what(one)}",
        report.as_text(one),
        "",
        f"--against, {_what(other)}",
        report.as_text(other),
        "",
    ]
    rows = [("", "--tei-urls", "--against"), *rows_of(one, other)]
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", *conclusions(one, other, agreement)]
    return "\n".join(lines)


def as_dict(one: Outcome, other: Outcome, agreement: Agreement | None) -> dict[str, Any]:
    """What `--against` adds to the outcome for a program."""
    return {
        "against": report.as_dict(other),
        "ratio": _ratio(one, other),
        "agreement": None if agreement is None else dataclasses.asdict(agreement),
        "conclusions": conclusions(one, other, agreement),
    }


def conclusions(one: Outcome, other: Outcome, agreement: Agreement | None) -> list[str]:
    """What the figures say, in sentences."""
    sentences = []
    ratio = _ratio(one, other)
    if ratio is None:
        sentences.append("No rates to compare: one of the fleets has no operating point.")
    elif abs(ratio - 1) < _LIKE:
        sentences.append(f"Both do about as much: --against {ratio:.2f} times the documents of --tei-urls.")
    else:
        better, times = ("--against", ratio) if ratio > 1 else ("--tei-urls", 1 / ratio)
        sentences.append(f"{better} does {times:.2f} times the documents a second of the other.")
    if agreement is None:
        return sentences
    if agreement.lowest_cosine is None or agreement.mean_cosine is None:
        sentences.append(
            f"Their vectors have unlike dimensions ({agreement.dims[0]} and {agreement.dims[1]}): no cosines."
        )
    else:
        sentences.append(
            f"Their vectors of {agreement.n_texts:,} texts agree to cosine {agreement.lowest_cosine:.5f} at least, "
            f"{agreement.mean_cosine:.5f} on average."
        )
    sentences.append(
        f"Of a text's {agreement.n_neighbours} nearest among them {agreement.overlap:.1%} are the same by both."
    )
    if agreement.lowest_cosine is None or agreement.lowest_cosine < MIN_COSINE:
        sentences.append(
            f"One data set takes one of them only: below cosine {MIN_COSINE} a run refuses to go on with the other."
        )
    return sentences


def _what(outcome: Outcome) -> str:
    fingerprint = outcome.fleet.fingerprint
    software = next((s.facts.software or s.facts.kind for s in outcome.fleet.servers if s.facts is not None), "")
    parts = (software, fingerprint.server_version, fingerprint.model_id, fingerprint.dtype)
    return " ".join(part for part in parts if part)


def rows_of(one: Outcome, other: Outcome) -> list[tuple[str, str, str]]:
    """The figures of both, a name and two cells each."""
    pairs = [(outcome, outcome.findings.chosen) for outcome in (one, other)]

    def row(name: str, *cells: str) -> tuple[str, str, str]:
        return name, cells[0], cells[1]

    def figures(name: str, figure: Any) -> tuple[str, str, str]:
        return row(name, *("-" if chosen is None else figure(outcome, chosen) for outcome, chosen in pairs))

    def at(_: Outcome, chosen: Record) -> str:
        return f"{chosen.point.batch_size} x {chosen.point.concurrency}"

    def tokens(outcome: Outcome, chosen: Record) -> str:
        return ("" if chosen.tokens_exact else "~") + f"{outcome.findings.tokens_per_s(chosen):,.0f}"

    return [
        row("servers", *(str(sum(server.reachable for server in outcome.fleet.servers)) for outcome, _ in pairs)),
        row("model", *(_what(outcome) for outcome, _ in pairs)),
        figures("batch size x concurrency", at),
        figures("documents/s", lambda _, chosen: f"{chosen.rate.per_s:,.1f}"),
        figures("tokens/s (~: estimated)", tokens),
        figures("p50 (s)", lambda _, chosen: f"{chosen.p_s(0.5):.3f}"),
        figures("p95 (s)", lambda _, chosen: f"{chosen.p_s(0.95):.3f}"),
        row("limit", *(outcome.verdict.limit.value for outcome, _ in pairs)),
    ]


def _ratio(one: Outcome, other: Outcome) -> float | None:
    """Documents a second of the second fleet per one of the first."""
    first, second = one.findings.chosen, other.findings.chosen
    if first is None or second is None or not first.rate.per_s:
        return None
    return round(second.rate.per_s / first.rate.per_s, 4)
