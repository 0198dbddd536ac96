"""What the writer process is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.memory.ids import IdType
from writers.shards.schema import ShardSchema

ROW_GROUP_BYTES = 24 << 20
"""Vectors in a row group, before compression: bounded in bytes, because a million 768-d rows would be 3 GB."""


HOT_SHARDS = 8
"""Full shards that may lie whole on hot: being uploaded to a store, or committed and not marked yet. More hold the
writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterSettings:
    """Settings of the writer stage.

    Attributes:
        folder: The shards folder.
        prefix: Start of every shard name of this epoch; a number follows.
        shard_bytes: A shard is sealed when its file has grown to that.
        shard_seconds: A shard is sealed when its first row is that old.
        row_group_bytes: Bytes of vectors in a row group.
        names_file: For files as a source, whose slots hold positions in place of ids: where the files' names stand
            (`writers.shards.positions.RowNames`). None when slots hold ids.
        has_id_field: Whether the first carried value of such a slot is the id; without it the id is `file#row`.
        id_type, columns, dim, vector_type, truncated: See `writers.shards.schema.ShardSchema`.
        fingerprint: For the footer (`engine.records.Fingerprint.as_dict`).
        canary: The servers' vectors of the canary texts, for the footer (`writers.parquet.canary`); may be empty.
        ledger: Id of the ledger, for the footer.
        version: Version of the engine, for the footer.
        cold: The store that shards are uploaded to (`writers.cold.settings.ColdSettings.as_dict`), None when they
            stay in `folder`.
    """

    folder: str
    prefix: str
    shard_bytes: int
    shard_seconds: float
    id_type: str
    columns: tuple[tuple[str, str], ...]
    dim: int
    vector_type: str
    truncated: bool
    fingerprint: dict[str, Any]
    ledger: str
    version: str
    canary: str = ""
    row_group_bytes: int = ROW_GROUP_BYTES
    names_file: str | None = None
    has_id_field: bool = False
    cold: dict[str, Any] | None = None

    def schema(self) -> ShardSchema:
        """The columns of a shard."""
        return ShardSchema(
            id_type=IdType(self.id_type),
            columns=self.columns,
            dim=self.dim,
            vector_type=self.vector_type,
            truncated=self.truncated,
        )

    def folder_path(self) -> Path:
        """The shards folder."""
        return Path(self.folder)

    @property
    def hot_bytes(self) -> int:
        """Bytes of whole shards that may lie on hot on their way to a store."""
        return HOT_SHARDS * self.shard_bytes

    def row_group_rows(self) -> int:
        """Rows in a full row group, at least one."""
        return max(1, self.row_group_bytes // (4 * self.dim))

    def as_dict(self) -> dict[str, Any]:
        """For the message that starts the process."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> WriterSettings:
        """Read `as_dict` back."""
        columns = tuple((str(name), str(kind)) for name, kind in values["columns"])
        return cls(**{**values, "columns": columns})
