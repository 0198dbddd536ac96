"""Encrypted Parquet files, which nothing here has the keys of.

pyarrow says so of a file whose footer is encrypted. Of one that hides columns behind a readable footer it does not: it
ends the whole process when such a column's metadata is looked at. Source: Apache Parquet, "Parquet Modular Encryption".
"""

from __future__ import annotations

from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import ConfigError
from writers.parquet import thrift

_MAGIC_OF_ENCRYPTED = b"PARE"
_END_BYTES = 8
_ENCRYPTION_ALGORITHM = 8
"""The field of a readable footer that says that columns are encrypted; a signature stands behind such a footer."""


def end_of(source: pa.NativeFile) -> bytes:
    """The last bytes of a file: the footer's length and the magic."""
    end: bytes = source.read_at(_END_BYTES, max(0, source.size() - _END_BYTES))
    return end


def refuse_encrypted_footer(name: str, end: bytes) -> None:
    """Refuse a file whose footer cannot be read without a key.

    Args:
        end: See `end_of`.

    Raises:
        ConfigError: it is such a file.
    """
    if end[4:] == _MAGIC_OF_ENCRYPTED:
        _refuse(name)


def refuse_encrypted_columns(name: str, source: pa.NativeFile, end: bytes, parquet: pq.ParquetFile) -> None:
    """Refuse a file with a readable footer and columns that cannot be read without a key.

    Args:
        end: See `end_of`.

    Raises:
        ConfigError: it is such a file.
    """
    footer_bytes = int.from_bytes(end[:4], "little")
    if footer_bytes == parquet.metadata.serialized_size:
        return  # without a signature: nearly always, and told without looking at the footer's fields
    footer = source.read_at(footer_bytes, source.size() - _END_BYTES - footer_bytes)
    try:
        fields, _ = thrift.read_struct(footer)
    except thrift.ThriftError:
        return  # that is for pyarrow to judge
    if _ENCRYPTION_ALGORITHM in fields:
        _refuse(name)


def _refuse(name: str) -> NoReturn:
    raise ConfigError(f"{name} is encrypted: write it anew without encryption, or move it away")
