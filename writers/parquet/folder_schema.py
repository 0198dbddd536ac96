"""The schema of a folder of foreign files: that of its first file that holds rows.

Spark writes a file without rows where it has nothing for its first partition; such a file may leave the dimension of
its vectors, or the types of its columns, open.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from writers.parquet.merge_schema import MergeSchema, schema_of_file
from writers.parquet.opening import UNREADABLE, open_parquet, unreadable


def schema_of_folder(
    files: Iterable[tuple[str, Path]], id_column: str | None, vector_column: str | None
) -> MergeSchema | None:
    """The schema that a folder's files set for themselves.

    Args:
        files: Their names, as they are called in messages, and where they are; in order.
        id_column, vector_column: Names of these columns, or None for the usual ones.

    Returns:
        The schema, or None when there is no file.

    Raises:
        ConfigError: see `schema_of_file`, or a file is encrypted.
        DamageError: a file cannot be read.
    """
    first: tuple[str, Path] | None = None
    for name, path in files:
        first = first or (name, path)
        if (schema := _schema_of(name, path, id_column, vector_column, empty=False)) is not None:
            return schema
    return None if first is None else _schema_of(*first, id_column, vector_column, empty=True)


def _schema_of(
    name: str, path: Path, id_column: str | None, vector_column: str | None, *, empty: bool
) -> MergeSchema | None:
    """The schema of one file; None when it has no row, unless it may be `empty`."""
    try:
        parquet = open_parquet(name, pa.OSFile(os.fspath(path)))
        if not (parquet.metadata.num_rows or empty):
            return None
        return schema_of_file(name, parquet, id_column, vector_column)
    except UNREADABLE as error:
        raise unreadable(name, error) from error
