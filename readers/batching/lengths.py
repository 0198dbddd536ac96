"""How long the texts are that were read: their characters in all, and how a sample of them is distributed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

EVERY = 64
"""One text of that many is looked at: a distribution needs no more, and the reader counts microseconds."""
STEPS_PER_DOUBLING = 2


def bucket_of(characters: int) -> int:
    """The number of the bucket that a length falls into; two buckets double it."""
    return round(STEPS_PER_DOUBLING * math.log2(max(1, characters)))


class LengthSample:
    """Lengths of texts, in characters.

    Attributes:
        characters: Of all texts, before any was cut.
        counts: Texts of the sample by bucket.
    """

    def __init__(self) -> None:
        self.characters = 0
        self.counts: Counter[int] = Counter()
        self._skip = 0

    def add(self, texts: Sequence[str], characters: int) -> None:
        """Add the texts of a page.

        Args:
            characters: Of all of them.
        """
        self.characters += characters
        for text in texts[self._skip :: EVERY]:
            self.counts[bucket_of(len(text))] += 1
        self._skip = (self._skip - len(texts)) % EVERY

    def sparse(self) -> dict[str, int]:
        """The counts, for a message."""
        return {str(bucket): count for bucket, count in sorted(self.counts.items())}
