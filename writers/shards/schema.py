"""The Parquet schema of a data set, and how slots become Arrow arrays without a copy.

Contract: `_id` first, in the source's own type; then the carried columns; then `embedding` as
`fixed_size_list<float32 not null>[dim] not null` (`halffloat` when asked for). zstd, page checksums, statistics on
`_id` only. Vectors are BYTE_STREAM_SPLIT: the bytes of equal significance stand together, where zstd finds
something (2,600 bytes a row of 768 against 3,085 plain). float16 is written PLAIN, because DuckDB 2.0 fails on
FLOAT16 with BYTE_STREAM_SPLIT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.memory.ids import IdType

ID = "_id"
EMBEDDING = "embedding"
TRUNCATED_COLUMN = "truncated"
ZSTD_LEVEL = 1

KEY_VERSION = b"engine.version"
KEY_FINGERPRINT = b"engine.fingerprint"
KEY_CANARY = b"engine.canary"
KEY_SHARD = b"engine.shard"
KEY_ROWS = b"engine.rows"
KEY_EPOCH = b"engine.epoch"
KEY_ID_TYPE = b"id_type"
KEY_LEDGER = b"engine.ledger"
KEY_ID_DIGEST = b"engine.id_digest"
KEY_ROW_DIGEST = b"engine.row_digest"
KEY_POSITIONS = b"engine.positions"
KEY_MERGE = b"engine.merge"
KEY_LINEAGE = b"engine.lineage"

_COLUMN_TYPES: dict[str, pa.DataType] = {
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.timestamp("ms", tz="UTC"),
    "json": pa.string(),
}
"""Types of carried columns, as the reader names them; `json` is relaxed extended JSON in a string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSchema:
    """Everything that decides the columns of a shard.

    Attributes:
        id_type: Type of `_id`.
        columns: Name and type (`_COLUMN_TYPES`) of the carried columns, in order.
        dim: Numbers in a vector.
        vector_type: `float32` or `float16`.
        truncated: Whether the boolean column `truncated` is written.
    """

    id_type: IdType
    columns: tuple[tuple[str, str], ...]
    dim: int
    vector_type: str
    truncated: bool = False

    def arrow(self) -> pa.Schema:
        """The Arrow schema."""
        id_metadata = {KEY_ID_TYPE: b"objectid"} if self.id_type is IdType.OBJECTID else None
        fields = [pa.field(ID, _id_arrow_type(self.id_type), nullable=False, metadata=id_metadata)]
        fields += [pa.field(name, _COLUMN_TYPES[kind]) for name, kind in self.columns]
        if self.truncated:
            fields.append(pa.field(TRUNCATED_COLUMN, pa.bool_(), nullable=False))
        fields.append(pa.field(EMBEDDING, self.vector_arrow_type(), nullable=False))
        return pa.schema(fields)

    def vector_arrow_type(self) -> pa.DataType:
        """`fixed_size_list<float32 not null>[dim]`, or of halffloat."""
        element = pa.float16() if self.vector_type == "float16" else pa.float32()
        return pa.list_(pa.field("element", element, nullable=False), self.dim)


def _id_arrow_type(id_type: IdType) -> pa.DataType:
    if id_type is IdType.INT64:
        return pa.int64()
    if id_type is IdType.OBJECTID:
        return pa.binary(12)
    return pa.string()


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """Arguments of `pyarrow.parquet.ParquetWriter` for every file of a data set, shard or consolidated."""
    vectors = schema.field(EMBEDDING).type
    leaf = f"{EMBEDDING}.list.element"
    options: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": ZSTD_LEVEL,
        "use_dictionary": [name for name in schema.names if name not in (ID, EMBEDDING)],
        "write_statistics": [ID],
        "write_page_checksum": True,
        "data_page_size": 1 << 20,
        "store_schema": True,
    }
    if vectors.value_type == pa.float32():
        options["use_byte_stream_split"] = [leaf]
    return options


def id_array(id_type: IdType, blob: memoryview | bytes, n_rows: int) -> pa.Array:
    """The id column of one slot as an Arrow array over the same memory (see `engine.memory.ids`)."""
    if id_type is IdType.INT64:
        return pa.Array.from_buffers(pa.int64(), n_rows, [None, pa.py_buffer(blob)])
    if id_type is IdType.OBJECTID:
        return pa.Array.from_buffers(pa.binary(12), n_rows, [None, pa.py_buffer(blob)])
    offsets_bytes = 4 * (n_rows + 1)
    view = memoryview(blob)
    buffers = [None, pa.py_buffer(view[:offsets_bytes]), pa.py_buffer(view[offsets_bytes:])]
    return pa.Array.from_buffers(pa.string(), n_rows, buffers)


def id_text(value: pa.Scalar) -> str:
    """An id of the `_id` column as text, for records and messages."""
    if isinstance(value, pa.StringScalar):
        return str(value.as_buffer().to_pybytes(), errors="replace")  # others' files may hold text that is no UTF-8
    plain = value.as_py()
    return plain.hex() if isinstance(plain, bytes) else str(plain)


def carried_array(kind: str, values: list[Any]) -> pa.Array:
    """A carried column from the JSON values that stand in the slots (timestamps as milliseconds since 1970)."""
    if kind == "timestamp":
        return pa.array(values, type=pa.int64()).cast(_COLUMN_TYPES[kind])
    return pa.array(values, type=_COLUMN_TYPES[kind])


def vector_array(schema: ShardSchema, matrix: npt.NDArray[np.float32]) -> pa.Array:
    """A matrix float32 (n_rows, dim) as an Arrow array; over the same memory unless it becomes float16."""
    values: npt.NDArray[Any] = matrix.reshape(-1)
    if schema.vector_type == "float16":
        values = values.astype(np.float16)
    leaf = pa.array(values)
    return pa.FixedSizeListArray.from_arrays(leaf, type=schema.vector_arrow_type())


def id_digest(column: pa.Array | pa.ChunkedArray) -> str:
    """A digest of the set of ids in a column, 32 hexadecimal digits.

    Two lanes, each the sum modulo 2^64 of a 64-bit hash of every id. Sums do not depend on the order of rows and add
    up over files (`combine_digests`), so a consolidated or sorted file is compared with its sources by one value. It
    guards against mistakes; the files' SHA-256 guards against everything else.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return _join_lanes([_lanes_of(chunk) for chunk in chunks])


def combine_digests(digests: Iterable[str]) -> str:
    """The digest of the union of disjoint sets of ids."""
    return _join_lanes([(int(digest[:16], 16), int(digest[16:], 16)) for digest in digests])


def _join_lanes(lanes: list[tuple[int, int]]) -> str:
    return "".join(f"{sum(lane[side] for lane in lanes) % (1 << 64):016x}" for side in (0, 1))


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SEEDS = (np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344))  # digits of pi


def _lanes_of(chunk: pa.Array) -> tuple[int, int]:
    if pa.types.is_integer(chunk.type):
        words = [chunk.to_numpy(zero_copy_only=False).astype("<i8", copy=False).view("<u8")]
    elif pa.types.is_fixed_size_binary(chunk.type):
        raw = np.frombuffer(chunk.buffers()[1], dtype=np.uint8)[chunk.offset * 12 : (chunk.offset + len(chunk)) * 12]
        halves = np.zeros((len(chunk), 16), dtype=np.uint8)
        halves[:, :12] = raw.reshape(-1, 12)
        pairs = halves.view("<u8")
        words = [pairs[:, 0], pairs[:, 1]]
    else:
        digest = hashlib.blake2b
        values = chunk.cast(pa.binary()).to_pylist()
        joined = b"".join(digest(value, digest_size=16).digest() for value in values)
        pairs = np.frombuffer(joined, dtype="<u8").reshape(-1, 2)
        return int(pairs[:, 0].sum(dtype=np.uint64)), int(pairs[:, 1].sum(dtype=np.uint64))
    return _mixed_sum(words, _SEEDS[0]), _mixed_sum(words, _SEEDS[1])


def _mixed_sum(words: list[npt.NDArray[np.uint64]], seed: np.uint64) -> int:
    """Sum modulo 2^64 of the mixed words of every row. Source of the mixer: Steele et al., SplitMix64."""
    with np.errstate(over="ignore"):
        state = np.full(len(words[0]), seed, dtype=np.uint64)
        for word in words:
            state = (state ^ word) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
        return int(state.sum(dtype=np.uint64))
