"""Virtual time: what happens when, and what an ideal fleet would have done by then."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """Virtual time: events one after the other.

    Attributes:
        now: Seconds since the start.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._n_events = 0

    def at(self, delay_s: float, what: Callable[..., None], *arguments: Any) -> None:
        """Have something happen later."""
        self._n_events += 1
        heapq.heappush(self._events, (self.now + delay_s, self._n_events, what, arguments))

    def step(self) -> None:
        """Let the next thing happen."""
        self.now, _, what, arguments = heapq.heappop(self._events)
        what(*arguments)


class Ideal:
    """A fleet with the same nodes at the same times that embeds nothing twice and never pauses.

    Attributes:
        seconds: When it would have been done, None before.
    """

    def __init__(self, documents: int) -> None:
        self.seconds: float | None = None
        self._left, self._rate, self._since = float(documents), 0.0, 0.0

    def add(self, rate: float, now: float) -> None:
        """Nodes of so many documents a second come, or go."""
        done = self._rate * (now - self._since)
        if self.seconds is None and self._rate and done >= self._left:
            self.seconds = self._since + self._left / self._rate
        self._left -= done
        self._rate += rate
        self._since = now
