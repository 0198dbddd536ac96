"""Is this a vector? One cheap pass over every matrix that comes in (G8), and a closer look only where it stumbles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_clients.vectors.decode import Matrix

NORM_TOLERANCE = 1e-3
"""|norm - 1| allowed in a vector that is said to be normalised; float16 models stay below 5e-4."""

MIN_COSINE = 0.999
"""Two servers, or one server at two times, that embed one text less alike than that are not in one vector space."""


def unsound_rows(matrix: Matrix, *, normalized: bool) -> list[int]:
    """Rows of a float32 matrix (n, dim) that are no embeddings: not finite, zero, of a wrong norm, or constant.

    The sum of squares of a row is NaN or infinite as soon as one of its numbers is, so one pass answers it all. A
    constant row shows by its first two numbers being equal, which in a sound row happens by chance only.
    """
    squares = np.einsum("ij,ij->i", matrix, matrix)
    if normalized:
        # |norm - 1| < t  <=>  |norm^2 - 1| < 2 t, for small t; a NaN makes the comparison false
        sound = np.abs(squares - 1.0) < 2 * NORM_TOLERANCE
    else:
        sound = (squares > 0.0) & (squares < np.inf)
    if sound.all() and not _any_equal_pair(matrix):
        return []
    bad = ~sound
    if matrix.shape[1] > 1:
        bad |= (matrix == matrix[:, :1]).all(axis=1)
    rows: list[int] = np.flatnonzero(bad).tolist()
    return rows


def scale_to_unit(matrix: Matrix) -> None:
    """Bring every row of a float32 matrix (n, dim) to length 1, in place; rows without a length stay as they are."""
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    usable = (lengths > 0.0) & (lengths < np.inf)
    matrix /= np.where(usable, lengths, 1.0).astype(np.float32)[:, None]


def _any_equal_pair(matrix: Matrix) -> bool:
    return bool((matrix[:, 0] == matrix[:, min(1, matrix.shape[1] - 1)]).any()) and matrix.shape[1] > 1


def repeated_rows(matrix: Matrix) -> list[int]:
    """Rows that stand in the matrix before; looks at the first number of each row and closer only where two agree."""
    firsts = matrix[:, 0].tolist()
    if len(set(firsts)) == len(firsts):
        return []
    seen: set[bytes] = set()
    repeated = []
    for row, vector in enumerate(matrix):
        raw = vector.tobytes()
        if raw in seen:
            repeated.append(row)
        seen.add(raw)
    return repeated


def share_one_vector(matrix: Matrix, texts: Sequence[str]) -> bool:
    """Whether most different texts of a batch came back as one and the same vector.

    Single repetitions prove nothing: an uncased model does not tell "Hello" from "hello".
    """
    by_text = {text: vector.tobytes() for text, vector in zip(texts, matrix, strict=True)}
    return len(by_text) >= 3 and 2 * len(set(by_text.values())) <= len(by_text)


def lowest_cosine(left: Matrix, right: Matrix) -> float:
    """The lowest cosine between the rows of two matrices of one shape; NaN when a row is no vector."""
    left64, right64 = left.astype(np.float64), right.astype(np.float64)
    products = np.einsum("ij,ij->i", left64, right64)
    lengths = np.sqrt(np.einsum("ij,ij->i", left64, left64) * np.einsum("ij,ij->i", right64, right64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((products / lengths).min())
