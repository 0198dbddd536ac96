"""The reporter: what the status file and every observer are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.telemetry.reporting import Reporter, StageFigures
from engine.telemetry.status import read_status

RINGS = {"documents_ready": 0.5, "vectors_ready": 0.25, "vectors_busy": 0.75}


class Observer:
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.figures: list[dict[str, Any]] = []

    def update(self, figures: dict[str, Any]) -> None:
        """Remember."""
        self.figures.append(figures)


def stages(rows: int, estimate: int | None = None) -> StageFigures:
    """Two clients that have embedded half of the rows each."""
    clients = {f"client-{index}": {"rows": rows // 2} for index in (0, 1)}
    return StageFigures(reader={"estimate": estimate}, clients=clients, writer={"rows": rows}, rings=RINGS)


def test_the_status_file_and_the_observers_are_shown_the_same(tmp_path: Path) -> None:
    """Also by a run between two generations, of which nobody tells anything."""
    observer = Observer()
    reporter = Reporter(tmp_path / "status.json", [observer])

    reporter.publish(stages(10), {"phase": "running"}, committed_before=0)
    reporter.publish(StageFigures(), {"phase": "running"}, committed_before=10)

    assert [figures["embedded_now"] for figures in observer.figures] == [10, 10]
    assert observer.figures[0]["clients"] == {"client-0": {"rows": 5}, "client-1": {"rows": 5}}
    assert observer.figures[1]["clients"] == observer.figures[1]["rings"] == {}
    assert read_status(tmp_path / "status.json") == observer.figures[1]


def test_what_is_to_be_embedded_holds_what_earlier_generations_committed(tmp_path: Path) -> None:
    """A generation's reader estimates only what they left; before it does, the last estimate stands."""
    observer = Observer()
    reporter = Reporter(tmp_path / "status.json", [observer])

    reporter.publish(stages(10, estimate=100), {"phase": "running"}, committed_before=0)
    reporter.publish(stages(0), {"phase": "running"}, committed_before=40)
    reporter.publish(stages(2, estimate=61), {"phase": "running"}, committed_before=40)

    assert [figures["left_at_start"] for figures in observer.figures] == [100, 100, 101]
    assert observer.figures[-1]["embedded_now"] == 42


def test_rings_are_sampled_only_while_rows_are_being_embedded(tmp_path: Path) -> None:
    """The rings of a run that begins, or that only seals, say nothing of its bottleneck."""
    reporter = Reporter(tmp_path / "status.json", [])

    reporter.publish(stages(0), {"phase": "running"}, committed_before=0)
    reporter.publish(stages(10), {"phase": "sealing"}, committed_before=0)
    unsampled = reporter.occupancy.samples
    reporter.publish(stages(10), {"phase": "running"}, committed_before=0)

    assert (unsampled, reporter.occupancy.samples) == (0, 1)
    assert reporter.occupancy.means() == RINGS
