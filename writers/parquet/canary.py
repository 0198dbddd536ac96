"""The vectors of the canary texts in footers, compared: were these files written by servers of one vector space?

What a footer holds is made by whoever knows the servers: JSON with `texts`, a name for each text, and `vectors`, the
leading numbers of their vectors as float16 in base64, one row a text. Rows of the same text are compared.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import orjson

from writers.shards.schema import KEY_CANARY

MIN_COSINE = 0.999
"""As between servers at a start."""


def strangeness(theirs: str, known: Iterable[str]) -> float | None:
    """The cosine with the nearest of the known canaries when that is too low; None when it is not, or not known."""
    cosines = [cosine for one in known if (cosine := lowest_cosine(one, theirs)) is not None]
    return None if not cosines or max(cosines) >= MIN_COSINE else max(cosines)


def canary_differences(theirs: str, known: tuple[str, ...]) -> list[str]:
    """A phrase when the vectors of the canary texts are others than all that are known."""
    cosine = strangeness(theirs, known)
    if cosine is None:
        return []
    return [f"the servers' vectors of the canary texts are others (cosine {cosine:.4f}, expected {MIN_COSINE})"]


def canaries_of(pairs: dict[bytes, bytes]) -> tuple[str, ...]:
    """What a footer holds; empty when it says nothing."""
    said = pairs.get(KEY_CANARY, b"").decode(errors="replace")
    return (said,) if said else ()


def lowest_cosine(mine: str, theirs: str) -> float | None:
    """The lowest cosine of the vectors of texts that both have; None without one, or when one cannot be read."""
    here, there = _rows(mine), _rows(theirs)
    cosines = [_cosine(row, there[text]) for text, row in here.items() if text in there]
    return min(cosines, default=None)


def _cosine(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if one.shape == other.shape and lengths else 0.0


def _rows(text: str) -> dict[str, npt.NDArray[np.float64]]:
    try:
        said = orjson.loads(text)
        names = [str(name) for name in said["texts"]]
        numbers = np.frombuffer(base64.b64decode(said["vectors"], validate=True), dtype="<f2")
        rows = numbers.reshape(len(names), -1).astype(np.float64)
    except (orjson.JSONDecodeError, binascii.Error, KeyError, TypeError, ValueError):
        return {}
    return dict(zip(names, rows, strict=True)) if np.isfinite(rows).all() else {}
