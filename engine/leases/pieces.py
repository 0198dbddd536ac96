"""The pieces of a cut that nobody holds: taken in runs of neighbours, and put back."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class FreePieces:
    """The free pieces of a cut, as stretches of neighbours in the order of the queue.

    Attributes:
        documents: Estimate of the documents in them.
    """

    def __init__(self, documents: Sequence[int]) -> None:
        """
        Args:
            documents: Estimate for each piece; one that is thought empty counts as one document, because it may not be.
        """
        self._weights = [max(1, number) for number in documents]
        self._firsts = [0] if self._weights else []
        self._lasts = [len(self._weights)] if self._weights else []
        self.documents = sum(self._weights)

    def __len__(self) -> int:
        """Stretches of free pieces."""
        return len(self._firsts)

    @property
    def next_documents(self) -> int:
        """Estimate of the documents in the piece that is taken next; there has to be one."""
        return self._weights[self._firsts[0]]

    def take(self, documents: int) -> tuple[int, int, int]:
        """Take neighbours from the front of the queue, of about so many documents, one piece at least.

        Returns:
            The first piece, the one behind the last, and an estimate of the documents in them.
        """
        first, end = self._firsts[0], self._lasts[0]
        last, found = first + 1, self._weights[first]
        while last < end and found + self._weights[last] <= documents:
            found += self._weights[last]
            last += 1
        if last == end:
            del self._firsts[0], self._lasts[0]
        else:
            self._firsts[0] = last
        self.documents -= found
        return first, last, found

    def put_back(self, first: int, last: int, rows: int) -> None:
        """Put neighbours back.

        Args:
            rows: Rows of theirs that are committed; a reader goes by the order of the queue, so they are of the first.
        """
        for piece in range(first, last):
            gone = min(rows, self._weights[piece] - 1)
            self._weights[piece] -= gone
            rows -= gone
        self.documents += sum(self._weights[first:last])
        at = bisect_left(self._firsts, first)
        if at < len(self._firsts) and self._firsts[at] == last:
            last = self._lasts[at]
            del self._firsts[at], self._lasts[at]
        if at and self._lasts[at - 1] == first:
            self._lasts[at - 1] = last
        else:
            self._firsts.insert(at, first)
            self._lasts.insert(at, last)
