"""Builds the hot and cold folders of a data set as a run leaves them, with the run's own parts, in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from engine.ledger.log import Ledger, RunState
from engine.ledger.recovery import commit_record
from engine.ledger.runfolder import RunFolders
from engine.memory.ids import IdType
from engine.records import Fingerprint, ShardFacts
from writers.merge.config import MergeConfig
from writers.shards.schema import EMBEDDING, ID, ShardSchema, vector_array
from writers.shards.shard import OpenShard, ShardIdentity

DATABASE, COLLECTION, DONE_FIELD = "db", "docs", "done"
LEDGER_ID = "0123456789ab"


def fingerprint(dim: int, **changes: Any) -> Fingerprint:
    """The vector space of a test's data set."""
    values: dict[str, Any] = {
        "model_id": "test/model",
        "model_sha": "abc",
        "dtype": "float32",
        "pooling": "mean",
        "prompt": None,
        "dim": dim,
        "normalize": True,
        "server_version": "1.9.0",
    }
    return Fingerprint(**{**values, **changes})


def vectors_of(numbers: Sequence[int] | npt.NDArray[np.int64], dim: int) -> npt.NDArray[np.float32]:
    """A unit vector for each document, a function of its number only."""
    rows = [np.random.Generator(np.random.PCG64(int(number))).standard_normal(dim) for number in numbers]
    matrix = np.array(rows, dtype=np.float32).reshape(len(rows), dim)
    return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), dtype=np.float32)


def ids_of(numbers: Sequence[int], id_type: IdType) -> list[Any]:
    """The ids of documents by their numbers; their order is not the order of the numbers."""
    if id_type is IdType.INT64:
        return [(number * 7919) % 1_000_003 - 500_000 for number in numbers]
    if id_type is IdType.OBJECTID:
        return [((number * 7919) % 1_000_003).to_bytes(12, "big")[::-1] for number in numbers]
    return [f"id-{(number * 7919) % 1_000_003}" for number in numbers]


@dataclass(slots=True)
class DataSet:
    """A run's folders, and how to add shards to them."""

    root: Path
    id_type: IdType = IdType.INT64
    dim: int = 16
    vector_type: str = "float32"
    columns: tuple[tuple[str, str], ...] = ()
    row_group_rows: int = 100
    canary: str = ""
    folders: RunFolders = field(init=False)
    schema: ShardSchema = field(init=False)
    ledger: Ledger[RunState] = field(init=False)
    n_shards: int = 0

    def __post_init__(self) -> None:
        self.folders = RunFolders.of(self.root / "hot", self.root / "cold", DATABASE, COLLECTION, DONE_FIELD)
        self.folders.make()
        self.schema = ShardSchema(
            id_type=self.id_type, columns=self.columns, dim=self.dim, vector_type=self.vector_type, truncated=False
        )
        self.ledger = Ledger(self.folders.ledger, RunState())
        if self.ledger.state.run is None:
            self.ledger.append(
                {
                    "type": "RUN",
                    "ledger": LEDGER_ID,
                    "format": 1,
                    "fingerprint": fingerprint(self.dim).as_dict(),
                    "schema": {
                        "id_type": self.id_type.value,
                        "columns": [list(column) for column in self.columns],
                        "dim": self.dim,
                        "vector_type": self.vector_type,
                        "truncated": False,
                    },
                    "database": DATABASE,
                    "collection": COLLECTION,
                    "done_field": DONE_FIELD,
                    "canary_brief": self.canary,
                }
            )
            self.ledger.append({"type": "EPOCH", "epoch": 1, "at": 0.0})

    def table(self, numbers: Sequence[int]) -> pa.Table:
        """The rows of some documents."""
        arrow = self.schema.arrow()
        arrays = [pa.array(ids_of(numbers, self.id_type), type=arrow.field(ID).type)]
        for name, kind in self.columns:
            arrays.append(pa.array([carried(kind, number) for number in numbers], type=arrow.field(name).type))
        arrays.append(vector_array(self.schema, vectors_of(numbers, self.dim)))
        return pa.Table.from_arrays(arrays, schema=arrow)

    def add_shard(self, numbers: Sequence[int], *, commit: bool = True, marked: bool = True) -> ShardFacts:
        """Write one shard the way the writer process does; commit and mark it unless told otherwise."""
        self.n_shards += 1
        identity = ShardIdentity(
            name=f"{DONE_FIELD}-{LEDGER_ID[:6]}-e0001-{self.n_shards:06d}",
            epoch=1,
            ledger=LEDGER_ID,
            version="0.1.0",
            fingerprint=fingerprint(self.dim).as_dict(),
            canary=self.canary,
        )
        shard = OpenShard(self.folders.shards, identity, self.schema)
        for start in range(0, len(numbers), self.row_group_rows):
            table = self.table(numbers[start : start + self.row_group_rows])
            shard.append(table, truncated=0, sequences=(start, start))
        shard.seal()
        facts = shard.name()
        if commit:
            self.ledger.append(commit_record(facts))
            if marked:
                self.mark(facts.shard, facts.rows)
        return facts

    def mark(self, shard: str, rows: int) -> None:
        """Append the MARKED record of a shard."""
        self.ledger.append({"type": "MARKED", "shard": shard, "matched": rows, "already": 0, "gone": 0, "epoch": 1})

    def config(self, **options: Any) -> MergeConfig:
        """A merge of this data set, with small files and one worker unless told otherwise."""
        settings: dict[str, Any] = {"jobs": 1, "file_bytes": 1 << 16, "row_group_bytes": 1 << 16, **options}
        return MergeConfig.of_collection(
            self.root / "hot", self.root / "cold", DATABASE, COLLECTION, DONE_FIELD, **settings
        )

    def close(self) -> None:
        """Close the ledger, as the end of the run does."""
        self.ledger.close()


def carried(kind: str, number: int) -> Any:
    """A value of a carried column; every fifth is null."""
    if number % 5 == 0:
        return None
    return {"int64": number * 3, "double": number / 7, "bool": number % 2 == 0}.get(kind, f"text {number}")


def read_outputs(folder: Path) -> pa.Table:
    """All rows of a folder's Parquet files by pyarrow, in the order of names, every page checksum compared."""
    files = sorted(folder.glob("*.parquet"))
    return pa.concat_tables([pq.read_table(path, page_checksum_verification=True) for path in files])


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    """Rows as plain values, vectors as their bytes, to compare exactly."""
    others = [table.column(name).to_pylist() for name in table.column_names if name != EMBEDDING]
    vectors = [bytes(np.array(vector, dtype=np.float64).tobytes()) for vector in table.column(EMBEDDING).to_pylist()]
    return list(zip(*others, vectors, strict=True))


def outputs(data: DataSet) -> list[Path]:
    return sorted(data.folders.consolidated.glob("*.parquet"))


def stray(data: DataSet) -> list[str]:
    """What a merge must not leave behind."""
    hot = [path.name for path in data.folders.hot.iterdir() if path.name not in ("ledger", "lock")]
    cold = [path.name for path in data.folders.consolidated.iterdir()]
    return hot + [name for name in cold if name.endswith((".inprogress", ".tmp", ".merge-tmp"))]
