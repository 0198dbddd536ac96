"""Settled rows against the plainest model there is: a set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from readers.files.settled import Settled


def stretches(rows: set[int]) -> list[tuple[int, int]]:
    """A set of rows as stretches."""
    found: list[tuple[int, int]] = []
    for row in sorted(rows):
        if found and found[-1][1] == row - 1:
            found[-1] = found[-1][0], row
        else:
            found.append((row, row))
    return found


@given(st.sets(st.integers(0, 40)), st.integers(0, 45), st.integers(1, 12))
def test_the_rows_that_are_left_are_those_that_are_not_settled(rows: set[int], first: int, n_rows: int) -> None:
    settled = Settled(stretches(rows))
    asked = range(first, first + n_rows)
    left = [row - first for row in asked if row not in rows]
    assert len(settled) == len(rows)
    assert settled.cover(first, n_rows) == (not left)
    assert settled.open_rows(first, n_rows) == (None if rows.isdisjoint(asked) else left)
