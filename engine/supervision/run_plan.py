"""The plan of a run: what its composer tells the supervisor to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.memory.shared_rings import RingSizes


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """The plan of one child process.

    Attributes:
        role: `reader`, `client-0` ..., or `writer`.
        stage: Full name of the module that it runs (`engine.supervision.worker.Stage`).
        settings: The stage's own settings, as JSON takes them; may hold secrets.
    """

    role: str
    stage: str
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """The plan of a run.

    Attributes:
        name: `<database>.<collection>.<done-field>`.
        collection: `<database>.<collection>`.
        prefix: Start of the name of every shard of this ledger.
        rings: Sizes of the rings; None when the processes run on nodes.
        stages: The stage plans for an epoch and the number of documents that may still be read (None: all). Likewise.
        limit: Documents to read at most.
        max_time_s: Seconds after which the run stops cleanly.
        max_outage_s: Seconds without any healthy server before a clean stop.
        max_restarts: Generations that may die within an hour.
    """

    name: str
    collection: str
    prefix: str
    rings: RingSizes | None
    stages: Callable[[int, int | None], list[StagePlan]] | None
    limit: int | None
    max_time_s: float | None
    max_outage_s: float
    max_restarts: int = 5
