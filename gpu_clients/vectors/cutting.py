"""The longest beginning of a text that a server takes which has no option to cut: looked for by halving.

What is found hangs on the text and the server's limit alone: whoever looks again finds the same beginning.
"""

from __future__ import annotations

_PRECISION = 32
"""A text is cut to within a 32nd of what the server takes ..."""
_SHORTEST = 16
"""... and one of so few characters is not cut."""


class LongestBeginning:
    """One search.

    Attributes:
        taken: Characters of the longest beginning that is known to be taken; 0 as long as none is.
    """

    def __init__(self, n_characters: int) -> None:
        """
        Args:
            n_characters: Of the whole text, which was refused.
        """
        self.taken = 0
        self._refused = n_characters

    def next(self) -> int | None:
        """Characters to try, None when it is precise enough."""
        if self._refused - self.taken <= max(1, self._refused // _PRECISION) or self._refused < _SHORTEST:
            return None
        return (self.taken + self._refused) // 2

    def tell(self, n_characters: int, *, is_taken: bool) -> None:
        """What became of a try."""
        if is_taken:
            self.taken = n_characters
        else:
            self._refused = n_characters
