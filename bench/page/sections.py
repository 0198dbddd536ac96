"""The sections of the page, one function each: a recording and its diagnosis in, HTML out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import numpy as np

from bench.diagnosis.causes import CAUSES, NONE
from bench.diagnosis.diagnosis import Diagnosis, Run, Stretch
from bench.diagnosis.figures import Figures, ServerFigures
from bench.diagnosis.verdict import because, clock, lost_s, told, usual_rate, verdict
from bench.page.charts import Band, Tick, Values, bar_chart, binned, key, line_chart, number, share_bar, table
from bench.recording.recording import Recording
from engine.telemetry.progress import duration

_WORK = ("longer_texts", "shorter_texts")
_ANSWER = ("queue", "tokenization", "inference", "network")
_TICKS = {"new_run": "run", "server_out": "", "restart": "", "refusal": "", "stop": ""}
_MOST_TICKS, _MOST_EVENTS = 200, 300
GIB, MIB = 1 << 30, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What the GPUs cost: money an hour for one, None when nobody said, and how many there are."""

    gpu_hour: float | None = None
    n_gpus: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the page is about."""

    recording: Recording
    diagnosis: Diagnosis
    price: Price

    @property
    def run(self) -> Run:
        """The last run."""
        return self.diagnosis.runs[-1]

    @property
    def span(self) -> tuple[float, float]:
        """Begin and end of all of it, Unix seconds."""
        return float(self.recording.begin[0]), float(self.recording.at[-1])

    @property
    def ends(self) -> tuple[str, str]:
        """The same in words."""
        begin, end = self.span
        return clock(begin, day=True), clock(end, day=True)

    def place(self, at: float) -> float:
        """Where a moment stands on the axis, 0 to 1."""
        begin, end = self.span
        return min(1.0, max(0.0, (at - begin) / max(1e-9, end - begin)))

    def series(self, values: Values) -> Values:
        """A series of the samples as points of a chart."""
        recording = self.recording
        middle = recording.at - recording.seconds / 2
        return binned(middle, recording.seconds, values, *self.span)

    def rate(self, *names: str) -> Values:
        """A count, or several together, a second, as points of a chart."""
        total = np.sum([self.recording.column(name).astype(np.float64) for name in names], axis=0)
        return self.series(total / np.maximum(self.recording.seconds, 1e-9))

    def level(self, name: str) -> Values:
        """A level as points of a chart."""
        return self.series(self.recording.column(name, math.nan).astype(np.float64))


def summary(subject: Subject) -> str:
    """The verdict, and the figures of the last run."""
    run = subject.run
    sentences = verdict(subject.diagnosis)
    is_slow = any(stretch.cause not in (NONE, *_WORK) for stretch in run.stretches)
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    recording = subject.recording.part(run.begin, run.end)
    rows = float(recording.column("rows").sum(dtype=np.float64))
    cards = [
        ("documents embedded", number(rows)),
        ("documents a second", number(run.figures.rows_s)),
        ("tokens a second", number(run.figures.tokens_s)),
        ("tokens a document", number(run.figures.tokens)),
        ("time", duration(run.end - run.begin)),
        ("servers", number(float(len(run.figures.servers)))),
        *_cost_cards(subject, rows),
    ]
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in cards)
    return (
        f'<section class="verdict{" slow" if is_slow else ""}" aria-label="Verdict">{said}</section>'
        f'<dl class="cards">{items}</dl>'
    )


def _cost_cards(subject: Subject, rows: float) -> Iterator[tuple[str, str]]:
    price, run = subject.price, subject.run
    if price.gpu_hour is None:
        return
    hours = (run.end - run.begin) / 3600 * price.n_gpus
    lost = sum(lost_s(run, stretch) for stretch in run.stretches) / 3600 * price.n_gpus
    yield f"cost, {price.n_gpus} GPUs", f"{hours * price.gpu_hour:,.2f}"
    if rows:
        yield "cost of a million documents", f"{hours * price.gpu_hour / rows * 1e6:,.2f}"
    yield "cost of slow stretches", f"{lost * price.gpu_hour:,.2f}"


def timeline(subject: Subject) -> str:
    """Throughput over time, with stretches and events."""
    bands = [
        Band(
            subject.place(stretch.begin),
            subject.place(stretch.end),
            _kind(stretch),
            f"{clock(stretch.begin)} to {clock(stretch.end)}: {number(stretch.figures.rows_s)} documents/s, "
            + because(stretch),
            f"stretch-{index}",
        )
        for index, stretch in enumerate(subject.diagnosis.stretches)
    ]
    shown = [event for event in subject.diagnosis.events if event["event"] in _TICKS][-_MOST_TICKS:]
    ticks = [
        Tick(subject.place(event["at"]), _TICKS[event["event"]], f"{clock(event['at'])} {told(event)}")
        for event in shown
    ]
    tokens = [f"server-{index}.tokens" for index in range(len(subject.recording.servers))]
    charts = [
        line_chart(
            "Documents a second",
            [("documents", subject.rate("rows"))],
            unit="/s",
            ends=subject.ends,
            bands=bands,
            ticks=ticks,
        )
    ]
    if tokens:
        charts.append(
            line_chart("Tokens a second", [("tokens", subject.rate(*tokens))], unit="/s", ends=subject.ends, low=True)
        )
    return f'<section><h2 id="time">What happened when</h2>{"".join(charts)}{stretches(subject)}</section>'


def _kind(stretch: Stretch) -> str:
    return "none" if stretch.cause == NONE else "work" if stretch.cause in _WORK else ""


def stretches(subject: Subject) -> str:
    """The table of stretches."""
    rows: list[list[str]] = []
    anchors: list[str] = []
    for run in subject.diagnosis.runs:
        for stretch in run.stretches:
            anchors.append(f"stretch-{len(anchors)}")
            rows.append(
                [
                    clock(stretch.begin, day=True),
                    duration(stretch.end - stretch.begin),
                    number(stretch.figures.rows_s),
                    number(stretch.figures.tokens_s),
                    f"{stretch.factor:.2f}",
                    _why(stretch),
                    duration(lost_s(run, stretch)) if lost_s(run, stretch) >= 1 else "-",
                ]
            )
    if not rows:
        return '<p class="dim">Too short to judge.</p>'
    head = ["from", "for", "documents/s", "tokens/s", "of before", "why", "time lost"]
    return table(head, rows, caption="Stretches of the same rate", anchors=anchors)


def _why(stretch: Stretch) -> str:
    if stretch.cause == NONE:
        return "<span>usual</span>"
    evidence = "".join(f"<li>{escape(sentence)}</li>" for sentence in stretch.evidence)
    also = "".join(f"<li>also {escape(CAUSES[one.cause].title)} {escape(one.subject)}</li>" for one in stretch.also)
    return (
        f'<div><strong class="slow">{escape(stretch.cause)}</strong>: {escape(because(stretch))}'
        f"<ul class='evidence'>{evidence}{also}</ul><em>{escape(CAUSES[stretch.cause].advice)}</em></div>"
    )


def whereabouts(subject: Subject) -> str:
    """Where a document's time went: what each stage waited for, and the parts of a server's answer."""
    figures = subject.run.figures
    names = ["works", "waits for work", "waits for room"]
    rows = [[f"<span>{name}</span>", share_bar(name, shares)] for name, shares in _of_stages(figures, names)]
    answers = [
        [f"<span>{escape(url)}</span>", share_bar(url, _parts(server)), number(server.latency, " s")]
        for url, server in figures.servers.items()
    ]
    return (
        '<section><h2 id="where">Where a document\'s time went</h2>'
        + table(["stage", "its time"], rows, caption="What each stage did with its time")
        + key(names)
        + table(["server", "parts of an answer", "seconds an answer"], answers, caption="Parts of a server's answer")
        + key(_ANSWER)
        + rings(subject)
        + "</section>"
    )


def _parts(server: ServerFigures) -> list[tuple[str, float]]:
    return list(zip(_ANSWER, (server.queue, server.tokenization, server.work, server.network), strict=True))


def _of_stages(figures: Figures, names: list[str]) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    source, room = figures["source_wait"], figures["reader_wait"]
    yield "reader", list(zip(names, (max(0.0, 1 - source - room), source, room), strict=True))
    starved, held = figures["starved"], figures["held"]
    yield "clients", list(zip(names, (max(0.0, 1 - starved - held), starved, held), strict=True))
    idle = max(0.0, 1 - figures["cold_io"]) if math.isfinite(figures["cold_io"]) else math.nan
    yield "writer, its storage", list(zip(names, (figures["cold_io"], idle, 0.0), strict=True))
    yield "marks", list(zip(names, (figures["marking"], max(0.0, 1 - figures["marking"]), 0.0), strict=True))


def rings(subject: Subject) -> str:
    """How full the rings were."""
    series = [
        ("documents that wait for a server", subject.level("ring.documents_ready")),
        ("vector ring in use", subject.level("ring.vectors_busy")),
    ]
    return line_chart("Rings, share that is full", series, unit="", ends=subject.ends, low=True)


def servers(subject: Subject) -> str:
    """Every server: its figures, and its rate over time."""
    recording = subject.recording
    rows, charts = [], []
    for index, url in enumerate(recording.servers):
        server = subject.run.figures.servers.get(url)
        if server is None:
            continue
        rows.append(
            [
                f"<span>{escape(url)}</span>",
                number(server.rows_s),
                number(server.tokens_s),
                "-" if not math.isfinite(server.up) else f"{server.up:.0%}",
                number(server.window),
                number(server.p50, " s"),
                number(server.p95, " s"),
                number(server.inference, " s"),
                number(server.outs),
                "-" if not math.isfinite(server.rejected) else f"{server.rejected:.1%}",
                "-" if not math.isfinite(server.failed) else f"{server.failed:.1%}",
            ]
        )
        charts.append(
            line_chart(
                url, [(url, subject.rate(f"server-{index}.rows"))], unit="documents/s", ends=subject.ends, low=True
            )
        )
    head = [
        "server",
        "documents/s",
        "tokens/s",
        "in service",
        "window",
        "p50",
        "p95",
        "s/1,000 tokens",
        "outs",
        "429",
        "repeated",
    ]
    return (
        f'<section><h2 id="servers">Servers</h2>{table(head, rows, caption="Servers in the last run")}'
        f"<details><summary>Documents a second of each server</summary>{''.join(charts)}</details></section>"
    )


def texts(subject: Subject) -> str:
    """How long the texts were."""
    recording, figures = subject.recording, subject.run.figures
    scale = figures.tokens / figures.characters if figures.characters > 0 and figures.tokens > 0 else math.nan
    unit, factor = ("tokens", scale) if math.isfinite(scale) else ("characters", 1.0)
    buckets = sorted(int(name.rpartition(".")[2]) for name in recording.columns if name.startswith("reader.length."))
    if not buckets:
        return ""
    counts = {bucket: float(recording.column(f"reader.length.{bucket}").sum()) for bucket in buckets}
    total = sum(counts.values()) or 1.0
    bars = []
    for bucket in range(buckets[0], buckets[-1] + 1):
        length = 2 ** (bucket / 2) * factor
        share = counts.get(bucket, 0.0) / total
        bars.append((f"about {number(length)} {unit}: {share:.1%} of the texts", share))
    ends = (f"{number(2 ** (buckets[0] / 2) * factor)} {unit}", f"{number(2 ** (buckets[-1] / 2) * factor)} {unit}")
    how = "" if unit == "characters" else " (from characters, by the mean tokens of a character)"
    return (
        f'<section><h2 id="texts">Texts</h2>{bar_chart(f"Length of the texts in {unit}", bars, ends=ends)}'
        f'<p class="dim">One text of 64 is measured{how}; a bar is half of a doubling.</p></section>'
    )


def files(subject: Subject) -> str:
    """Shards, storage and marks."""
    recording, figures = subject.recording.part(subject.run.begin, subject.run.end), subject.run.figures
    totals = {
        name: float(recording.column(name).sum(dtype=np.float64))
        for name in ("shards", "writer.bytes", "committed", "marks.rows")
    }
    shards = totals["shards"]
    rows = [
        ("shards committed", number(shards)),
        ("documents in them", number(totals["committed"])),
        ("bytes written", f"{totals['writer.bytes'] / MIB:,.1f} MiB"),
        ("a shard", f"{totals['writer.bytes'] / MIB / shards:,.2f} MiB" if shards else "-"),
        ("seconds to write a MiB", number(figures["cold_write"])),
        ("seconds an fsync, cold", number(figures["cold_fsync"])),
        ("seconds an fsync, hot", number(figures["hot_fsync"])),
        ("free on cold", f"{figures['cold_free'] / GIB:,.1f} GiB"),
        ("free on hot", f"{figures['hot_free'] / GIB:,.1f} GiB"),
        ("documents marked", number(totals["marks.rows"])),
        ("seconds to mark 1,000", number(figures["mark_row"])),
        ("seconds a page", number(figures["page"])),
    ]
    cells = [[f"<span>{escape(name)}</span>", value] for name, value in rows]
    behind = line_chart(
        "Committed documents that wait for their marks",
        [("documents", subject.level("unmarked_rows"))],
        unit="",
        ends=subject.ends,
        low=True,
    )
    shown = table(["what", "how much"], cells, caption="In the last run")
    return f'<section><h2 id="files">Files and marks</h2>{shown}{behind}</section>'


def forecast(subject: Subject) -> str:
    """When the run expected to end, at every moment, against when it did."""
    run = subject.run
    recording = subject.recording.part(run.begin, run.end)
    left = recording.column("left", math.nan).astype(np.float64)
    rate = recording.column("rows").astype(np.float64) / np.maximum(recording.seconds, 1e-9)
    window = max(1, min(len(rate) // 8, 60))
    smooth = np.convolve(rate, np.ones(window) / window, mode="same")
    with np.errstate(divide="ignore", invalid="ignore"):
        hours = np.where(smooth > 0, (recording.at - run.begin + left / smooth) / 3600, np.nan)
    middle = recording.at - recording.seconds / 2
    points = binned(middle, recording.seconds, hours, run.begin, run.end)
    if not len(points) or len(recording) < 8:
        return ""
    points[:, 1] = np.minimum(points[:, 1], np.median(points[:, 1]) * 5)
    took = (run.end - run.begin) / 3600
    remaining = float(left[np.isfinite(left)][-1]) if np.isfinite(left).any() else math.nan
    actual = np.array([[0.0, took], [1.0, took]])
    ends = (clock(run.begin, day=True), clock(run.end, day=True))
    chart = line_chart(
        "Hours that the run would take in all",
        [("forecast", points), ("time so far", actual)],
        unit="h",
        ends=ends,
        gap=2.0,
    )
    unit = (
        f"{number(remaining)} documents were left at the end of the recording" if remaining > 0 else "nothing was left"
    )
    usual = usual_rate(run)
    rest = f": {duration(remaining / usual)} at its usual rate" if remaining > 0 and usual > 0 else ""
    return f'<section><h2 id="forecast">Forecast and what came</h2>{chart}<p>{escape(unit + rest)}.</p></section>'


def machine(subject: Subject) -> str:
    """Processors, pressure and GPUs of the machine that the run was on."""
    charts = [
        line_chart(
            "Processors busy, and time that processes waited for them",
            [
                ("busy", subject.level("machine.cpu_busy")),
                ("waiting", subject.level("machine.pressure_cpu")),
                ("waiting for disks", subject.level("machine.pressure_io")),
            ],
            unit="",
            ends=subject.ends,
            low=True,
        )
    ]
    names = sorted({name.partition(".")[2] for name in subject.recording.columns if name.startswith("gpu-")})
    for level in names[:12]:
        gpus = sorted(
            name for name in subject.recording.columns if name.startswith("gpu-") and name.partition(".")[2] == level
        )
        series = [(name, subject.level(name)) for name in gpus[:5]]
        charts.append(line_chart(f"GPU {level}", series, unit="", ends=subject.ends, low=True))
    return f'<section><h2 id="machine">This machine</h2>{"".join(charts)}</section>'


def events(subject: Subject) -> str:
    """The list of events."""
    shown = subject.diagnosis.events[-_MOST_EVENTS:]
    rows = [[clock(event["at"], day=True), f"<span>{escape(told(event))}</span>"] for event in reversed(shown)]
    count = len(subject.diagnosis.events)
    caption = (
        f"The last {len(shown)} of {count:,} events, the latest first"
        if count > len(shown)
        else "Events, the latest first"
    )
    listed = table(["when", "what"], rows, caption=caption)
    return (
        f'<section><h2 id="events">Events</h2><details><summary>{count:,} events</summary>{listed}</details></section>'
    )
