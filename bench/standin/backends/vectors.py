"""Made-up unit vectors: cheap, deterministic, and unlike each other.

A row is a stream of splitmix64 numbers, seeded by a keyed BLAKE2b hash of the text. Integer arithmetic makes it the
same on every machine and in every batch; 32 rows of 768 cost about 6 us each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bench.standin.api.encoding import Rows

#: Length of the made-up vectors before normalisation, so that `normalize: false` can be seen.
RAW_NORM = 8.0

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def text_rows(model: str, texts: Sequence[str], dim: int) -> Rows:
    """Return one unit vector per text, float32 (len(texts), dim); depends on `model` and the text only."""
    keyed = hashlib.blake2b(digest_size=8, key=hashlib.blake2b(model.encode(), digest_size=16).digest())
    digests = []
    for text in texts:
        one = keyed.copy()
        one.update(text.encode("utf-8", "surrogatepass"))
        digests.append(one.digest())
    return _rows_of(np.frombuffer(b"".join(digests), dtype="<u8"), dim)


def numbered_rows(model: str, n_rows: int, dim: int) -> Rows:
    """Return the fixed unit vectors of row 0, 1, ..., float32 (n_rows, dim); the first rows never change."""
    return text_rows(model, [str(number) for number in range(n_rows)], dim)


def numbered_token_rows(model: str, n_tokens: Sequence[int], dim: int) -> list[Rows]:
    """Return a made-up vector for each token of each text, float32 (tokens, dim)."""
    return [numbered_rows(model, count, dim) * RAW_NORM for count in n_tokens]


def shaped(rows: Rows, dimensions: int | None, normalize: bool) -> Rows:
    """Return `rows` cut to `dimensions`, then L2-normalised (norm in float64, result float32).

    A zero row becomes NaN, as the real server's division by zero does.
    """
    if dimensions is not None:
        rows = rows[:, :dimensions]
    if normalize:
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            rows = (rows / norms[:, None]).astype(np.float32)
    return np.ascontiguousarray(rows)


_LENGTHS = (256, 326, 540, 753, 2_048)
_COSINES = (1.0, 0.9998, 0.989, 0.981, 0.939)
"""Of a text's vector without its window of 512 tokens, by the text's length; observed with random weights."""


def without_window(rows: Rows | None, n_tokens: Sequence[int], which: Sequence[int], window: int) -> Rows | None:
    """Return the rows, those of `which` turned as a model turns them that loses its sliding window."""
    if rows is None:
        return None
    touched = list(which)
    lengths = np.array([n_tokens[row] for row in touched], dtype=np.float64) * 512 / window
    cosines = np.interp(lengths, _LENGTHS, _COSINES)[:, None]
    old = rows[touched].astype(np.float64)
    aside = np.roll(old, 1, axis=1)
    aside -= old * ((aside * old).sum(axis=1) / (old * old).sum(axis=1))[:, None]
    aside *= (np.linalg.norm(old, axis=1) / np.linalg.norm(aside, axis=1))[:, None]
    turned = rows.copy()
    turned[touched] = cosines * old + np.sqrt(1 - cosines**2) * aside
    return turned


def of_another_model(rows: Rows) -> Rows:
    """Return the rows turned into another space: sound, as different between texts as before, and wrong."""
    turned = np.ascontiguousarray(rows[:, ::-1])
    turned[:, ::2] *= -1
    return turned


def _rows_of(seeds: npt.NDArray[np.uint64], dim: int) -> Rows:
    # steps as an array: numpy warns about overflow of scalars only
    steps = np.arange(1, (dim + 1) // 2 + 1, dtype=np.uint64) * _STEP
    mixed = seeds[:, None] + steps[None, :]
    shifted = np.empty_like(mixed)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        np.right_shift(mixed, np.uint64(shift), out=shifted)
        np.bitwise_xor(mixed, shifted, out=mixed)
        np.multiply(mixed, factor, out=mixed)
    np.right_shift(mixed, np.uint64(31), out=shifted)
    np.bitwise_xor(mixed, shifted, out=mixed)
    rows = mixed.astype("<u8", copy=False).view("<i4")[:, :dim].astype(np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    rows /= norms[:, None]
    return rows
