"""Settled rows: those of a file that are in a committed shard; a file's reader passes over them."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right

from engine.part import Part

BLOCK_ROWS = 4096
"""Rows of a file that belong to one share together. Never to be changed: machines and ledgers go by it."""


LAST_ROW = (1 << 40) - 1
"""The last row that a file may have; a stretch that ends with it goes to the end of the file."""


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

    def is_over(self, row: int) -> bool:
        """Whether nothing from a row on to the end of the file is left."""
        return bool(self._lasts) and self._lasts[-1] == LAST_ROW and row >= self._firsts[-1]

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


class SettledOrForeign(Settled):
    """Rows of a file that are settled, or belong to another share.

    Blocks of rows go round the shares, from one on that the file's name decides: name, row and share alone say whose a
    row is, so that machines agree on it without a word, and ledgers for good.
    """

    def __init__(self, stretches: list[tuple[int, int]], name: str, part: Part) -> None:
        """
        Args:
            name: Of the file, as the catalogue has it.
            part: The share that is read.
        """
        super().__init__(stretches)
        self._part = part
        encoded = name.encode("utf-8", "surrogateescape")
        self._start = int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "big")

    def cover(self, first: int, n_rows: int) -> bool:
        """Whether all rows of `first` ... are settled or foreign."""
        return super().cover(first, n_rows) or self.open_rows(first, n_rows) == []

    def open_rows(self, first: int, n_rows: int) -> list[int] | None:
        """Which of the rows of `first` ... are neither, counted from `first`; None when all are open."""
        blocks = range(first // BLOCK_ROWS, (first + n_rows - 1) // BLOCK_ROWS + 1)
        own = {block for block in blocks if self._part.has(self._start + block)}
        if not own:
            return []
        found = super().open_rows(first, n_rows)
        if len(own) == len(blocks):
            return found
        return [at for at in (range(n_rows) if found is None else found) if (first + at) // BLOCK_ROWS in own]
