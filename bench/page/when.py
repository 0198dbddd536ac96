"""The sections about time: the verdict, the timeline with its stretches, forecast and events."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

import numpy as np

from bench.diagnosis.causes import CAUSES, NONE
from bench.diagnosis.diagnosis import Stretch
from bench.diagnosis.verdict import because, clock, lost_s, told, usual_rate, verdict
from bench.page.charts import Band, Tick, binned, line_chart, number, table
from bench.page.document import cards, verdict_box
from bench.page.subject import Subject
from engine.telemetry.progress import duration

_WORK = ("longer_texts", "shorter_texts")
_TICKS = {"new_run": "run", "server_out": "", "restart": "", "refusal": "", "stop": ""}
_MOST_TICKS, _MOST_EVENTS = 200, 300


def summary(subject: Subject) -> str:
    """The verdict, and the figures of the last run."""
    run = subject.run
    sentences = verdict(subject.diagnosis)
    is_slow = any(stretch.cause not in (NONE, *_WORK) for stretch in run.stretches)
    recording = subject.recording.part(run.begin, run.end)
    rows = float(recording.column("rows").sum(dtype=np.float64))
    facts = [
        ("documents embedded", number(rows)),
        ("documents a second", number(run.figures.rows_s)),
        ("tokens a second", number(run.figures.tokens_s)),
        ("tokens a document", number(run.figures.tokens)),
        ("time", duration(run.end - run.begin)),
        ("servers", number(float(len(run.figures.servers)))),
        *_cost_cards(subject, rows),
    ]
    return verdict_box(sentences, is_bad=is_slow) + cards(facts)


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
                    _why(stretch),
                    duration(stretch.end - stretch.begin),
                    number(stretch.figures.rows_s),
                    number(stretch.figures.tokens_s),
                    f"{stretch.factor:.2f}",
                    duration(lost_s(run, stretch)) if lost_s(run, stretch) >= 1 else "-",
                ]
            )
    if not rows:
        return '<p class="dim">Too short to judge.</p>'
    head = ["from", "why", "for", "documents/s", "tokens/s", "of before", "time lost"]
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
