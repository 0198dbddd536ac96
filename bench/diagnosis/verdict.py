"""The verdict: the diagnosis in a few sentences, and what a slow stretch has cost."""

from __future__ import annotations

import time
from typing import Any

from bench.diagnosis.causes import CAUSES, NONE
from bench.diagnosis.diagnosis import Diagnosis, Run, Stretch
from engine.telemetry.logs import redact
from engine.telemetry.progress import duration

_SHORT_S = 12.0


def clock(at: float, *, day: bool = False) -> str:
    """A moment in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S" if day else "%H:%M:%S", time.localtime(at))


def lost_s(run: Run, stretch: Stretch) -> float:
    """Seconds that a stretch took longer than it would have at the run's usual rate."""
    usual = usual_rate(run)
    if stretch.cause in (NONE, "longer_texts", "shorter_texts") or usual <= 0:
        return 0.0
    return max(0.0, (stretch.end - stretch.begin) * (1 - stretch.figures.rows_s / usual))


def usual_rate(run: Run) -> float:
    """Documents a second in the stretches that nothing is wrong with; of all of it when there is none."""
    plain = [stretch for stretch in run.stretches if stretch.cause == NONE] or run.stretches
    seconds = sum(stretch.figures.seconds for stretch in plain)
    if not seconds:
        return run.figures.rows_s
    return sum(stretch.figures.rows_s * stretch.figures.seconds for stretch in plain) / seconds


def because(stretch: Stretch) -> str:
    """Why, in words: `a server is out of service: http://...`."""
    title = CAUSES[stretch.cause].title
    return f"{title}: {stretch.subject}" if stretch.subject and stretch.subject not in title else title


def sentence(stretch: Stretch, *, is_last: bool) -> str:
    """What happened in a stretch that is not the usual."""
    how = f"{stretch.figures.rows_s:,.0f} documents/s, {stretch.factor:.2f} of before,"
    lasted = "to the end" if is_last else f"for {duration(stretch.end - stretch.begin)}"
    return f"From {clock(stretch.begin)} {lasted}: {how} because {because(stretch)}."


def verdict(diagnosis: Diagnosis) -> list[str]:
    """The sentences to read first, about the last run."""
    if not diagnosis.runs:
        return ["Nothing was recorded yet."]
    run = diagnosis.runs[-1]
    if not run.stretches or run.end - run.begin < _SHORT_S:
        return [f"Too short to judge: {duration(run.end - run.begin)}, {run.figures.rows_s:,.0f} documents/s."]
    slow = [stretch for stretch in run.stretches if stretch.cause != NONE]
    usual = usual_rate(run)
    if not slow:
        return [f"The run went at one rate, {usual:,.0f} documents/s, as far as its noise lets one say."]
    lost = sum(lost_s(run, stretch) for stretch in slow)
    found = [f"Its usual rate was {usual:,.0f} documents/s."]
    worst = sorted(slow, key=lambda stretch: -max(lost_s(run, stretch), stretch.end - stretch.begin))[:5]
    found += [
        sentence(stretch, is_last=stretch is run.stretches[-1])
        for stretch in sorted(worst, key=lambda stretch: stretch.begin)
    ]
    if len(slow) > len(worst):
        found.append(f"{len(slow) - len(worst)} further stretches are below.")
    if lost >= 1:
        share = lost / max(1e-9, run.end - run.begin)
        found.append(f"At its usual rate it would have been {duration(lost)} shorter ({share:.0%}).")
    return found


def told(event: dict[str, Any]) -> str:
    """An event as one line, without what only programs want."""
    facts = {name: value for name, value in event.items() if name not in ("at", "event", "options")}
    return redact(" ".join([event["event"], *(f"{name}={value}" for name, value in facts.items())]))
