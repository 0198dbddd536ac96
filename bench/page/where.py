"""The sections about parts: where time went, servers, texts, files, the machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

import numpy as np

from bench.diagnosis.figures import Figures, ServerFigures
from bench.page.charts import bar_chart, key, line_chart, number, share_bar, table
from bench.page.subject import Subject
from bench.recording.recording import Recording

_ANSWER = ("queue", "tokenization", "inference", "network")
GIB, MIB = 1 << 30, 1 << 20


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
        *_uploads(figures, recording),
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


def _uploads(figures: Figures, recording: Recording) -> Iterator[tuple[str, str]]:
    """What went to a cold store; nothing where cold storage is a folder."""
    totals = [float(recording.column(f"writer.{name}").sum()) for name in ("uploads", "upload_bytes", "upload_retries")]
    if any(totals):
        yield "uploads to the cold store", number(totals[0])
        yield "bytes uploaded", f"{totals[1] / MIB:,.1f} MiB"
        yield "seconds to upload a MiB", number(figures["upload"])
        yield "uploads repeated", number(totals[2])


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
