"""Settled rows: those of a file that are in a committed shard; a file's reader passes over them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Settled:
    """Stretches of rows of one file, ascending and apart."""

    def __init__(self, stretches: list[tuple[int, int]]) -> None:
        """
        Args:
            stretches: First and last row of each.
        """
        self._firsts = [first for first, _ in stretches]
        self._lasts = [last for _, last in stretches]

    def __len__(self) -> int:
        """Rows that are settled."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def cover(self, first: int, n_rows: int) -> bool:
        """Whether all rows of `first` ... are settled."""
        at = bisect_right(self._firsts, first) - 1
        return at >= 0 and self._lasts[at] >= first + n_rows - 1

    def open_rows(self, first: int, n_rows: int) -> list[int] | None:
        """Which of the rows of `first` ... are not settled, counted from `first`; None when none is."""
        at = bisect_left(self._lasts, first)
        if at == len(self._firsts) or self._firsts[at] >= first + n_rows:
            return None
        found: list[int] = []
        row = first
        while at < len(self._firsts) and self._firsts[at] < first + n_rows:
            found += range(row - first, self._firsts[at] - first)
            row = self._lasts[at] + 1
            at += 1
        found += range(row - first, n_rows)
        return found
