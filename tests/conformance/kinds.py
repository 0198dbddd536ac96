"""One file of each kind that the product writes, with the rows that it has to hold."""

from __future__ import annotations

import datetime
import decimal
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from engine.memory.ids import IdType
from tests.conformance import rows
from tests.writers.dataset import DataSet
from writers.merge.config import MergeConfig
from writers.merge.merge import merge
from writers.shards.schema import EMBEDDING, ID, carried_array, vector_array

CARRIED = (
    ("lang", "string"),
    ("n", "int64"),
    ("score", "double"),
    ("seen", "bool"),
    ("at", "timestamp"),
    ("more", "json"),
    ("nothing", "string"),
)
"""A column of every type that a run carries, and one that no document has."""

MAX_ROWS = 2000

FOREIGN_KINDS = {
    ID: "int",
    "small": "int",
    "real": "float",
    "blob": "bytes",
    "day": "date",
    "price": "decimal",
    "when": "local",
    "tags": "list<int>",
    "pair": "struct<a:int,b:text>",
}

_KINDS = {"string": "text", "json": "text", "int64": "int"}
_STRINGS = ["", "é€😀", "tab\tand\nline", "x" * 3000, "nul\x00inside", "'\"\\"]
_INTS = [-(2**63), 2**63 - 1, 0, -1]
_DOUBLES = [-0.0, 5e-324, 1.7976931348623157e308, 0.1]
_MILLIS = [-62135596800000, 253402300799999, 0, -1, 1764284000123]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of file.

    Attributes:
        form: `shard`, `merged`, `sorted`, or `foreign` (merged from another writer's files).
        id_type, vector_type, dim, columns: Of the data set.
        n_rows: Rows of the whole file.
        row_group_rows: Rows of a shard's row groups.
        row_group_bytes: Bytes of a merged file's row groups.
    """

    form: str
    id_type: IdType = IdType.INT64
    vector_type: str = "float32"
    dim: int = 16
    columns: tuple[tuple[str, str], ...] = CARRIED
    n_rows: int = 250
    row_group_rows: int = 100
    row_group_bytes: int = 1 << 20
    note: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.form, self.id_type.value, self.vector_type, self.note)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A file, and what has to come out of it.

    Attributes:
        path: The file.
        kinds: Columns beside the vector, in order, with their kinds in the words of `rows`.
        vector_type: `float32` or `float16`.
        ids: Of every row, as pyarrow gives them.
        lines: Every row as text.
    """

    path: Path
    kinds: dict[str, str]
    vector_type: str
    ids: list[Any] = field(repr=False)
    lines: list[str] = field(repr=False)


def _every_kind() -> Iterator[Kind]:
    for vector_type in ("float32", "float16"):
        for id_type in IdType:
            for form in ("shard", "merged", "sorted"):
                yield Kind(form=form, id_type=id_type, vector_type=vector_type)
        yield Kind(form="foreign", vector_type=vector_type)
    for form in ("shard", "merged", "sorted"):
        yield Kind(form=form, n_rows=1, note="one-row")
        yield Kind(form=form, columns=(), note="no-columns")
        yield Kind(form=form, n_rows=MAX_ROWS, row_group_rows=7, row_group_bytes=1 << 16, note="many-row-groups")
        yield Kind(form=form, dim=768, n_rows=800, row_group_rows=800, columns=CARRIED[:1], note="many-pages")


KINDS = tuple(_every_kind())


def write(kind: Kind, folder: Path) -> Written:
    """Write a file of a kind into an empty folder, by the product's own parts."""
    numbers = list(range(kind.n_rows))
    if kind.form == "foreign":
        return _write_foreign(kind, folder, numbers)
    data = OddDataSet(
        folder,
        id_type=kind.id_type,
        dim=kind.dim,
        vector_type=kind.vector_type,
        columns=kind.columns,
        row_group_rows=kind.row_group_rows,
    )
    try:
        if kind.form == "shard":
            data.add_shard(numbers)
            found = data.folders.shards
        else:
            cut = kind.n_rows // 3
            for part in (numbers[:cut], numbers[cut:]):
                if part:
                    data.add_shard(part)
            sort = "_id" if kind.form == "sorted" else "none"
            merge(data.config(sort=sort, file_bytes=1 << 30, row_group_bytes=kind.row_group_bytes))
            found = data.folders.consolidated
    finally:
        data.close()
    (path,) = found.glob("*.parquet")
    ids = odd_ids(numbers, kind.id_type)
    order = sorted(numbers, key=lambda number: _sort_key(ids[number])) if kind.form == "sorted" else numbers
    return Written(
        path=path,
        kinds=data.kinds,
        vector_type=kind.vector_type,
        ids=[ids[number] for number in order],
        lines=data.lines(order),
    )


def _sort_key(identifier: Any) -> Any:
    return identifier.encode() if isinstance(identifier, str) else identifier


@dataclass(slots=True)
class OddDataSet(DataSet):
    """A data set whose values are those that readers stumble over: extremes, empty and long texts, nulls."""

    def table(self, numbers: Sequence[int]) -> pa.Table:
        """The rows of some documents, made by the functions that the writer process uses."""
        arrow = self.schema.arrow()
        arrays = [pa.array(odd_ids(numbers, self.id_type), type=arrow.field(ID).type)]
        for place, (_, kind) in enumerate(self.columns):
            arrays.append(carried_array(kind, [_carried(kind, place, number) for number in numbers]))
        arrays.append(vector_array(self.schema, odd_vectors(numbers, self.dim)))
        return pa.Table.from_arrays(arrays, schema=arrow)

    @property
    def kinds(self) -> dict[str, str]:
        """Columns beside the vector in the words of `rows`."""
        id_kind = {IdType.INT64: "int", IdType.OBJECTID: "bytes"}.get(self.id_type, "text")
        return {ID: id_kind, **{name: _KINDS.get(kind, kind) for name, kind in self.columns}}

    def lines(self, numbers: Sequence[int]) -> list[str]:
        """The same rows as text, without Arrow or Parquet."""
        columns: dict[str, list[Any]] = {ID: odd_ids(numbers, self.id_type)}
        for place, (name, kind) in enumerate(self.columns):
            columns[name] = [_carried(kind, place, number) for number in numbers]
            if kind == "timestamp":
                columns[name] = [value if value is None else _utc(value) for value in columns[name]]
        matrix = odd_vectors(numbers, self.dim).astype(self.vector_type)
        return rows.lines({name: (self.kinds[name], values) for name, values in columns.items()}, matrix)


def odd_ids(numbers: Sequence[int], id_type: IdType) -> list[Any]:
    """The ids of documents by their numbers; their order is not the order of the numbers."""
    scrambled = [(number * 7919) % 1_000_003 for number in numbers]
    if id_type is IdType.INT64:
        extremes = dict(enumerate(_INTS[:2]))
        return [extremes.get(n, value - 500_000) for n, value in zip(numbers, scrambled, strict=True)]
    if id_type is IdType.OBJECTID:
        extremes_12 = {0: b"\x00" * 12, 1: b"\xff" * 12}
        return [extremes_12.get(n, value.to_bytes(12, "little")) for n, value in zip(numbers, scrambled, strict=True)]
    if id_type is IdType.STRING:
        odd = dict(enumerate(_STRINGS))
        return [odd.get(n, f"id-{value}") for n, value in zip(numbers, scrambled, strict=True)]
    forms = (lambda v: v, str, lambda v: {"$oid": f"{v:024x}"}, lambda v: {"a": v, "b": [v, None, "é"]})
    return [
        json.dumps(forms[n % 4](value), ensure_ascii=n % 8 < 4, separators=(",", ":"))
        for n, value in zip(numbers, scrambled, strict=True)
    ]


def odd_vectors(numbers: Sequence[int], dim: int) -> npt.NDArray[np.float32]:
    """The vectors of documents by their numbers: of length 1, but for some with bits that are seldom met."""
    matrix = _unit_vectors(dim)[list(numbers)]
    for row, number in enumerate(numbers):
        if number % 50 == 3:
            matrix[row, :8] = [-0.0, 0.0, 1.0, -1.0, 1e-42, -6e-8, 3.0e-5, 65504.0]
    return matrix


@functools.cache
def _unit_vectors(dim: int) -> npt.NDArray[np.float32]:
    matrix = np.random.default_rng(dim).standard_normal((MAX_ROWS, dim), dtype=np.float32)
    return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), dtype=np.float32)


def _carried(kind: str, place: int, number: int) -> Any:
    """A value as it stands in a slot (JSON; timestamps as milliseconds); some are null, the last column's all."""
    if (number + place) % 5 == 0 or place == len(CARRIED) - 1:
        return None
    if kind == "json":
        return json.dumps({"n": number, "deep": [{"é": _STRINGS[number % len(_STRINGS)]}]}, ensure_ascii=False)
    if kind == "bool":
        return number % 2 == 0
    odd: list[Any] = {"int64": _INTS, "double": _DOUBLES, "timestamp": _MILLIS}.get(kind, _STRINGS)
    if number % 3 == 0:
        return odd[number // 3 % len(odd)]
    return {"int64": number * 3, "double": number / 7, "timestamp": number * 86_400_001}.get(kind, f"w{number % 9}")


def _utc(millis: int) -> datetime.datetime:
    return rows.UTC_EPOCH + datetime.timedelta(milliseconds=millis)


def _write_foreign(kind: Kind, folder: Path, numbers: list[int]) -> Written:
    """Two files of another writer, with columns that a run never writes, merged."""
    source, target = folder / "source", folder / "target"
    source.mkdir()
    columns: dict[str, tuple[pa.DataType, list[Any]]] = {
        ID: (pa.int64(), odd_ids(numbers, IdType.INT64)),
        "small": (pa.int32(), [None if n % 5 == 0 else n - 100 for n in numbers]),
        "real": (pa.float32(), [None if n % 5 == 1 else n / 8 for n in numbers]),
        "blob": (pa.binary(), [None if n % 5 == 2 else bytes([n % 256] * (n % 4)) for n in numbers]),
        "day": (pa.date32(), [datetime.date(1969, 12, 1) + datetime.timedelta(days=n) for n in numbers]),
        "price": (pa.decimal128(20, 3), [decimal.Decimal(n * 10**14 - 5).scaleb(-3) for n in numbers]),
        "when": (pa.timestamp("us"), [datetime.datetime(2026, 1, 1, 0, 0, 0, n) for n in numbers]),
        "tags": (pa.list_(pa.int32()), [None if n % 5 == 3 else [n, None] * (n % 3) for n in numbers]),
        "pair": (
            pa.struct([("a", pa.int64()), ("b", pa.string())]),
            [None if n % 5 == 4 else {"a": n, "b": None if n % 2 else "é"} for n in numbers],
        ),
    }
    matrix = odd_vectors(numbers, kind.dim).astype(kind.vector_type)
    for name, part in (("a", slice(0, 100)), ("b", slice(100, None))):
        arrays = {column: pa.array(values[part], of) for column, (of, values) in columns.items()}
        arrays[EMBEDDING] = pa.array(list(matrix[part]), pa.list_(pa.from_numpy_dtype(matrix.dtype)))
        pq.write_table(pa.table(arrays), source / f"{name}.parquet", row_group_size=60)
    merge(MergeConfig(source=source, target=target, jobs=1))
    (path,) = target.glob("*.parquet")
    return Written(
        path=path,
        kinds=FOREIGN_KINDS,
        vector_type=kind.vector_type,
        ids=columns[ID][1],
        lines=rows.lines({name: (FOREIGN_KINDS[name], values) for name, (_, values) in columns.items()}, matrix),
    )
