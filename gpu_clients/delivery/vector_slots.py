"""From a batch and its vectors to a filled vector slot."""

from __future__ import annotations

import numpy as np
import orjson

from engine.memory import ids
from engine.memory.ids import IdType
from engine.memory.slots import HEADER_BYTES, TRUNCATED, Header, RowMeta
from engine.supervision.worker import StageContext
from gpu_clients.batches.batch import Batch
from gpu_clients.batches.counters import Counters
from gpu_clients.vectors.decode import Matrix


class VectorSlots:
    """Takes empty vector slots, fills them, and hands them to the writer."""

    def __init__(self, context: StageContext, id_type: IdType, counters: Counters) -> None:
        self._context = context
        self._id_type = id_type
        self._spare: int | None = None
        self._counters = counters

    def has_slot(self) -> bool:
        """Whether an empty vector slot is at hand; takes one from the queue when there is one."""
        if self._spare is None:
            self._spare = self._context.vectors_free.take()
        return self._spare is not None

    def matrix(self, n_rows: int) -> Matrix:
        """The matrix of the slot at hand, float32 (n_rows, dim), a view into the ring."""
        context = self._context
        assert self._spare is not None
        raw = context.layout.matrix_bytes(context.vectors.slot(self._spare), n_rows)
        return np.frombuffer(raw, dtype=np.float32).reshape(n_rows, context.layout.dim)

    def publish(self, batch: Batch, *, keep: list[int] | None = None, truncated: list[int] | None = None) -> None:
        """Hand over the slot at hand, whose matrix has been filled with the rows to keep.

        Args:
            batch: Where the rows come from.
            keep: Its rows that are kept, in order; None for all.
            truncated: Its rows whose text the server cut.
        """
        context, number = self._context, self._spare
        assert number is not None
        view = context.vectors.slot(number)
        meta = batch.meta()
        if keep is not None or truncated:
            meta = self._edited(batch, meta, keep, truncated)
        n_rows = batch.n_rows if keep is None else len(keep)
        at = HEADER_BYTES
        for part in (meta.ids, meta.flags, meta.columns):
            view[at : at + len(part)] = part
            at += len(part)
        Header(
            generation=context.generation,
            n_rows=n_rows,
            sequence=batch.header.sequence,
            ids_bytes=len(meta.ids),
            flags_bytes=len(meta.flags),
            columns_bytes=len(meta.columns),
        ).pack_into(view)
        self._spare = None
        context.vectors_ready.put(number)
        self._counters.rows += n_rows

    def _edited(self, batch: Batch, meta: RowMeta, keep: list[int] | None, truncated: list[int] | None) -> RowMeta:
        """The meta area without the rows that are left out, and with the flags of those that were cut."""
        flags = bytearray(meta.flags)
        for row in truncated or ():
            flags[row] |= TRUNCATED
        if keep is None:
            return RowMeta(ids=meta.ids, flags=bytes(flags), columns=meta.columns)
        columns = b""
        if len(meta.columns):
            values = orjson.loads(meta.columns)
            columns = orjson.dumps([values[row] for row in keep])
        return RowMeta(
            ids=ids.select(self._id_type, meta.ids, batch.n_rows, keep),
            flags=bytes(flags[row] for row in keep),
            columns=columns,
        )
