"""The page of a recording, put together: the verdict first, then when, where, who."""

from __future__ import annotations

from bench.diagnosis.diagnosis import Diagnosis, diagnose
from bench.page import when, where
from bench.page.document import document
from bench.page.subject import Price, Subject
from bench.recording.recording import Recording

_PLACES = (
    ("time", "when"),
    ("where", "where"),
    ("servers", "servers"),
    ("texts", "texts"),
    ("files", "files"),
    ("forecast", "forecast"),
    ("machine", "machine"),
    ("events", "events"),
)


def page(
    recording: Recording,
    diagnosis: Diagnosis | None = None,
    *,
    name: str = "",
    price: Price | None = None,
    refresh_s: int | None = None,
) -> str:
    """The page of a recording, as HTML that needs nothing else.

    Args:
        diagnosis: Its diagnosis, when it has been made already.
        name: Of the run.
        refresh_s: Seconds after which a browser asks for it anew, for a page that is served while a run goes on.
    """
    diagnosis = diagnose(recording) if diagnosis is None else diagnosis
    subject = Subject(recording=recording, diagnosis=diagnosis, price=price or Price())
    if not diagnosis.runs:
        return _document(name, "<p>Nothing was recorded yet.</p>", refresh_s)
    parts = [
        when.summary(subject),
        when.timeline(subject),
        where.whereabouts(subject),
        where.servers(subject),
        where.texts(subject),
        where.files(subject),
        when.forecast(subject),
        where.machine(subject),
        when.events(subject),
    ]
    return _document(name, "".join(parts), refresh_s)


def _document(name: str, body: str, refresh_s: int | None) -> str:
    title = f"Report: {name}" if name else "Report"
    return document(title, body, made_by="engine report", places=_PLACES, refresh_s=refresh_s)
