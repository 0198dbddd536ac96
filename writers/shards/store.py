"""Shards that are there already: their ids for marking, and the judgement on one that no ledger knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import DamageError, SinkError
from engine.ledger import durable
from engine.memory.ids import IdType
from engine.records import Fingerprint, ShardFacts
from writers.files.hashed_file import size_and_sha256
from writers.shards.positions import count_of
from writers.shards.schema import (
    EMBEDDING,
    ID,
    KEY_EPOCH,
    KEY_FINGERPRINT,
    KEY_ID_DIGEST,
    KEY_LEDGER,
    KEY_POSITIONS,
    KEY_ROWS,
    TRUNCATED_COLUMN,
    ShardSchema,
    combine_digests,
    id_digest,
    id_text,
)

_UNREADABLE = (OSError, ValueError, KeyError, MemoryError, pa.ArrowException)
"""What pyarrow raises on a damaged file: besides its own errors also UnicodeDecodeError for a bit in a column's name,
or a wish for absurd amounts of memory."""


class ParquetShards:
    """The shards folder of a data set, as the engine's recovery sees it."""

    def __init__(self, folder: Path, schema: ShardSchema, fingerprint: Fingerprint, ledger: str) -> None:
        self._folder = folder
        self._schema = schema
        self._fingerprint = fingerprint
        self._ledger = ledger

    def ids(self, file: str) -> Iterator[list[int] | list[str] | list[bytes]]:
        """The ids of a shard, a row group at a time: int, str or bytes by the data set's id type.

        Raises:
            DamageError: the file is missing or cannot be read.
            SinkError: its whole folder is gone.
        """
        try:
            with pq.ParquetFile(self._source(file), page_checksum_verification=True) as parquet:
                for group in range(parquet.num_row_groups):
                    yield parquet.read_row_group(group, columns=[ID]).column(0).to_pylist()
        except _UNREADABLE as error:
            self._require_folder()
            raise DamageError(
                f"the committed shard {self._where(file)} cannot be read ({error}): restore it from a copy; "
                "its documents are not marked from it"
            ) from error

    def check_committed(self, file: str, size_bytes: int, sha256: str) -> None:
        """Compare a committed shard with its COMMIT record, whole.

        Raises:
            DamageError: it is missing or differs.
            SinkError: its whole folder is gone.
        """
        path = self._folder / file
        try:
            size, digest = size_and_sha256(path)
        except OSError as error:
            self._require_folder()
            raise DamageError(f"the committed shard {path} cannot be read ({error.strerror})") from error
        if (size, digest) != (size_bytes, sha256):
            raise DamageError(
                f"the committed shard {path} is not what was written (size {size}, expected {size_bytes}; "
                "or another SHA-256): restore it from a copy; its documents are not marked from it"
            )

    def _require_folder(self) -> None:
        """Tell a shard that is missing from a disk that is.

        Raises:
            SinkError: the whole folder is gone.
        """
        if not self._folder.is_dir():
            raise SinkError(
                f"the folder {self._folder} is gone: mount its device again, then run the same command again"
            )

    def inspect_orphan(self, file: str) -> ShardFacts | str:
        """Judge a final-named shard that the ledger does not know: facts to adopt it by, or why it cannot be.

        Everything is read: every page with its checksum, row count and id digest against the footer, every vector
        finite. A shard that passes was complete and fsynced when its writer died before the COMMIT.
        """
        try:
            with pq.ParquetFile(self._source(file), page_checksum_verification=True) as parquet:
                return self._judge(file, parquet)
        except _UNREADABLE as error:
            return f"cannot be read whole: {error}"

    def _judge(self, file: str, parquet: pq.ParquetFile) -> ShardFacts | str:
        footer: dict[bytes, bytes] = parquet.schema_arrow.metadata or {}
        footer = {**footer, **(parquet.metadata.metadata or {})}
        if footer.get(KEY_LEDGER) != self._ledger.encode():
            return "belongs to another ledger"
        theirs = Fingerprint.from_dict(orjson.loads(footer[KEY_FINGERPRINT]))
        if differences := self._fingerprint.differences(theirs):
            return f"has another fingerprint: {', '.join(differences)}"
        if not parquet.schema_arrow.equals(self._schema.arrow(), check_metadata=False):
            return "has another schema"
        digests, first, last, truncated = [], "", "", 0
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group)
            vectors = table.column(EMBEDDING).combine_chunks()
            if vectors.null_count or not np.isfinite(vectors.flatten().to_numpy(zero_copy_only=False)).all():
                return f"row group {group} holds vectors that are not finite"
            ids = table.column(ID)
            digests.append(id_digest(ids))
            first = first or id_text(ids[0])
            last = id_text(ids[-1])
            if self._schema.truncated:
                truncated += int(np.count_nonzero(table.column(TRUNCATED_COLUMN).to_numpy()))
        digest = combine_digests(digests)
        rows = parquet.metadata.num_rows
        if not rows or footer.get(KEY_ROWS) != str(rows).encode() or footer.get(KEY_ID_DIGEST) != digest.encode():
            return "holds other rows than its footer says"
        positions = footer[KEY_POSITIONS].decode() if KEY_POSITIONS in footer else None
        if positions is not None and count_of(positions) != rows:
            return "holds other rows of its source than its footer says"
        size, sha256 = self._size_and_sha256(file)
        return ShardFacts(
            shard=file.removesuffix(".parquet"),
            file=file,
            bytes=size,
            sha256=sha256,
            rows=rows,
            id_digest=digest,
            first_id=first,
            last_id=last,
            truncated=truncated,
            sequences=(0, 0),
            epoch=int(footer[KEY_EPOCH]),
            positions=positions,
        )

    def names(self) -> set[str]:
        """Names of all files where finished shards are."""
        return {path.name for path in self._folder.iterdir()}

    def has(self, file: str) -> bool:
        """Whether the shard is there."""
        return (self._folder / file).exists()

    def elsewhere(self, prefix: str) -> list[str]:
        """Names of shards that are not in the folder: none, it is where they stay."""
        return []

    def deposit(self, facts: ShardFacts) -> None:
        """See that a sound shard is where committed ones stay: it is."""

    def size_there(self, file: str) -> int | None:
        """Bytes of a shard in the folder, None when it is not there.

        Raises:
            SinkError: the whole folder is gone, or cannot be looked into.
        """
        try:
            return (self._folder / file).stat().st_size
        except FileNotFoundError:
            self._require_folder()
            return None
        except OSError as error:
            raise SinkError(f"cannot look at {self._folder / file} ({error.strerror}): repair its device") from error

    def remove(self, file: str) -> None:
        """Remove a shard that is in no ledger; OSError when the folder does not do it."""
        durable.point("shard.before_remove")
        durable.unlink(self._folder / file)
        durable.fsync_folder(self._folder)

    def release(self, file: str) -> None:
        """Let a copy go that was kept until its documents are settled: there is none."""

    def set_aside(self, file: str) -> str:
        """Give a shard that is `elsewhere` another name; never called here.

        Raises:
            DamageError: always.
        """
        raise DamageError(f"{self._folder / file} is not elsewhere")

    def _source(self, file: str) -> Any:
        """What pyarrow opens."""
        return self._folder / file

    def _size_and_sha256(self, file: str) -> tuple[int, str]:
        return size_and_sha256(self._folder / file)

    def _where(self, file: str) -> str:
        """Path or URL, for messages."""
        return str(self._folder / file)

    @property
    def id_type(self) -> IdType:
        """What `ids` yields."""
        return self._schema.id_type
