"""How well the vectors of two fleets agree: cosines text by text, and whether they name the same neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.errors import ConfigError
from gpu_clients.vectors.decode import Matrix
from gpu_clients.vectors.soundness import scale_to_unit

NEIGHBOURS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well two fleets agree on the texts that both have embedded.

    Attributes:
        n_texts: How many.
        dims: Numbers in a vector of either fleet.
        lowest_cosine, mean_cosine: Of a text's two vectors; None where they have unlike dimensions.
        n_neighbours: Nearest other texts that are compared, `NEIGHBOURS` or fewer.
        overlap: Share of a text's nearest texts by one fleet that are among those by the other, on average.
    """

    n_texts: int
    dims: tuple[int, int]
    lowest_cosine: float | None
    mean_cosine: float | None
    n_neighbours: int
    overlap: float


def agreement_of(one: Mapping[int, Matrix], other: Mapping[int, Matrix]) -> Agreement:
    """Compare two fleets' vectors, by the number of their text, float32 (1, dim) each.

    Raises:
        ConfigError: fewer than three texts were embedded by both.
    """
    both = sorted(set(one) & set(other))
    if len(both) < 3:
        raise ConfigError(
            f"only {len(both)} texts were embedded by both fleets: name more texts, or look at the servers"
        )
    left, right = (np.concatenate([rows[number] for number in both]) for rows in (one, other))
    scale_to_unit(left)
    scale_to_unit(right)
    cosines = np.einsum("ij,ij->i", left, right) if left.shape == right.shape else None
    k = min(NEIGHBOURS, len(both) - 1)
    near = [_nearest(matrix, k) for matrix in (left, right)]
    shared = [len(set(a) & set(b)) for a, b in zip(near[0].tolist(), near[1].tolist(), strict=True)]
    return Agreement(
        n_texts=len(both),
        dims=(left.shape[1], right.shape[1]),
        lowest_cosine=None if cosines is None else float(cosines.min()),
        mean_cosine=None if cosines is None else float(cosines.mean()),
        n_neighbours=k,
        overlap=float(np.mean(shared)) / k,
    )


def _nearest(matrix: Matrix, k: int) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    """The k nearest other rows of each row, int (n, k), in no order."""
    scores = matrix @ matrix.T
    np.fill_diagonal(scores, -np.inf)
    return np.argpartition(-scores, k - 1, axis=1)[:, :k]
