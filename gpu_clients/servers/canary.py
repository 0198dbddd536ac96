"""The canary: fixed texts whose vectors are known from the start, asked for again whenever a server is in doubt.

Three texts of unlike length, in arrangements that make servers err in different ways: *mixed* (all three), *equal*
(the long one twice: a batch without padding, where TEI's Gemma loses its sliding-window mask) and *alone*; the *short*
one by itself costs next to nothing and is asked for many times. A server
whose vectors hang on the neighbours is warned about at start; later a text's vector has to match one of those seen
at start, whatever the arrangement, because under load a server mixes requests anyway.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass

import numpy as np
import orjson
import pybase64

from gpu_clients.vectors.decode import Matrix
from gpu_clients.vectors.soundness import MIN_COSINE, lowest_cosine

_SHORT = "The quick brown fox"
_MEDIUM = (
    "Wer \u00fcber gewisse Dinge den Verstand nicht verliert, der hat keinen zu verlieren. \u201cOK\u201d \U0001f60a #1"
)
_PARAGRAPH = (
    "The harbour lay quiet before sunrise, and only the gulls argued over what the boats had left on the pier. "
    "A keeper counted the lamps along the wall, wrote the number into his book, and frowned because it differed by "
    "one from that of the evening. He walked back, tapped every glass with his pencil, and found the missing light "
    "behind a stack of crates which nobody had ordered, addressed to a ship that had never called at this port. "
)
_LONG_CHARACTERS = 1_600
BRIEF_NUMBERS = 256
"""Leading numbers of a vector that stand in every footer: 2 KiB for the three texts."""
KEPT_NUMBERS = 1_024
"""Leading numbers of a reference vector that are kept; more would say nothing more and have to travel."""


class Arrangement(enum.Enum):
    """Which texts stand together in a canary request."""

    MIXED = "mixed"
    EQUAL = "equal"
    ALONE = "alone"
    SHORT = "short"


_TEXTS: dict[Arrangement, tuple[int, ...]] = {
    Arrangement.MIXED: (0, 1, 2),
    Arrangement.EQUAL: (2, 2),
    Arrangement.ALONE: (2,),
    Arrangement.SHORT: (0,),
}


def canary_texts(max_input_length: int | None) -> tuple[str, str, str]:
    """The short, the medium and the long text; the long one is cut so that no server has to cut it."""
    characters = _LONG_CHARACTERS
    if max_input_length is not None:
        characters = max(40, min(characters, 2 * max_input_length))
    medium = _MEDIUM if max_input_length is None or max_input_length >= 64 else _MEDIUM[:20]
    return _SHORT, medium, (_PARAGRAPH * 4)[:characters].rstrip()


def long_text(characters: int) -> str:
    """Ordinary text of so many characters."""
    return (_PARAGRAPH * (characters // len(_PARAGRAPH) + 1))[:characters].rstrip()


def canary_bodies(
    arrangement: Arrangement, max_input_length: int | None, most_texts: int | None
) -> list[tuple[bytes, int]]:
    """The JSON array of texts of an arrangement, and their number; several for a server that takes fewer at a time.

    Args:
        most_texts: Texts that a request may hold, None when any number may.
    """
    texts = canary_texts(max_input_length)
    chosen = [texts[position] for position in _TEXTS[arrangement]]
    size = max(1, min(len(chosen), most_texts or len(chosen)))
    parts = [chosen[at : at + size] for at in range(0, len(chosen), size)]
    return [(orjson.dumps(part), len(part)) for part in parts]


@dataclass(frozen=True, slots=True)
class Canary:
    """Reference vectors of the canary texts.

    Attributes:
        mixed: float32 (3, kept) of the mixed arrangement.
        equal: float32 (2, kept) of the equal arrangement.
        limit: What the texts depend on (`canary_texts`). A server of another limit gets other texts, and is compared
            by those that are the same; the short one always is.
    """

    mixed: Matrix
    equal: Matrix
    limit: int | None = None

    @classmethod
    def of(cls, mixed: Matrix, equal: Matrix, limit: int | None = None) -> Canary:
        """References from full vectors."""
        return cls(mixed[:, :KEPT_NUMBERS].copy(), equal[:, :KEPT_NUMBERS].copy(), limit)

    def encode(self) -> str:
        """The references as text, for the settings of a client and the ledger: `[LIMIT:]BASE64`."""
        rows = np.concatenate([self.mixed, self.equal]).astype("<f4")
        limit = "" if self.limit is None else f"{self.limit}:"
        return limit + pybase64.b64encode(rows.tobytes()).decode()

    @classmethod
    def decode(cls, text: str) -> Canary:
        """Read `encode` back.

        Raises:
            TypeError, ValueError: it is not what `encode` writes.
        """
        limit, colon, rows_text = text.partition(":") if isinstance(text, str) else ("", "", text)
        if not colon:
            limit, rows_text = "", text
        rows = np.frombuffer(pybase64.b64decode(rows_text, validate=True), dtype="<f4").reshape(5, -1)
        return cls(rows[:3], rows[3:], int(limit) if colon else None)

    def brief(self, max_input_length: int | None) -> str:
        """What footers hold of it (`writers.parquet.canary`): each text's vector in the mixed arrangement.

        Args:
            max_input_length: What the texts depend on.
        """
        names = [hashlib.sha256(text.encode()).hexdigest()[:12] for text in canary_texts(max_input_length)]
        numbers = np.ascontiguousarray(self.mixed[:, :BRIEF_NUMBERS], dtype="<f2")
        return orjson.dumps({"texts": names, "vectors": pybase64.b64encode(numbers.tobytes()).decode()}).decode()

    def common(self, limit: int | None) -> frozenset[int]:
        """The texts, by position, that a server of this limit gets as well."""
        both = enumerate(zip(canary_texts(self.limit), canary_texts(limit), strict=True))
        return frozenset(position for position, (ours, theirs) in both if ours == theirs)

    def covers(self, arrangement: Arrangement, limit: int | None) -> bool:
        """Whether there is a reference for a text of this arrangement at a server of this limit."""
        return not self.common(limit).isdisjoint(_TEXTS[arrangement])

    def cosine(self, arrangement: Arrangement, matrix: Matrix, limit: int | None) -> float:
        """The lowest cosine of an answer's vectors with the nearest reference of their text; NaN for no vectors.

        Args:
            limit: Of the server that answered.
        """
        kept = matrix[:, :KEPT_NUMBERS]
        lowest = 1.0
        common = self.common(limit)
        for position, text in enumerate(_TEXTS[arrangement]):
            if text not in common:
                continue
            row = kept[position : position + 1]
            references = [self.mixed[text : text + 1]]
            if text == 2:
                references += [self.equal[:1], self.equal[1:]]
            nearest = max(lowest_cosine(row, reference) for reference in references)
            lowest = nearest if not nearest >= lowest else lowest
        return lowest

    def accepts(self, arrangement: Arrangement, matrix: Matrix, limit: int | None) -> bool:
        """Whether an answer lies in the same vector space as the references."""
        return self.cosine(arrangement, matrix, limit) >= MIN_COSINE

    def neighbours_matter(self) -> bool:
        """Whether the long text's vector changes with its neighbours in the batch, and with nothing else."""
        repeats = lowest_cosine(self.equal[:1], self.equal[1:]) >= MIN_COSINE
        return repeats and not lowest_cosine(self.mixed[2:], self.equal[:1]) >= MIN_COSINE

    def agrees_with(self, other: Canary) -> float:
        """The lowest cosine between two servers' references of the texts that both have."""
        common = sorted(self.common(other.limit))
        mixed = lowest_cosine(self.mixed[common], other.mixed[common])
        return min(mixed, lowest_cosine(self.equal, other.equal)) if 2 in common else mixed
