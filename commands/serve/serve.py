"""Real servers in the foreground: started, shown, kept alive until a signal."""

from __future__ import annotations

from typing import Any

from bench.fleet.fleet import ServerFleet
from bench.fleet.plan import FleetPlan
from commands.terminal.output import print_result, say, to_json
from engine.errors import ServersUnavailable
from engine.supervision.signals import SignalInbox


def serve_until_stopped(plan: FleetPlan, *, as_json: bool) -> None:
    """Start the servers of a plan, say where they are, and end them at SIGINT or SIGTERM.

    Raises:
        ConfigError: the plan cannot be started.
        ServersUnavailable: a server does not become healthy, or every one was given up.
    """
    fleet = ServerFleet(plan)
    try:
        fleet.start(say)
        print_result(to_json({"servers": fleet.report()}) if as_json else as_text(fleet.report()))
        with SignalInbox() as signals:
            if not fleet.wait_while_serving(signals.fd):
                raise ServersUnavailable("every server ended too often and was given up; their logs say why")
        say("ending the servers")
    finally:
        fleet.stop()


def as_text(report: list[dict[str, Any]]) -> str:
    """Where the servers are, and how a run is told."""
    lines = []
    for server in report:
        place = "no GPU" if server["gpu"] is None else f"GPU {server['gpu']}"
        lines.append(f"{server['url']}  {place}  process {server['pid']}  log {server['log']}")
    urls = ",".join(server["url"] for server in report)
    lines.append(f"ready: engine run --tei-urls {urls}   (Ctrl-C here ends the servers)")
    return "\n".join(lines)
