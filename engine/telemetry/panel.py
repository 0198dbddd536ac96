"""The live panel of a run on a terminal; a module apart, because only a terminal pays for the library rich."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engine.gpus.words import in_words
from engine.telemetry.metrics import LatencyHistogram
from engine.telemetry.progress import duration, seconds_left


class TerminalProgress:
    """The live panel: documents, rate, time left, rings, and every server."""

    def __init__(self, console: Console, heading: str) -> None:
        """
        Args:
            heading: Printed once, above the panel.
        """
        console.print(Text(heading, style="dim"))
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def update(self, figures: dict[str, Any]) -> None:
        """Take the figures of this moment."""
        self._live.update(_panel(figures))

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()


def _panel(figures: dict[str, Any]) -> Group:
    done, total = figures["embedded_now"], figures.get("left_at_start")
    head = Text.assemble(
        (figures["run"], "bold"),
        f"  {figures['phase']}  ",
        (f"{done:,}", "bold"),
        f" of {total:,}" if total is not None else "",
        " documents  ",
        (f"{figures['rate']:,.0f}/s", "bold cyan"),
        f"  left {duration(seconds_left(figures))}",
        f"  {figures['shards']} shard{'' if figures['shards'] == 1 else 's'}",
        (f"  {figures['quarantined']} in quarantine", "yellow") if figures["quarantined"] else "",
    )
    parts: list[Any] = [head]
    if total:
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=total, completed=min(done, total), width=60))
        parts.append(bar)
    if rings := figures["rings"]:
        parts.append(
            Text(
                f"documents waiting {rings['documents_ready']:.0%}   vectors waiting {rings['vectors_ready']:.0%}   "
                f"vector ring in use {rings['vectors_busy']:.0%}",
                style="dim",
            )
        )
    parts.append(_servers(figures["clients"], figures.get("gpus", [])))
    if figures.get("last_error"):
        parts.append(Text(str(figures["last_error"]), style="red", overflow="ellipsis", no_wrap=True))
    return Group(*parts)


def _servers(clients: dict[str, dict[str, Any]], gpus: list[dict[str, Any]]) -> Table:
    of_server: dict[str, list[str]] = {}
    for gpu in gpus:
        if gpu["server"] is not None:
            of_server.setdefault(gpu["server"], []).append(f"{gpu['index']}: {in_words(gpu)}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("server", "state", "documents", "in flight", "p50 (s)", "p95 (s)", "429", "retries"):
        table.add_column(name, justify="left" if name in ("server", "state") else "right")
    if of_server:
        table.add_column("GPU")
    for role, facts in clients.items():
        latency = LatencyHistogram.from_sparse(facts.get("latency", {}))
        p50, p95 = latency.quantile(0.5), latency.quantile(0.95)
        table.add_row(
            str(facts.get("url", role)),
            str(facts.get("state", "starting")),
            f"{facts.get('rows', 0):,}",
            f"{facts.get('in_flight', 0)}/{facts.get('window', 0)}",
            f"{p50:.3f}" if p50 is not None else "-",
            f"{p95:.3f}" if p95 is not None else "-",
            str(facts.get("rejected_429", 0)),
            str(facts.get("retries", 0)),
            *(["; ".join(of_server.get(str(facts.get("url")), ["-"]))] if of_server else []),
        )
    return table
