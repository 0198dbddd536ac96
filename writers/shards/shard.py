"""One shard: open, append, then seal and name, or abort. The file half of the commit order (docs/protocols/commit.md).

A shard grows under a name that ends in `.inprogress`; nobody who globs `*.parquet` sees it. `seal` takes it through
close, check, fsync; `name` through link, fsync of the folder; only the ledger's COMMIT record makes it count. pyarrow's
own verdict is never trusted: after a failed write its `close` may succeed without a footer, and leaving its context
manager after an error writes a valid footer over a part of the rows (both seen with pyarrow 26).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import CommitFailed, DamageError, SinkError
from engine.ledger import durable
from engine.ledger.runfolder import IN_PROGRESS
from engine.records import ShardFacts
from writers.files.new_file import HashedNewFile
from writers.shards.positions import Positions
from writers.shards.schema import (
    ID,
    KEY_CANARY,
    KEY_EPOCH,
    KEY_FINGERPRINT,
    KEY_ID_DIGEST,
    KEY_ID_TYPE,
    KEY_LEDGER,
    KEY_POSITIONS,
    KEY_ROWS,
    KEY_SHARD,
    KEY_VERSION,
    ShardSchema,
    combine_digests,
    id_digest,
    id_text,
    writer_options,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIdentity:
    """What goes into the footer besides the rows."""

    name: str
    epoch: int
    ledger: str
    version: str
    fingerprint: dict[str, Any]
    canary: str = ""


class OpenShard:
    """A shard that is being written; one thread at a time.

    Attributes:
        rows: Rows appended so far.
        identity: Its name and provenance.
    """

    def __init__(self, folder: Path, identity: ShardIdentity, schema: ShardSchema) -> None:
        """Create the file.

        Raises:
            SinkError: it cannot be created.
        """
        self.identity = identity
        self.rows = 0
        self._folder = folder
        self._schema = schema
        self._temporary = folder / f"{identity.name}.parquet{IN_PROGRESS}"
        self._digests: list[str] = []
        self._truncated = 0
        self._first_id = ""
        self._last_id = ""
        self._sequences: tuple[int, int] | None = None
        self._positions: Positions | None = None
        self._poisoned = False
        self._is_sealed = False
        arrow = schema.arrow()
        try:
            self._file = HashedNewFile(self._temporary)
        except OSError as error:
            raise _device_error(folder, error) from error
        try:
            self._writer = pq.ParquetWriter(self._file, arrow, **writer_options(arrow))
        except OSError as error:
            self.abort()
            raise _device_error(folder, error) from error

    @property
    def size_bytes(self) -> int:
        """Bytes in the file so far."""
        return self._file.size_bytes

    @property
    def n_stretches(self) -> int:
        """Stretches of neighbouring rows of the source in it; 0 when the source has no positions."""
        return 0 if self._positions is None else self._positions.n_stretches

    def append(
        self,
        table: pa.Table,
        *,
        truncated: int,
        sequences: tuple[int, int],
        positions: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Write one row group; afterwards the table's memory may be reused.

        Args:
            table: Rows in the shard's schema.
            truncated: How many of them are flagged as truncated.
            sequences: Lowest and highest batch number among them.
            positions: int64 (rows,) where they stand in the source, when it has positions.

        Raises:
            SinkError: the device refused; the file is removed.
        """
        ids = table.column(ID)
        try:
            self._writer.write_table(table, row_group_size=table.num_rows)
        except OSError as error:
            self.abort()
            raise _device_error(self._folder, error) from error
        self._digests.append(id_digest(ids))
        if positions is not None:
            self._positions = self._positions or Positions()
            self._positions.add(positions)
        if not self.rows:
            self._first_id = id_text(ids[0])
        self._last_id = id_text(ids[-1])
        self.rows += table.num_rows
        self._truncated += truncated
        low, high = self._sequences or sequences
        self._sequences = min(low, sequences[0]), max(high, sequences[1])

    def seal(self) -> None:
        """Close, check, fsync. On return the shard's bytes are durable; it has no final name yet.

        Raises:
            SinkError: the device refused, or the file does not hold what was appended; the file is removed.
        """
        if self._poisoned or not self.rows:
            raise CommitFailed(f"shard {self.identity.name} cannot be sealed after a failed write")
        try:
            durable.point("writer.before_close")
            self._writer.add_key_value_metadata(self._footer())
            self._writer.close()
            durable.point("writer.after_close")
            self._check()
            durable.point("writer.after_check")
            durable.fsync_file(self._file.fd)
            durable.point("writer.after_fsync")
        except OSError as error:
            self.abort()
            raise _device_error(self._folder, error) from error
        self._is_sealed = True

    def name(self) -> ShardFacts:
        """Give the sealed shard its final name. On return it is durable under it.

        Raises:
            SinkError: the device refused; the file is removed, unless it has the final name already.
            DamageError: the final name is taken.
        """
        if not self._is_sealed:
            raise CommitFailed(f"shard {self.identity.name} cannot be named before it is sealed")
        final = self._folder / f"{self.identity.name}.parquet"
        try:
            durable.name_new(self._temporary, final)
            durable.point("writer.after_link")
            durable.unlink(self._temporary)
            durable.fsync_folder(self._folder)
            durable.point("writer.after_folder_fsync")
        except FileExistsError as error:
            self.abort()
            raise DamageError(
                f"{final} exists already and is not in the ledger: another program wrote it; move it away, "
                "then run the same command again"
            ) from error
        except OSError as error:
            self.abort()
            raise _device_error(self._folder, error) from error
        os.close(self._file.fd)
        assert self._sequences is not None  # rows are there
        return ShardFacts(
            shard=self.identity.name,
            file=final.name,
            bytes=self._file.size_bytes,
            sha256=self._file.sha256.hexdigest(),
            rows=self.rows,
            id_digest=self._digest(),
            first_id=self._first_id,
            last_id=self._last_id,
            truncated=self._truncated,
            sequences=self._sequences,
            epoch=self.identity.epoch,
            positions=None if self._positions is None else self._positions.encoded(),
        )

    def abort(self) -> None:
        """Throw the file away; a different verb from seal, and never implied by an exception."""
        self._poisoned = True
        self._file.discard()
        self._temporary.unlink(missing_ok=True)

    def _digest(self) -> str:
        return combine_digests(self._digests)

    def _footer(self) -> dict[bytes, bytes]:
        identity = self.identity
        more = {KEY_CANARY: identity.canary.encode()} if identity.canary else {}
        if self._positions is not None:
            more[KEY_POSITIONS] = self._positions.encoded().encode()
        return more | {
            KEY_VERSION: identity.version.encode(),
            KEY_FINGERPRINT: orjson.dumps(identity.fingerprint),
            KEY_SHARD: identity.name.encode(),
            KEY_ROWS: str(self.rows).encode(),
            KEY_EPOCH: str(identity.epoch).encode(),
            KEY_ID_TYPE: self._schema.id_type.value.encode(),
            KEY_LEDGER: identity.ledger.encode(),
            KEY_ID_DIGEST: self._digest().encode(),
        }

    def _check(self) -> None:
        """Compare what a fresh reader finds with what was appended."""
        size = os.fstat(self._file.fd).st_size
        if size != self._file.size_bytes:
            raise OSError(5, f"the file has {size} bytes, {self._file.size_bytes} were written")
        try:
            metadata = pq.read_metadata(self._temporary)
        except pa.ArrowInvalid as error:
            raise OSError(5, f"the file has no readable footer: {error}") from error
        if metadata.num_rows != self.rows:
            raise OSError(5, f"the file has {metadata.num_rows} rows, {self.rows} were appended")


def _device_error(folder: Path, error: OSError) -> SinkError:
    try:
        stats = os.statvfs(folder)
        free = f"{stats.f_bavail * stats.f_frsize >> 20} MiB free"
    except OSError:
        free = "free space unknown"
    reason = error.strerror or str(error)
    return SinkError(
        f"cannot write a shard to {folder} ({reason}; {free}): free space or repair the device, "
        "then run the same command again; nothing that was not durable is marked"
    )
