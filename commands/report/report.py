"""The report of a run: its diagnosis for a person, for a program, and as a page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.diagnosis.causes import CAUSES, NONE
from bench.diagnosis.diagnosis import Diagnosis, Stretch, diagnose
from bench.diagnosis.verdict import because, clock, told, verdict
from bench.page.page import page
from bench.page.subject import Price
from bench.recording.recording import Recording, read_recording
from engine.config import check_range
from engine.errors import SinkError
from engine.ledger.runfolder import RunFolders

_EVENTS_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A recording and what it says."""

    name: str
    recording: Recording
    diagnosis: Diagnosis
    price: Price


def examine(folders: RunFolders, *, gpu_hour_price: float | None, n_gpus: int | None) -> Examined:
    """Read the recording of a run folder; nothing is locked or changed.

    Raises:
        ConfigError: there is no such run, it was not recorded, or a price is no price.
    """
    folders.require_run()
    for name, value, least in (("gpu-hour-price", gpu_hour_price, 0.0), ("gpus", n_gpus, 1)):
        if value is not None:
            check_range(name, value, least)
    recording = read_recording(folders.history)
    price = Price(gpu_hour=gpu_hour_price, n_gpus=n_gpus or max(1, len(recording.servers)))
    return Examined(name=folders.hot.name, recording=recording, diagnosis=diagnose(recording), price=price)


def write_page(path: Path, examined: Examined) -> None:
    """Write the page.

    Raises:
        SinkError: the file cannot be written.
    """
    text = page(examined.recording, examined.diagnosis, name=examined.name, price=examined.price)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SinkError(f"cannot write {path} ({error.strerror}): name a writable file for --html") from error


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis for a program; times are Unix seconds."""
    return {
        "verdict": verdict(diagnosis),
        "stretches": [_stretch(stretch) for stretch in diagnosis.stretches],
        "events": diagnosis.events,
    }


def _stretch(stretch: Stretch) -> dict[str, Any]:
    return {
        "from": round(stretch.begin, 3),
        "to": round(stretch.end, 3),
        "docs_per_second": _number(stretch.figures.rows_s),
        "tokens_per_second": _number(stretch.figures.tokens_s),
        "cause": stretch.cause,
        "subject": stretch.subject or None,
        "factor": round(stretch.factor, 4),
        "evidence": list(stretch.evidence),
        "advice": CAUSES[stretch.cause].advice or None,
        "also": [
            {"cause": other.cause, "subject": other.subject or None, "evidence": list(other.evidence)}
            for other in stretch.also
        ],
    }


def _number(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def as_text(diagnosis: Diagnosis, hot: Path) -> str:
    """The diagnosis for a person."""
    lines = [f"{hot.name}  ({hot})", *(f"  {sentence}" for sentence in verdict(diagnosis)), ""]
    for run in diagnosis.runs:
        version = f", version {run.facts['version']}" if run.facts.get("version") else ""
        lines.append(f"run of {clock(run.begin, day=True)} to {clock(run.end)}{version}")
        for stretch in run.stretches:
            lines += _lines_of(stretch)
    if diagnosis.events:
        lines.append("events")
        if len(diagnosis.events) > _EVENTS_SHOWN:
            lines.append(f"  ... {len(diagnosis.events) - _EVENTS_SHOWN} earlier ones: --json or --html shows them")
        lines += [f"  {clock(event['at'])}  {told(event)}" for event in diagnosis.events[-_EVENTS_SHOWN:]]
    return "\n".join(lines)


def _lines_of(stretch: Stretch) -> list[str]:
    figures = stretch.figures
    rate = f"{figures.rows_s:>9,.0f}/s {figures.tokens_s:>11,.0f} tokens/s"
    what = "usual" if stretch.cause == NONE else f"{stretch.factor:.2f} of before: {stretch.cause}: {because(stretch)}"
    lines = [f"  {clock(stretch.begin)} to {clock(stretch.end)} {rate}  {what}"]
    if stretch.cause != NONE:
        lines += [f"      {sentence}" for sentence in stretch.evidence]
        lines += [f"      also {other.cause} {other.subject}".rstrip() for other in stretch.also]
        lines.append(f"      what to do: {CAUSES[stretch.cause].advice}")
    return lines
