"""The page of a tuning: the choice first, then the curve behind it, where time goes, every point, the reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.page.charts import key, number, share_bar, table
from bench.page.document import cards, document, verdict_box
from bench.page.plane import Axis, Dot, axis_of, plane
from bench.tuner.report.report import COLUMNS, cells, notes, remark
from bench.tuner.search.record import Record
from bench.tuner.tuning import Outcome

_PLACES = (
    ("compared", "compared"),
    ("settings", "server flags"),
    ("curve", "curve"),
    ("where", "where"),
    ("points", "points"),
    ("advice", "advice"),
    ("servers", "servers"),
    ("notes", "notes"),
)
_PARTS = ("tokenization", "queue", "inference", "rest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table that goes before the curve.

    Attributes:
        place: Its `id` on the page.
        title: Above it.
        head, rows: Its cells, as text.
        sentences: Below it.
    """

    place: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    sentences: Sequence[str] = ()


def page(outcome: Outcome, *, other: Outcome | None = None, tables: Sequence[Table] = ()) -> str:
    """The page as HTML that needs nothing else.

    Args:
        other: Of a second fleet, shown behind the first one's.
        tables: What more was found out.
    """
    chosen = outcome.findings.chosen
    parts = [verdict_box(outcome.verdict.sentences[:3], is_bad=chosen is None), cards(list(_facts(outcome)))]
    parts += [_table_section(one) for one in tables]
    parts += _sections(outcome)
    if other is not None:
        parts.append('<h2 id="against">The second fleet</h2>')
        parts.append(verdict_box(other.verdict.sentences[:3], is_bad=other.findings.chosen is None))
        parts.append(cards(list(_facts(other))))
        parts += _sections(other, prefix="against-")
    places = (*_PLACES, ("against", "the second fleet"))
    return document("Tuning", "".join(parts), made_by="engine bench", places=places)


def write_page(path: Path, text: str) -> None:
    """Write a page whole, or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sections(outcome: Outcome, prefix: str = "") -> list[str]:
    return [
        _curve(outcome, prefix),
        _where(outcome, prefix),
        _points(outcome, prefix),
        _reasons(outcome, prefix),
        _servers(outcome, prefix),
        _list("notes", "Notes", notes(outcome), prefix),
    ]


def _heading(place: str, title: str, prefix: str) -> str:
    return f'<h2 id="{prefix}{place}">{escape(title)}</h2>'


def _facts(outcome: Outcome) -> Iterator[tuple[str, str]]:
    findings = outcome.findings
    subject = findings.chosen or findings.nearest()
    if subject is None:
        return
    yield "chosen" if findings.chosen else "nearest", f"{subject.point.batch_size} x {subject.point.concurrency}"
    yield "documents a second", number(subject.rate.per_s)
    yield "tokens a second", ("" if subject.tokens_exact else "about ") + number(findings.tokens_per_s(subject))
    yield "p50", number(subject.p_s(0.5), " s")
    yield "p95", number(subject.p_s(0.95), " s")
    target_s = outcome.plan.tune.target_p95_s
    yield "target of p95", "none" if target_s is None else number(target_s, " s")
    yield "limit", outcome.verdict.limit.value
    yield "servers", str(sum(server.reachable for server in outcome.fleet.servers))


# -- the curve -------------------------------------------------------------------------------------------------


def _shown(outcome: Outcome) -> list[Record]:
    """Points with figures, by batch size and concurrency."""
    records = [record for _, record in sorted(outcome.findings.records.items())]
    return [record for record in records if record.works and record.p_s(0.95) > 0]


def _curve(outcome: Outcome, prefix: str) -> str:
    shown = _shown(outcome)
    head = _heading("curve", "Throughput and latency", prefix)
    if len(shown) < 2:
        return f'<section>{head}<p class="dim">Too few points for a curve.</p></section>'
    target_s = outcome.plan.tune.target_p95_s
    p95s = [record.p_s(0.95) for record in shown] + ([target_s] if target_s is not None else [])
    rates = axis_of("documents a second", [record.rate.per_s for record in shown])
    flights = axis_of("requests in flight per server", [record.point.concurrency for record in shown], is_log=True)
    latency = plane(
        "Latency over throughput",
        _series(outcome, shown, lambda record: (record.rate.per_s, record.p_s(0.95))),
        across=rates,
        up=axis_of("p95 of a request's latency in seconds", p95s, is_log=True),
        limit=None if target_s is None else (target_s, f"dashed: the target, {number(target_s)} s"),
    )
    throughput = plane(
        "Throughput over requests in flight",
        _series(outcome, shown, lambda record: (record.point.concurrency, record.rate.per_s), is_across=False),
        across=flights,
        up=Axis("documents a second", 0.0, rates.high),
    )
    return f"<section>{head}{latency}{throughput}{_knee(outcome)}</section>"


def _series(
    outcome: Outcome, shown: Sequence[Record], place: Callable[[Record], tuple[float, float]], *, is_across: bool = True
) -> list[tuple[str, list[Dot]]]:
    """Points by batch size; their titles have all figures."""
    series = []
    for size in sorted({record.point.batch_size for record in shown}):
        dots = []
        for record in (record for record in shown if record.point.batch_size == size):
            x, y = place(record)
            title = (
                f"batch size {size} x concurrency {record.point.concurrency}: "
                f"{number(record.rate.per_s)} documents/s, p95 {number(record.p_s(0.95))} s"
            )
            half = min(record.rate.half_width, record.rate.per_s) if is_across else 0.0
            dots.append(Dot(x, y, half, title, is_chosen=record is outcome.findings.chosen))
        series.append((f"batch size {size}", dots))
    return series


def _knee(outcome: Outcome) -> str:
    knee = outcome.verdict.knee
    if knee is None:
        return ""
    return f"<p>The knee of batch size {knee.batch_size} is at {knee.concurrency} requests in flight per server.</p>"


# -- the rest --------------------------------------------------------------------------------------------------


def _where(outcome: Outcome, prefix: str) -> str:
    rows = []
    for record in _shown(outcome):
        split = record.split
        rest_s = max(0.0, record.mean_latency_s - split.tokenization_s - split.queue_s - split.inference_s)
        times = (split.tokenization_s, split.queue_s, split.inference_s, rest_s)
        what = f"<span>{record.point.batch_size} x {record.point.concurrency}</span>"
        rows.append([what, share_bar(what, list(zip(_PARTS, times, strict=True))), number(record.mean_latency_s, " s")])
    if not rows or not any(record.split.known for record in _shown(outcome)):
        return ""
    head = ["batch size x concurrency", "parts of a request's time", "seconds a request"]
    shown = table(head, rows, caption="By the servers' own account; the rest is on the way, or not told")
    return f"<section>{_heading('where', 'Where a request spends its time', prefix)}{shown}{key(_PARTS)}</section>"


def _points(outcome: Outcome, prefix: str) -> str:
    rows, chosen = [], []
    for _, record in sorted(outcome.findings.records.items()):
        said = remark(record, outcome)
        rows.append([*cells(record, outcome.findings), f"<span>{escape(said.removeprefix('<- '))}</span>"])
        chosen.append(record is outcome.findings.chosen)
    shown = table([*COLUMNS, "what"], rows, caption="Every point that was measured", chosen=chosen)
    return f"<section>{_heading('points', 'Points', prefix)}{shown}</section>"


def _reasons(outcome: Outcome, prefix: str) -> str:
    said = _list("reasons", "Reasons", outcome.verdict.sentences[3:], prefix)
    advice = outcome.verdict.advice
    if not advice:
        return said
    rows = [
        [
            f"<span>{escape(one.flag)}</span>",
            str(one.value or "more"),
            f"{one.gain:+.0%}",
            f"<span>{escape(one.why)}</span>",
        ]
        for one in advice
    ]
    shown = table(["flag", "value", "documents/s", "why"], rows, caption="What follows from what was measured")
    return f"{said}<section>{_heading('advice', 'Server flags that would help', prefix)}{shown}</section>"


def _servers(outcome: Outcome, prefix: str) -> str:
    rows = []
    for server in outcome.fleet.servers:
        known = server.facts
        software = "no answer" if known is None else f"{known.software or known.kind} {known.version or ''}"
        rows.append([f"<span>{escape(server.url)}</span>", f"<span>{escape(software)}</span>"])
    facts = "".join(
        f"<li>{escape(str(name))}: {escape(str(value))}</li>"
        for name, value in outcome.fleet.fingerprint.as_dict().items()
        if value not in (None, "")
    )
    shown = table(["server", "software"], rows, caption="The fleet")
    more = f'<details><summary>What makes its vectors</summary><ul class="evidence">{facts}</ul></details>'
    return f"<section>{_heading('servers', 'Servers', prefix)}{shown}{more}</section>"


def _table_section(one: Table) -> str:
    rows = [[f"<span>{escape(row[0])}</span>", *(escape(cell) for cell in row[1:])] for row in one.rows]
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in one.sentences)
    shown = table(one.head, rows, caption=one.title)
    return f'<section><h2 id="{one.place}">{escape(one.title)}</h2>{shown}{said}</section>'


def _list(place: str, title: str, sentences: Sequence[str], prefix: str) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<section>{_heading(place, title, prefix)}<ul class="evidence">{items}</ul></section>'
