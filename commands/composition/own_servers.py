"""Servers that a command starts itself: from options, a tuned file and flags to a fleet, or one that runs already."""

from __future__ import annotations

import dataclasses
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path

from bench.fleet.flags import Flags, parse_flags
from bench.fleet.fleet import ServerFleet
from bench.fleet.plan import FIRST_PORT, HOST, REAL_BACKENDS, FleetPlan
from bench.standin.arguments import parse_ports
from engine.errors import ConfigError

LOG_FOLDER = "servers"
"""Folder in the hot folder that holds their logs."""
_PROBE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The options of `engine serve`, as they were given.

    Attributes:
        serve: Whether servers are to be started; None when nothing says so but a backend may be named.
        further: Words behind `--`.
        hot_dir: Its logs go beneath it.
        tuned: A file of `engine bench` whose flags go beneath those that are given, or None.
    """

    serve: bool | None
    backend: str | None
    model: str | None
    gpus: str | None
    ports: str | None
    binary: str | None
    docker: str | None
    flags: str | None
    start_timeout_s: float
    further: tuple[str, ...]
    hot_dir: Path
    tuned: Path | None = None

    @property
    def wanted(self) -> bool:
        """Whether servers are asked for, by name or by what is said of them."""
        return self.serve is True or (self.serve is None and self.backend is not None)

    def plan(self) -> FleetPlan:
        """The plan.

        Raises:
            ConfigError: something cannot be read, or does not match.
        """
        backend = self.backend or "tei"
        tuned = _tuned_flags(self.tuned, backend) if self.tuned is not None else {}
        return FleetPlan(
            backend=backend,
            model=self.model,
            gpus=numbers("--gpus", self.gpus),
            ports=parse_ports(self.ports) if self.ports else (),
            binary=self.binary,
            docker=self.docker,
            flags={**tuned, **parse_flags(shlex.split(self.flags or "")), **parse_flags(self.further)},
            logs=self.hot_dir / LOG_FOLDER,
            start_timeout_s=self.start_timeout_s,
        )


def numbers(option: str, text: str | None) -> tuple[int, ...]:
    """The numbers of `0,1,2,3` or `0-3`; empty for None and for `all`.

    Raises:
        ConfigError: not written like that.
    """
    found: list[int] = []
    for part in () if text in (None, "", "all") else str(text).split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ConfigError(f"{option} is {text!r}; expected numbers such as 0,1,2,3 or 0-3")
        found.extend(range(int(first), int(last if dash else first) + 1))
    return tuple(found)


def own_servers(options: ServeOptions, *, urls_given: bool) -> tuple[ServerFleet | None, tuple[str, ...]]:
    """The servers that a command shall start, not started yet, and their URLs; (None, ()) when none are asked for.

    Servers of a file's [serve] table that run already (`engine serve` in another terminal) are used as they are.

    Args:
        urls_given: Whether `--tei-urls` stands on the command line.

    Raises:
        ConfigError: see `ServeOptions.plan`; URLs and servers were both given; words that belong to no server.
    """
    if not options.wanted:
        if options.further:
            raise ConfigError(
                f"nothing takes {options.further[0]!r}: flags of servers need --serve, and stand behind --"
            )
        return None, ()
    if urls_given and options.serve is not None:
        raise ConfigError("--tei-urls and --serve exclude each other: name servers that run, or have them started")
    if urls_given:
        return None, ()
    plan = options.plan()
    if options.serve is None and plan.backend in REAL_BACKENDS:
        running = _running(plan)
        if running:
            return None, running
    fleet = ServerFleet(plan)
    return fleet, fleet.urls


def _running(plan: FleetPlan) -> tuple[str, ...]:
    """URLs of the plan's ports when somebody listens on every one of them, else none."""
    ports = plan.ports or tuple(range(FIRST_PORT, FIRST_PORT + len(plan.gpus)))
    for port in ports:
        try:
            socket.create_connection((HOST, port), timeout=_PROBE_S).close()
        except OSError:
            return ()
    return tuple(f"http://{HOST}:{port}" for port in ports)


def _tuned_flags(path: Path, backend: str) -> Flags:
    from bench.tuner.report.tuned import read_tuned  # noqa: PLC0415 - it imports the tuner

    server = read_tuned(path).server
    if server is None or server.backend != backend:
        return {}
    return parse_flags(shlex.split(server.flags))


def with_ports(plan: FleetPlan, urls: tuple[str, ...]) -> FleetPlan:
    """The plan on the ports of URLs that it was given: what was free once is kept over restarts."""
    return dataclasses.replace(plan, ports=tuple(int(url.rpartition(":")[2]) for url in urls))


def with_flags(plan: FleetPlan, flags: Flags) -> FleetPlan:
    """The plan with further flags over its own."""
    return dataclasses.replace(plan, flags={**plan.flags, **flags})
