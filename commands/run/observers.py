"""Who is told how a run goes on: the recording, the panel on a terminal or lines in the log, and HTTP."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from engine import __version__
from engine.config import RunConfig
from engine.exposition.address import Address
from engine.recording.recorder import Recorder
from engine.telemetry.progress import LineProgress
from engine.telemetry.reporting import Observer

_log = logging.getLogger("engine.run")


def observers(
    config: RunConfig, limits: str, stack: ExitStack, *, show_progress: bool, http: Address | None
) -> list[Observer]:
    """Those that a run was asked for; `stack` closes them.

    Args:
        limits: The run's fixed limits, as one line.
        show_progress: Whether to show a panel on the terminal instead of lines in the log.
        http: Where to serve page, metrics and status, or None.
    """
    recorder = Recorder(
        config.folders.history,
        facts={"version": __version__, "run": config.name, "options": config.options()},
        folders={"hot": config.folders.hot, "cold": config.folders.shards},
    )
    stack.callback(recorder.close)
    found: list[Observer] = [recorder]
    heading = limits
    if http is not None:
        from commands.run.http import RunServer  # noqa: PLC0415 - only who asks for it pays for it

        server = RunServer(http, config)
        stack.callback(server.close)
        found.append(server)
        heading = f"{limits}\nhttp {server.url}"
    if show_progress:
        from rich.console import Console  # noqa: PLC0415 - only a terminal pays for rich

        from engine.telemetry.panel import TerminalProgress  # noqa: PLC0415

        panel = TerminalProgress(Console(stderr=True), heading)
        stack.callback(panel.close)
        found.append(panel)
    else:
        for line in heading.splitlines():
            _log.info("%s", line)
        found.append(LineProgress())
    return found
