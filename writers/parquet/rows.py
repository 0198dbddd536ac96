"""Rows of any Parquet file as a merge wants them: columns in its schema's types, vectors as a matrix."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa

from engine.errors import ConfigError
from writers.parquet.merge_schema import MergeSchema
from writers.proof.digests import Matrix


def to_others(name: str, batch: pa.RecordBatch | pa.Table, schema: MergeSchema) -> pa.Table:
    """All columns but the vectors, in the schema's order and types.

    Raises:
        ConfigError: a null id, or a value that its type cannot hold.
        ArrowInvalid: a nested column holds what cannot be.
    """
    arrays: list[pa.Array | pa.ChunkedArray] = []
    for source, kind in schema.sources:
        column = batch.column(source)
        if not arrays and column.null_count:  # the id is the first
            raise ConfigError(f"{name} holds {column.null_count} rows without an id: remove them first")
        if pa.types.is_nested(kind):
            # these are hashed by way of Python's values, which text that is not UTF-8 does not have
            column.validate(full=True)
        if column.type != kind:
            try:
                column = column.cast(kind)
            except pa.ArrowInvalid as error:
                raise ConfigError(f"{name}: column {source!r} does not fit {kind}: {error}") from error
        arrays.append(column)
    return pa.Table.from_arrays(arrays, schema=schema.others)


def to_matrix(name: str, column: pa.Array | pa.ChunkedArray, schema: MergeSchema, first_row: int) -> Matrix:
    """The vectors of some rows as (n_rows, dim) of the schema's number type, contiguous.

    Args:
        first_row: Number of the first of these rows in its file, for the message.

    Raises:
        ConfigError: a null vector, a null number, one that is too large, or a vector of another length: names the file
            and the row.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(column, pa.ChunkedArray):  # what combine_chunks leaves of no chunk at all
        return np.empty((0, schema.dim), dtype=schema.dtype)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]) + first_row
        raise ConfigError(f"{name}: the vector in row {row} is null: remove that row first")
    leaf = _leaves(name, column, schema.dim, first_row)
    if leaf.null_count:
        at = int(np.flatnonzero(leaf.is_null().to_numpy(zero_copy_only=False))[0])
        raise ConfigError(f"{name}: the vector in row {at // schema.dim + first_row} holds a null: remove that row")
    values = leaf.to_numpy(zero_copy_only=False)
    if values.dtype.itemsize <= schema.dtype.itemsize:
        return np.ascontiguousarray(values, dtype=schema.dtype).reshape(-1, schema.dim)
    try:
        with np.errstate(over="raise"):
            return np.ascontiguousarray(values, dtype=schema.dtype).reshape(-1, schema.dim)
    except FloatingPointError as error:
        beyond = np.isfinite(values) & (np.abs(values) > np.finfo(schema.dtype).max)
        row = int(np.flatnonzero(beyond)[0]) // schema.dim + first_row
        raise ConfigError(
            f"{name}: the vector in row {row} holds a number beyond {schema.vector_type}: remove that row"
        ) from error


def _leaves(name: str, column: pa.Array, dim: int, first_row: int) -> pa.Array:
    """The numbers of all vectors, back to back; each vector has to have `dim` of them."""
    if pa.types.is_fixed_size_list(column.type):
        # One length for all, compared with the footer's schema before; no vector is null.
        return column.values.slice(column.offset * dim, len(column) * dim)
    width = 8 if pa.types.is_large_list(column.type) else 4
    n_rows = len(column)
    buffer, start = column.buffers()[1], column.offset * width
    even = _even_offsets(n_rows, dim, width)
    # A slice of a buffer is not held against the buffer's own size.
    if start + even.size <= buffer.size and buffer.slice(start, even.size).equals(even):
        return column.values.slice(0, n_rows * dim)
    offsets = np.frombuffer(buffer, dtype=f"<i{width}", count=column.offset + n_rows + 1)[column.offset :]
    first = int(offsets[0])
    if (offsets[1:] - offsets[:-1] == dim).all():
        return column.values.slice(first, n_rows * dim)
    row = int(np.flatnonzero(np.diff(offsets) != dim)[0])
    raise ConfigError(
        f"{name}: the vector in row {row + first_row} has {int(offsets[row + 1] - offsets[row])} numbers, "
        f"expected {dim}: remove that row, or merge the file into a folder of its own"
    )


@lru_cache(maxsize=4)
def _even_offsets(n_rows: int, dim: int, width: int) -> pa.Buffer:
    """Offsets of vectors of `dim` numbers, back to back: most blocks have as many rows, and are compared at once."""
    return pa.py_buffer(np.arange(0, (n_rows + 1) * dim, dim).astype(f"<i{width}"))
