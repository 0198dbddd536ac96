"""Digests that prove rows: of a whole file whatever the order of its rows, and of single ids.

`row_hashes` gives every row one 64-bit number made of its id, its vector's bytes and its carried values, so that a
vector at another id, a swapped byte or a changed column shows. A file's digest is the sum of its rows' numbers modulo
2^64: it does not depend on order, adds up over files and subtracts a dropped row. It costs 0.3 us for a row of 768
float32. It guards against mistakes (of this code, of memory, of a disk that lies); against intent there is SHA-256.

Within a row the hash is multilinear, sum of word x random odd weight: any single flipped bit changes it (of two, only
the highest bits of two words cancel). A bijective mixer behind it makes the sum over rows anything but linear. Source:
Dietzfelbinger et al., "multilinear hashing"; Steele et al., SplitMix64.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Matrix = npt.NDArray[Any]
"""Vectors, (n_rows, dim), float32 or float16, contiguous."""

Words = npt.NDArray[np.uint64]
MASK = (1 << 64) - 1

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0x452821E638D01377)  # digits of pi, as the seeds below
_VECTOR_SEED, _FIXED_SEED, _COLUMN_SEED = 0x243F6A88, 0x85A308D3, 0x03707344


def _weights(seed: int, count: int) -> Words:
    random = np.random.Generator(np.random.PCG64(seed))
    return random.integers(0, 1 << 64, count, dtype=np.uint64) | np.uint64(1)


def mix(words: Words) -> Words:
    """A bijection of 64-bit words in which every bit of the input moves half of the output."""
    state = words + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state ^ (state >> np.uint64(31)), dtype=np.uint64)


class RowHasher:
    """Hashes rows of one shape; keeps its weights."""

    def __init__(self, dim: int, item_bytes: int) -> None:
        row_bytes = dim * item_bytes
        width = next(width for width in (8, 4, 2, 1) if row_bytes % width == 0)
        self._word = np.dtype(f"<u{width}")
        self._weights = _weights(_VECTOR_SEED, row_bytes // width)

    def vector_hashes(self, matrix: Matrix) -> Words:
        """One word for each row of a contiguous (n_rows, dim) matrix, of the bytes as they stand in memory."""
        words = matrix.view(self._word)
        if self._word.itemsize < 8:
            words = words.astype(np.uint64)
        return np.asarray(np.einsum("ij,j->i", words, self._weights), dtype=np.uint64)

    def row_hashes(self, others: pa.Table | pa.RecordBatch, matrix: Matrix) -> Words:
        """One word for each row: of its vector and of all other columns (the id first)."""
        return self.with_columns(self.vector_hashes(matrix), others)

    def with_columns(self, vector_hashes: Words, others: pa.Table | pa.RecordBatch) -> Words:
        """The hashes of rows whose vectors are hashed already."""
        state = vector_hashes
        for number, column in enumerate(others.columns):
            state = mix(state + mix(column_hashes(column) ^ np.uint64(_COLUMN_SEED * (2 * number + 1))))
        return state


def ordered(hashes: Words) -> int:
    """One number for the hashes of consecutive rows; unlike `total` it depends on their order."""
    return int((hashes * np.arange(1, 2 * len(hashes), 2, dtype=np.uint64)).sum(dtype=np.uint64))


def total(hashes: Words) -> int:
    """Sum modulo 2^64."""
    return int(hashes.sum(dtype=np.uint64))


def column_hashes(column: pa.Array | pa.ChunkedArray) -> Words:
    """One word for each value of a column of any type; a null is not the same as any value."""
    if isinstance(column, pa.ChunkedArray):
        parts = [column_hashes(chunk) for chunk in column.chunks]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)
    hashes = _value_hashes(column)
    if column.null_count:
        hashes = np.where(column.is_null().to_numpy(zero_copy_only=False), _NULL, hashes)
    return hashes


def _value_hashes(column: pa.Array) -> Words:
    kind = column.type
    if pa.types.is_boolean(kind):
        return mix(column.fill_null(False).to_numpy(zero_copy_only=False).astype(np.uint64))
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _text_hashes(column)
    if pa.types.is_fixed_size_binary(kind):
        return _fixed_hashes(column)
    if pa.types.is_primitive(kind) and kind.bit_width in (8, 16, 32, 64):
        width = kind.bit_width // 8
        raw = np.frombuffer(column.buffers()[1], dtype=f"<u{width}", count=column.offset + len(column))
        return mix(raw[column.offset :].astype(np.uint64))
    return _text_hashes(pa.array(_python_texts(column), type=pa.binary()))  # rare: nested types


_NO_VALUE = (ValueError, OverflowError, KeyError)
"""Python's types cannot hold it; KeyError: its time zone is not known on this machine."""


def _python_texts(column: pa.Array) -> list[bytes]:
    """Values as Python writes them; the same wherever it runs, for the digests of files are kept for years."""
    if not _holds_nanoseconds(column.type):  # of these pyarrow makes objects of pandas, where that is installed
        with contextlib.suppress(*_NO_VALUE):
            return [repr(value).encode() for value in column.to_pylist()]
    return [repr(_python_value(value)).encode() for value in column]


def _holds_nanoseconds(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if kind.num_fields:
        return any(_holds_nanoseconds(kind.field(number).type) for number in range(kind.num_fields))
    return bool(pa.types.is_temporal(kind)) and getattr(kind, "unit", "") == "ns"


def _python_value(value: pa.Scalar) -> Any:
    """`value.as_py()`; of a time that Python's own types cannot hold, its number."""
    if not value.is_valid:
        return None
    if isinstance(value, pa.DictionaryScalar):
        return _python_value(value.value)
    if isinstance(value, pa.StructScalar):
        names = [field.name for field in value.type]
        values = [_python_value(value[number]) for number in range(len(names))]
        return dict(zip(names, values, strict=True)) if len(set(names)) == len(names) else values
    if isinstance(value, pa.MapScalar):
        return [(_python_value(item[0]), _python_value(item[1])) for item in value.values]
    if isinstance(value, pa.ListScalar):  # of any kind
        return [_python_value(item) for item in value.values]
    if not pa.types.is_temporal(value.type):
        return value.as_py()
    try:
        if getattr(value.type, "unit", "") == "ns":
            value = value.cast(_in_microseconds(value.type))
        return value.as_py()
    except _NO_VALUE:
        return value.value


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.duration("us") if pa.types.is_duration(kind) else pa.time64("us")


def _text_hashes(column: pa.Array) -> Words:
    """Values of any length: CRC-32 and length; a call a value is faster here than anything vectorised per byte."""
    values = _raw_values(column.fill_null(b"" if pa.types.is_binary(column.type) else ""))
    checks = np.fromiter(map(zlib.crc32, values), dtype=np.uint64, count=len(values))
    lengths = np.fromiter(map(len, values), dtype=np.uint64, count=len(values))
    return mix(checks | lengths << np.uint64(32))


def _fixed_hashes(column: pa.Array) -> Words:
    width = column.type.byte_width
    raw = np.frombuffer(column.buffers()[1], dtype=np.uint8, count=(column.offset + len(column)) * width)
    rows = raw.reshape(-1, width)[column.offset :]
    padded = np.zeros((len(column), -(-width // 8) * 8), dtype=np.uint8)
    padded[:, :width] = rows
    weights = _weights(_FIXED_SEED, padded.shape[1] // 8)
    return mix(np.einsum("ij,j->i", padded.view("<u8"), weights))


def id_keys(column: pa.Array | pa.ChunkedArray) -> Words:
    """A 128-bit key for each id, uint64 (n_rows, 2), equal for equal ids; the first word is evenly spread.

    For int64 and object ids the key is a bijection of the id, so different ids never meet. For strings it is
    BLAKE2b: two of 400 million ids meet with a chance of 2^-72.
    """
    if isinstance(column, pa.ChunkedArray):
        parts = [id_keys(chunk) for chunk in column.chunks]
        return np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.uint64)
    keys = np.zeros((len(column), 2), dtype=np.uint64)
    if pa.types.is_integer(column.type):
        keys[:, 0] = mix(column.to_numpy(zero_copy_only=False).astype("<i8", copy=False).view("<u8"))
    elif pa.types.is_fixed_size_binary(column.type) and column.type.byte_width <= 16:
        width = column.type.byte_width
        raw = np.frombuffer(column.buffers()[1], dtype=np.uint8, count=(column.offset + len(column)) * width)
        padded = np.zeros((len(column), 16), dtype=np.uint8)
        padded[:, :width] = raw.reshape(-1, width)[column.offset :]
        words = padded.view("<u8")
        keys[:, 0] = mix(words[:, 0] ^ mix(words[:, 1]))  # the second word gives the first one back
        keys[:, 1] = words[:, 1]
    else:
        keys[:] = np.frombuffer(b"".join(_blake(value) for value in _raw_values(column)), dtype="<u8").reshape(-1, 2)
    return keys


def _raw_values(column: pa.Array) -> list[Any]:
    values: list[Any] = column.cast(pa.binary()).to_pylist()
    return values


def _blake(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=16).digest()
