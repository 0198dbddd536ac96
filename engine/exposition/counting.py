"""Counts that outlive the process that told them: a generation begins at 0, a counter of Prometheus may not."""

from __future__ import annotations

from typing import Any

from engine.memory.channels import Message


class Accumulated:
    """The counts of the processes of one role, over all generations.

    What a process does between its last word and its end, half a second at most, is not counted.

    Attributes:
        now: What the living process told last, empty when there is none.
    """

    def __init__(self) -> None:
        self.now: Message = {}
        self._generation = 0
        self._ended: Message = {}

    def update(self, generation: int, facts: Message) -> None:
        """Take what the process of a generation told last; empty when it has told nothing."""
        if generation != self._generation or not facts:
            self._ended = added(self._ended, self.now)
        self._generation = generation
        self.now = facts

    @property
    def total(self) -> Message:
        """The sums of all counts; what is no count is as the living process told it."""
        return added(self._ended, self.now)


def added(first: Message, second: Message) -> Message:
    """Two messages added up: numbers, and mappings within them; of anything else the second one's."""
    sums: dict[str, Any] = dict(first)
    for name, value in second.items():
        before = sums.get(name)
        if isinstance(value, dict):
            sums[name] = added(before if isinstance(before, dict) else {}, value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and isinstance(before, int | float):
            sums[name] = before + value
        else:
            sums[name] = value
    return sums
