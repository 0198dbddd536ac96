"""Hashes of rows and keys of ids."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tests.writers.dataset import vectors_of
from writers.proof.digests import RowHasher, id_keys, total


def test_hashes_are_those_that_stand_in_the_footers_of_earlier_versions() -> None:
    """Files are kept for years: a digest that changes calls every one of them damaged."""
    columns = {
        "_id": range(20),
        "word": [f"w{row}" for row in range(20)],
        "n": [None, 1.5] * 10,
        "b": [b"\xff" * 12] * 20,
        "l": [[1, 2], None] * 10,
    }
    matrix = (np.arange(140, dtype=np.float32) / 7).reshape(20, 7)
    assert f"{total(RowHasher(7, 4).row_hashes(pa.table(columns), matrix)):016x}" == "ac67dd4855cea529"


def test_every_flipped_bit_of_a_row_changes_its_hash_and_order_changes_no_sum() -> None:
    hasher = RowHasher(7, 4)
    matrix = vectors_of(range(20), 7)
    others = pa.table({"_id": range(20), "word": [f"w{row}" for row in range(20)], "n": [None, 1.5] * 10})
    hashes = hasher.row_hashes(others, matrix)
    order = np.random.default_rng(1).permutation(20)
    shuffled = hasher.row_hashes(others.take(pa.array(order)), np.ascontiguousarray(matrix[order]))
    assert total(shuffled) == total(hashes) and (shuffled == hashes[order]).all()
    raw = matrix.view(np.uint32)
    for bit in range(7 * 32):
        raw[3, bit // 32] ^= np.uint32(1 << bit % 32)
        changed = hasher.row_hashes(others, matrix)
        assert changed[3] != hashes[3] and (np.delete(changed, 3) == np.delete(hashes, 3)).all()
        raw[3, bit // 32] ^= np.uint32(1 << bit % 32)
    swapped = np.ascontiguousarray(matrix[[1, 0, *range(2, 20)]])
    assert total(hasher.row_hashes(others, swapped)) != total(hashes)
    assert total(
        hasher.row_hashes(others.set_column(2, "n", pa.array([None, 1.5] * 9 + [None, None])), matrix)
    ) != total(hashes)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([5, -5, 2**63 - 1, -(2**63), 0]),
        pa.array([bytes([n]) * 12 for n in range(5)], pa.binary(12)),
        pa.array(["", "a", "aa", "b", "é"]),
    ],
)
def test_ids_have_keys_of_their_own_wherever_the_array_begins(column: pa.Array) -> None:
    keys = id_keys(column)
    assert len({tuple(key) for key in keys.tolist()}) == len(column)
    assert (id_keys(column.slice(2)) == keys[2:]).all()
    assert (id_keys(pa.chunked_array([column.slice(0, 2), column.slice(2)])) == keys).all()
