"""How large the pieces are that the nodes of a cluster are given runs of."""

from __future__ import annotations

SMALLEST_ROWS = 500
_PIECES_A_NODE = 128


def piece_rows(n_rows: int, n_nodes: int) -> int:
    """About how many rows of so many a piece should have, so that nodes of unlike speed keep busy to the end."""
    return max(SMALLEST_ROWS, n_rows // (_PIECES_A_NODE * max(1, n_nodes)))
