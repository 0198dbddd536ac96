"""Permits: what a server admits at a time, counted in input texts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Permits:
    """One permit per input text, held from before tokenising until the result is back."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.in_use = 0
        self.peak = 0
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    def take(self, n: int) -> bool:
        """Take `n` permits at once, or none."""
        if self.in_use + n > self.total:
            return False
        self.in_use += n
        self.peak = max(self.peak, self.in_use)
        return True

    def wait(self, n: int, go: Callable[[], None]) -> None:
        """Call `go` with the permits taken, in order of arrival; more than there are waits for all of them."""
        self._waiting.append((min(n, self.total), go))
        self._wake()

    def give_back(self, n: int) -> None:
        """Return permits and let waiting requests in."""
        self.in_use -= n
        self._wake()

    def forget(self, go: Callable[[], None]) -> bool:
        """Take a waiting request out; return whether it was still waiting."""
        for entry in self._waiting:
            if entry[1] == go:
                self._waiting.remove(entry)
                return True
        return False

    def _wake(self) -> None:
        while self._waiting and self.take(self._waiting[0][0]):
            self._waiting.popleft()[1]()
