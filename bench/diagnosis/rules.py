"""The rules of the diagnosis, beside those about servers: each looks at two stretches and says what it makes of them.

A rule first asks whether its part of the pipeline set the pace in the slow stretch (clients starve, so the source does;
the vector ring is full, so the writer does), then whether that part got slower at the same work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from bench.diagnosis.causes import Finding
from bench.diagnosis.figures import Figures

Rule = Callable[[Figures, Figures, float], Iterator[Finding]]
"""Of the figures before, those of the slow stretch, and the drop as a logarithm: log(before / slow) of documents/s."""

STARVED, HELD = 0.2, 0.15
_FULL_CORE = 0.85
_BUSY = 0.92


def grown(before: float, now: float, least: float) -> bool:
    """Whether a figure is at least so many times what it was; one that was not there has not grown."""
    return math.isfinite(before) and math.isfinite(now) and now >= least * max(before, 1e-12)


def than_before(what: str, before: float, now: float, form: str = "{:.3g}") -> str:
    """One sentence of evidence."""
    if not math.isfinite(before):
        return f"{what}: {form.format(now)}"
    times = now / before if before > 0 else math.inf
    return f"{what}: {form.format(now)}, before {form.format(before)}" + (
        f" ({times:.1f} times)" if math.isfinite(times) else ""
    )


def over(figures: Figures, name: str, least: float) -> bool:
    """Whether a figure was recorded and is at least that."""
    return figures[name] >= least


def texts(before: Figures, now: Figures, drop: float) -> Iterator[Finding]:
    """Heavier or lighter work at the same tokens a second."""
    length = math.log(now.tokens / before.tokens) if now.tokens > 0 and before.tokens > 0 else 0.0
    if not length or length * drop <= 0 or abs(length) < 0.05:
        return
    yield Finding(
        cause="longer_texts" if drop > 0 else "shorter_texts",
        explains=min(1.0, length / drop),
        evidence=(
            than_before("tokens a document", before.tokens, now.tokens, "{:.1f}"),
            than_before("tokens a second", before.tokens_s, now.tokens_s, "{:,.0f}"),
        ),
    )


def source(before: Figures, now: Figures, drop: float) -> Iterator[Finding]:
    """Clients wait for documents: pages are slow, or the reader is held back by marks."""
    if not (over(now, "starved", STARVED) and now["starved"] - max(0.0, before["starved"]) > 0.1):
        return
    starved = than_before("clients wait for documents, share of the time", before["starved"], now["starved"], "{:.0%}")
    if over(now, "paused", 0.1):
        yield Finding(
            cause="marks_slower",
            subject="MongoDB",
            explains=0.95,
            evidence=(
                f"the reader was held {now['paused']:.0%} of the time, because marks are far behind",
                than_before("seconds to mark a thousand documents", before["mark_row"], now["mark_row"]),
                starved,
            ),
        )
    elif grown(before["page_row"], now["page_row"], 1.25) and over(now, "fetching", 0.4):
        yield Finding(
            cause="source_slower",
            subject="MongoDB",
            explains=0.9,
            evidence=(
                than_before("seconds a page", before["page"], now["page"]),
                than_before("seconds a thousand documents read", before["page_row"], now["page_row"]),
                starved,
                *_disk_of(before, now),
            ),
        )


def _disk_of(before: Figures, now: Figures) -> Iterator[str]:
    if over(now, "pressure_io", 0.2) and grown(before["pressure_io"], now["pressure_io"], 1.5):
        yield than_before("this machine waits for disks", before["pressure_io"], now["pressure_io"], "{:.0%}")
    else:
        yield "this machine waits for no disk more than before: look at the index, and at mongod's own host"


def marks(before: Figures, now: Figures, _drop: float) -> Iterator[Finding]:
    """Marking takes all of its time; it shows in documents/s only once the reader is held."""
    if over(now, "marking", 0.6) and grown(before["mark_row"], now["mark_row"], 1.5):
        yield Finding(
            cause="marks_slower",
            subject="MongoDB",
            explains=0.35,
            evidence=(
                than_before("seconds to mark a thousand documents", before["mark_row"], now["mark_row"]),
                than_before("share of the time spent marking", before["marking"], now["marking"], "{:.0%}"),
                f"committed and waiting for marks: {now['unmarked']:,.0f} documents",
            ),
        )


def storage(before: Figures, now: Figures, _drop: float) -> Iterator[Finding]:
    """Answers wait for the writer: its disk is slow, or the one of the ledger."""
    full = over(now, "vectors_busy", 0.6) or over(now, "held", HELD)
    if not full:
        return
    wait = than_before("vector ring in use", before["vectors_busy"], now["vectors_busy"], "{:.0%}")
    if over(now, "hot_io", 0.3) and grown(before["hot_fsync"], now["hot_fsync"], 1.5):
        yield Finding(
            cause="hot_slower",
            subject="hot",
            explains=0.95,
            evidence=(than_before("seconds an fsync of the ledger", before["hot_fsync"], now["hot_fsync"]), wait),
        )
    slower = [
        (name, what)
        for name, what in (
            ("cold_write", "seconds to write a MiB"),
            ("cold_fsync", "seconds an fsync"),
            ("upload", "seconds to upload a MiB"),
        )
        if grown(before[name], now[name], 1.4)
    ]
    busy = than_before("share of the time in writes and fsyncs", before["cold_io"], now["cold_io"], "{:.0%}")
    if not slower and over(now, "cold_io", 0.6) and grown(before["cold_io"], now["cold_io"], 2.5):
        yield Finding(cause="cold_slower", subject="cold", explains=0.9, evidence=(busy, wait))  # it told no bytes yet
    if slower and (over(now, "cold_io", 0.3) or over(now, "sealing", 0.3) or over(now, "uploading", 0.6)):
        yield Finding(
            cause="cold_slower",
            subject="cold",
            explains=0.92,
            evidence=(
                *(than_before(what, before[name], now[name]) for name, what in slower),
                wait,
                f"free space: {now['cold_free'] / (1 << 30):,.1f} GiB",
            ),
        )


def processors(before: Figures, now: Figures, _drop: float) -> Iterator[Finding]:
    """Processors: taken by others, or used up by one of our processes."""
    if over(now, "cpu_busy", _BUSY):
        more_load = now["load"] - before["load"]
        more_cores = now["other_cores"] - before["other_cores"]
        fewer_cores = ratio_of(now["own_cores"], before["own_cores"])
        if more_cores > 0.25 or (more_load >= 2.0 and grown(before["load"], now["load"], 1.3) and fewer_cores < 1.0):
            is_newly_full = not over(before, "cpu_busy", 0.8)  # then even servers of this machine are its victims
            yield Finding(
                cause="busy_machine",
                explains=0.97 if is_newly_full else 0.7,
                evidence=(
                    than_before("processors used by others", before["other_cores"], now["other_cores"], "{:.1f}"),
                    than_before("processors used by this run", before["own_cores"], now["own_cores"], "{:.2f}"),
                    than_before("load", before["load"], now["load"], "{:.1f}"),
                ),
            )
    for name in ("client_cpu", "reader_cpu", "writer_cpu"):
        if over(now, name, _FULL_CORE) and grown(before[name], now[name], 1.1):
            yield Finding(
                cause=name,
                explains=0.75,
                evidence=(than_before("processors that it uses", before[name], now[name], "{:.2f}"),),
            )


def ratio_of(now: float, before: float) -> float:
    """How many times what it was; 1 when it is not known."""
    return now / before if before > 0 and math.isfinite(now) else 1.0


def machine(before: Figures, now: Figures, _drop: float) -> Iterator[Finding]:
    """Memory and disks of the machine, when nothing more particular is known."""
    for key, cause, what in (
        ("pressure_memory", "memory_pressure", "processes wait for memory, share of the time"),
        ("pressure_io", "disk_pressure", "processes wait for disks, share of the time"),
    ):
        if over(now, key, 0.15) and now[key] - max(0.0, before[key]) >= 0.1:
            yield Finding(
                cause=cause,
                explains=0.5 if cause == "memory_pressure" else 0.4,
                evidence=(than_before(what, before[key], now[key], "{:.0%}"),),
            )


def gpus(before: Figures, now: Figures, _drop: float) -> Iterator[Finding]:
    """Throttled GPUs of this machine: a reason that is given for more of the time than before.

    A server that got slower meanwhile did so for that: the reason is told, not what it did.
    """
    slower = any(
        url in before.servers and grown(before.servers[url].inference, server.inference, 1.2)
        for url, server in now.servers.items()
    )
    for name, share in now.values.items():
        if name.startswith("gpu-") and ".throttle" in name and share >= 0.2 and share - max(0.0, before[name]) >= 0.2:
            gpu, _, reason = name.partition(".throttle_")
            yield Finding(
                cause="gpu_throttled",
                subject=gpu,
                explains=0.97 if slower else 0.85,
                evidence=(
                    than_before(f"throttled ({reason}), share of the time", before[name], share, "{:.0%}"),
                    *(
                        than_before(f"{gpu} {level}", before[f"{gpu}.{level}"], now[f"{gpu}.{level}"])
                        for level in ("temperature", "power", "clock", "utilization")
                        if math.isfinite(now[f"{gpu}.{level}"])
                    ),
                ),
            )
