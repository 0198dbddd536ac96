"""Who is told how a run goes on: the recording, the panel on a terminal or lines in the log, and Prometheus."""

from __future__ import annotations

import logging
from contextlib import ExitStack

import engine
from engine.config import RunConfig
from engine.recording.recorder import Recorder
from engine.telemetry.progress import LineProgress
from engine.telemetry.reporting import Observer

_log = logging.getLogger("engine.run")


def observers(
    config: RunConfig, limits: str, stack: ExitStack, *, show_progress: bool, metrics_port: int | None
) -> list[Observer]:
    """Those that a run was asked for; `stack` closes them.

    Args:
        limits: The run's fixed limits, as one line.
        show_progress: Whether to show a panel on the terminal instead of lines in the log.
        metrics_port: Port of 127.0.0.1 for Prometheus, or None.
    """
    recorder = Recorder(
        config.folders.history,
        facts={"version": engine.__version__, "run": config.name, "options": config.options()},
        folders={"hot": config.folders.hot, "cold": config.folders.shards},
    )
    stack.callback(recorder.close)
    found: list[Observer] = [recorder]
    if show_progress:
        from rich.console import Console  # noqa: PLC0415 - only a terminal pays for rich

        from engine.telemetry.panel import TerminalProgress  # noqa: PLC0415

        panel = TerminalProgress(Console(stderr=True), limits)
        stack.callback(panel.close)
        found.append(panel)
    else:
        _log.info("%s", limits)
        found.append(LineProgress())
    if metrics_port is not None:
        from engine.telemetry.exporter import MetricsExporter  # noqa: PLC0415 - only who asks for metrics pays for it

        exporter = MetricsExporter(metrics_port, config.name)
        stack.callback(exporter.close)
        found.append(exporter)
    return found
