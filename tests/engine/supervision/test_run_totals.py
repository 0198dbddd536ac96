"""The totals of a run are told, and its end is noted in the ledger, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import CommitFailed, Exit, ProtocolError
from engine.ledger.log import Ledger, Record, RunState
from engine.ledger.quarantine import Quarantine
from engine.ledger.runfolder import RunFolders
from engine.memory.shared_rings import RingSizes
from engine.memory.slots import VectorLayout
from engine.supervision.lifecycle import Lifecycle
from engine.supervision.run_plan import RunPlan
from engine.supervision.run_totals import RunTotals
from engine.telemetry.status import read_status

PLAN = RunPlan(
    name="db.c.done",
    collection="db.c",
    prefix="done-",
    rings=RingSizes(
        n_documents=4,
        document_bytes=1024,
        n_vectors=4,
        layout=VectorLayout(dim=4, max_rows=2, meta_capacity_bytes=64),
    ),
    stages=lambda epoch, remaining: [],
    limit=None,
    max_time_s=None,
    max_outage_s=60.0,
)


class FullDevice(Ledger[RunState]):
    """A ledger on a device that is full for as long as the reserve is there."""

    def append(self, record: Record) -> None:
        """Append, when there is room."""
        if (self.path.parent / "reserve").exists():
            raise CommitFailed("no space left")
        super().append(record)


@pytest.fixture
def folders(tmp_path: Path) -> RunFolders:
    """A new run's folders."""
    folders = RunFolders.of(tmp_path / "hot", tmp_path / "cold", "db", "c", "done")
    folders.make()
    return folders


@pytest.fixture
def ledger(folders: RunFolders) -> Iterator[Ledger[RunState]]:
    """Its ledger."""
    ledger = FullDevice(folders.ledger, RunState())
    yield ledger
    ledger.close()


@pytest.fixture
def quarantine(folders: RunFolders) -> Iterator[Quarantine]:
    """Its quarantine."""
    quarantine = Quarantine(folders.quarantine)
    yield quarantine
    quarantine.close()


class Watcher:
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.figures: list[dict[str, Any]] = []

    def update(self, figures: dict[str, Any]) -> None:
        """Remember."""
        self.figures.append(figures)


@pytest.mark.parametrize("is_full", [False, True])
def test_the_end_is_noted_in_the_ledger_and_told_also_on_a_full_device(
    folders: RunFolders, ledger: Ledger[RunState], quarantine: Quarantine, is_full: bool
) -> None:
    """The reserve makes room for the last record."""
    watcher = Watcher()
    totals = RunTotals(PLAN, folders, ledger, quarantine, [watcher])
    totals.last_error = "why"
    if is_full:
        folders.reserve.write_bytes(bytes(4096))

    totals.close(Exit.OUTPUT_DEVICE, Lifecycle(is_marking=True))

    stop = RunState.of(folders.ledger).stop
    assert stop is not None
    assert stop["exit"] == Exit.OUTPUT_DEVICE
    (figures,) = watcher.figures
    assert (figures["exit"], figures["last_error"], figures["phase"], figures["pass"]) == (5, "why", "running", 1)
    status = read_status(folders.status)
    assert status is not None
    assert status["exit"] == 5


def test_a_sum_that_does_not_agree_is_refused(
    folders: RunFolders, ledger: Ledger[RunState], quarantine: Quarantine
) -> None:
    """G7, and the sentence has all four figures."""
    totals = RunTotals(PLAN, folders, ledger, quarantine, [])
    totals.tally.read, totals.tally.committed_rows, totals.tally.quarantined = 10, 9, 1
    totals.check_sum()

    totals.tally.read, totals.tally.gone = 11, 2

    with pytest.raises(ProtocolError, match="read 11, embedded 7, quarantined 1, gone 2"):
        totals.check_sum()
