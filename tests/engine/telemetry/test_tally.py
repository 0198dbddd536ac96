"""The tally of a run."""

from __future__ import annotations

from engine.telemetry.tally import Tally


def test_a_sum_that_is_off_by_one_is_noticed() -> None:
    """G7: the reason why exit 0 means something."""
    tally = Tally(committed_rows=10, gone=1, quarantined=2, read=12)
    assert tally.sum_agrees()

    tally.read += 1

    assert not tally.sum_agrees()
