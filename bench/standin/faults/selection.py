"""Which requests and connections a fault hits: the faults of a server, counted against their selectors."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.standin.faults.script import Fault


@dataclass(slots=True)
class _ActiveFault:
    fault: Fault
    since_s: float
    random: random.Random
    seen: int = 0
    fired: int = 0


@dataclass(slots=True)
class FaultSet:
    """The faults of one server, with their counters."""

    _active: list[_ActiveFault] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self._active)

    @property
    def kinds(self) -> list[str]:
        """Return the kinds in force."""
        return [active.fault.kind for active in self._active]

    def add(self, fault: Fault, now_s: float) -> None:
        """Put `fault` in force."""
        self._active.append(_ActiveFault(fault, now_s, random.Random(fault.select["seed"])))

    def clear(self) -> None:
        """End all faults."""
        self._active.clear()

    def fired(self) -> dict[str, int]:
        """Return how often each kind has fired."""
        counts: dict[str, int] = {}
        for active in self._active:
            counts[active.fault.kind] = counts.get(active.fault.kind, 0) + active.fired
        return counts

    def active(self, kind: str, now_s: float) -> Fault | None:
        """Return a fault of `kind` that is in force now, whatever its selectors of requests."""
        for active in self._active:
            if active.fault.kind == kind and _in_time(active, now_s):
                return active.fault
        return None

    def due_for_request(self, path: str, *, embedding: bool, texts: Iterable[object], now_s: float) -> list[Fault]:
        """Return the faults that hit this request, and count it for each of their selectors."""
        return [
            active.fault
            for active in self._active
            if not active.fault.at_once
            and not _is_for_accept(active.fault)
            and _concerns(active.fault, path, embedding, texts)
            and _chosen(active, now_s)
        ]

    def due_for_connection(self, now_s: float) -> list[Fault]:
        """Return the faults that hit a connection as it is accepted."""
        return [active.fault for active in self._active if _is_for_accept(active.fault) and _chosen(active, now_s)]


def _is_for_accept(fault: Fault) -> bool:
    return fault.params.get("at") == "accept"


def _in_time(active: _ActiveFault, now_s: float) -> bool:
    select = active.fault.select
    age_s = now_s - active.since_s
    if select["for_s"] is not None and age_s > select["for_s"]:
        return False
    period_s = select["period_s"]
    return not period_s or age_s % period_s < select["duty"] * period_s


def _concerns(fault: Fault, path: str, embedding: bool, texts: Iterable[object]) -> bool:
    route, wanted = fault.select["route"], fault.select["contains"]
    if (not embedding) if route is None else route not in ("*", path):
        return False
    return wanted is None or any(isinstance(text, str) and wanted in text for text in texts)


def _chosen(active: _ActiveFault, now_s: float) -> bool:
    """Count one candidate, and say whether it is hit."""
    if not _in_time(active, now_s):
        return False
    select = active.fault.select
    active.seen += 1
    number = active.seen - select["after"]
    if number < 1 or (select["first"] is not None and number > select["first"]):
        return False
    if number % select["every"]:
        return False
    if select["probability"] is not None and active.random.random() >= select["probability"]:
        return False
    active.fired += 1
    return True
