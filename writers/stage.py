"""The writer process: vector slots become row groups, row groups shards.

It holds slots until a row group is full, builds Arrow arrays over their memory without copying, writes, and hands
the slots back. A full shard is sealed before the next one is begun, so that a crash costs one open shard at most; the
ring takes in what the clients deliver meanwhile. A shard gets its name when it is durable and when the servers that
its vectors came from have been proved right, which is asked for at once and awaited last. With a cold store it is
uploaded then, beside what is written next, and told of when the store has it.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from engine.ledger import durable
from engine.memory.slots import TRUNCATED, Header, RowMeta, meta_of
from engine.records import ShardFacts
from engine.supervision.worker import Heartbeat, StageContext
from writers.settings import WriterSettings
from writers.shards.positions import MAX_STRETCHES, RowNames
from writers.shards.schema import EMBEDDING, ID, carried_array, id_array, vector_array
from writers.shards.shard import OpenShard, ShardIdentity

if TYPE_CHECKING:
    from writers.cold.shipping import Shipping

_T = TypeVar("_T")
_IDLE_S = 0.1
_TAKE = 64
_MAX_RANGES = 4000
_HELD_SHARE = 0.6
"""A row group is cut early when it would hold more than this share of the ring: the clients need the rest."""


@dataclass(frozen=True, slots=True)
class _HeldSlot:
    number: int
    header: Header
    meta: RowMeta
    view: memoryview


class Writer:
    """The state of the writer process."""

    def __init__(self, context: StageContext, settings: WriterSettings) -> None:
        self._context = context
        self._settings = settings
        self._schema = settings.schema()
        self._arrow = self._schema.arrow()
        self._heartbeat = Heartbeat()
        self._held: list[_HeldSlot] = []
        self._held_rows = 0
        self._max_held_slots = max(1, int(context.vectors.n_slots * _HELD_SHARE))
        self._row_group_rows = settings.row_group_rows()
        self._names = None if settings.names_file is None else RowNames(Path(settings.names_file))
        self._shard: OpenShard | None = None
        self._sequences: list[int] = []
        self._first_row_s = 0.0
        self._n_opened = 0
        self._sealing = False
        self._proved = False
        self._leaving = False
        self._stopping = False
        self._shipping = _shipping(context, settings)
        self._drain_at: int | None = None
        self._expected: int | None = None
        self._received = 0
        self._committed = 0
        self._shards = 0
        self._bytes = 0
        self._ring_wait_s = 0.0
        self._busy_s = 0.0

    def run(self) -> None:
        """Work until told to exit."""
        context = self._context
        while not self._leaving:
            self._obey()
            numbers = context.vectors_ready.take_many(_TAKE)
            for number in numbers:
                self._hold(number)
            self._flush_if_due()
            self._drain_if_due()
            self._tell_of_shipped()
            if self._heartbeat.due():
                self._report()
            if not numbers:
                started = time.monotonic()
                context.wait(_IDLE_S, context.vectors_ready.read_fd)
                self._ring_wait_s += time.monotonic() - started

    def _obey(self) -> None:
        for command in self._context.poll_commands():
            if command["do"] == "exit":
                self._leaving = True
            elif command["do"] == "drain":
                self._drain_at = int(command["rows"])
            elif command["do"] == "stop":
                self._stopping = True
            elif command["do"] == "expect":
                self._expected = int(command["rows"])
            elif command["do"] == "proved":
                self._proved = True

    def _hold(self, number: int) -> None:
        view = self._context.vectors.slot(number)
        header = Header.unpack_from(view, self._context.generation)
        if not self._held and self._shard is None:
            self._first_row_s = time.monotonic()
        self._held.append(_HeldSlot(number, header, meta_of(view, header), view))
        self._held_rows += header.n_rows
        self._received += header.n_rows
        if self._held_rows >= self._row_group_rows or len(self._held) >= self._max_held_slots:
            self._write_row_group()
            self._seal_if_full()

    def _flush_if_due(self) -> None:
        """Seal a shard whose first row has become old."""
        if (self._shard or self._held) and time.monotonic() - self._first_row_s >= self._settings.shard_seconds:
            self._write_row_group()
            self._seal()

    def _seal_if_full(self) -> None:
        shard = self._shard
        if shard is not None and (
            shard.size_bytes >= self._settings.shard_bytes
            or shard.n_stretches >= MAX_STRETCHES
            or self._is_half_of_the_rest(shard)
        ):
            self._seal()

    def _is_half_of_the_rest(self, shard: OpenShard) -> bool:
        """Whether the shard holds half of what was left when it was begun.

        At the end of a run nothing else is left to do but to mark the last shard's documents, so the last shards get
        smaller and smaller (docs/adr/0007): marking then trails the last row by little.
        """
        if self._expected is None or shard.rows < self._row_group_rows:
            return False
        rest = self._expected - self._received
        return rest < shard.rows

    def _drain_if_due(self) -> None:
        if self._drain_at is None or self._received < self._drain_at:
            return
        self._write_row_group()
        self._seal()
        self._await_shipping()
        self._drain_at = None
        self._report()
        self._context.tell("drained", rows=self._received)

    def _write_row_group(self) -> None:
        if not self._held:
            return
        started = time.monotonic()
        if self._shard is None:
            self._await_hot_space()
        shard = self._shard or self._open()
        positions = self._positions()
        table = self._table(positions)
        truncated = sum(bytes(held.meta.flags).count(TRUNCATED) for held in self._held)
        sequences = [held.header.sequence for held in self._held]
        durable.point("writer.before_row_group")
        shard.append(table, truncated=truncated, sequences=(min(sequences), max(sequences)), positions=positions)
        self._sequences += sequences
        del table  # its arrays look into the slots that are handed back next
        self._context.vectors_free.put_many([held.number for held in self._held])
        self._held.clear()
        self._held_rows = 0
        self._busy_s += time.monotonic() - started

    def _positions(self) -> npt.NDArray[np.int64] | None:
        """Where the held rows stand in the source, int64 (rows,); None when the slots hold ids."""
        if self._names is None:
            return None
        return np.concatenate([np.frombuffer(held.meta.ids, dtype="<i8") for held in self._held])

    def _table(self, positions: npt.NDArray[np.int64] | None) -> pa.Table:
        """The held slots as one table over the ring's memory, a chunk a slot."""
        schema, layout = self._schema, self._context.layout
        ids, vectors = [], []
        for held in self._held:
            n_rows = held.header.n_rows
            if positions is None:
                ids.append(id_array(schema.id_type, held.meta.ids, n_rows))
            matrix = np.frombuffer(layout.matrix_bytes(held.view, n_rows), dtype="<f4").reshape(n_rows, schema.dim)
            vectors.append(vector_array(schema, matrix))
        carried = self._carried()
        if self._settings.has_id_field:
            ids = [carried.pop(0)]
        elif self._names is not None and positions is not None:
            ids = [self._names.of(positions)]
        arrays = [pa.chunked_array(ids, type=self._arrow.field(ID).type)]
        arrays += carried
        if schema.truncated:
            flags = b"".join(bytes(held.meta.flags) for held in self._held)
            arrays.append(pa.array(np.frombuffer(flags, dtype=np.uint8) & TRUNCATED != 0))
        arrays.append(pa.chunked_array(vectors, type=self._arrow.field(EMBEDDING).type))
        return pa.Table.from_arrays(arrays, schema=self._arrow)

    def _carried(self) -> list[pa.Array]:
        """The carried columns of the held slots."""
        kinds = [kind for _, kind in self._schema.columns]
        if self._settings.has_id_field:
            kinds.insert(0, self._schema.id_type.value)  # int64 or string; both are kinds of columns, too
        if not kinds:
            return []
        rows = [row for held in self._held for row in orjson.loads(held.meta.columns)]
        return [carried_array(kind, [row[place] for row in rows]) for place, kind in enumerate(kinds)]

    def _open(self) -> OpenShard:
        settings = self._settings
        self._n_opened += 1
        identity = ShardIdentity(
            name=f"{settings.prefix}-{self._n_opened:06d}",
            epoch=self._context.epoch,
            ledger=settings.ledger,
            version=settings.version,
            fingerprint=settings.fingerprint,
            canary=settings.canary,
        )
        self._shard = OpenShard(settings.folder_path(), identity, self._schema)
        return self._shard

    def _seal(self) -> None:
        """Make the open shard durable, have its vectors proved, name it and tell of it.

        The device is waited for in a thread of its own, so that this one says that it lives however slow that is.
        """
        if self._shard is None:
            return
        self._sealing = True
        self._proved = False
        durable.point("writer.before_proof")
        self._context.tell("prove")
        with ThreadPoolExecutor(1, thread_name_prefix="seal") as executor:
            self._await(executor.submit(self._shard.seal))
            self._await_proof()
            durable.point("writer.after_proof")
            facts = self._await(executor.submit(self._shard.name))
        ranges = _ranges(self._sequences)
        if self._shipping is None:
            self._tell_sealed(facts, ranges)
        else:
            self._shipping.submit(facts, ranges)
        self._sealing = False
        self._shard = None
        self._sequences = []
        self._bytes += facts.bytes

    def _tell_sealed(self, facts: ShardFacts, ranges: list[tuple[int, int]]) -> None:
        """Tell of a shard that is where committed ones stay."""
        self._context.tell("sealed", facts={name: getattr(facts, name) for name in facts.__slots__}, ranges=ranges)
        self._shards += 1
        self._committed += facts.rows

    def _tell_of_shipped(self) -> None:
        """Tell of what the cold store has got; raises what kept a shard from getting there."""
        if self._shipping is None:
            return
        for where, why in self._shipping.retries():
            self._context.log("warning", "upload_repeated", where=where, reason=why)
        for shipped in self._shipping.collect():
            if shipped.error is not None:
                raise shipped.error
            self._tell_sealed(shipped.facts, shipped.ranges)

    def _await_shipping(self) -> None:
        """Wait until the cold store has every sealed shard."""
        while self._shipping is not None and self._shipping.pending:
            self._context.wait(_IDLE_S)
            self._tell_of_shipped()
            self._stay_alive()

    def _await_hot_space(self) -> None:
        """Wait while whole shards on hot take all the room that they may (G5).

        At the end only for those that are being uploaded: what is left then fits into the rings, and the marks, which
        make room behind the uploads, may not come any more.
        """
        while self._shipping is not None and not self._leaving and self._is_hot_full(self._shipping):
            self._context.wait(_IDLE_S)
            self._tell_of_shipped()
            self._stay_alive()

    def _is_hot_full(self, shipping: Shipping) -> bool:
        is_ending = self._stopping or self._drain_at is not None
        return (shipping.pending_bytes if is_ending else shipping.hot_bytes()) >= self._settings.hot_bytes

    def _await(self, future: Future[_T]) -> _T:
        while not wait([future], _IDLE_S).done:
            self._stay_alive()
        return future.result()

    def _await_proof(self) -> None:
        """Wait until the shard may be named; if it never may, the supervisor ends this process."""
        while not self._proved:
            self._context.wait(_IDLE_S)
            self._stay_alive()

    def _stay_alive(self) -> None:
        """Obey, and say that this process lives, while a shard is being sealed."""
        self._obey()
        if self._heartbeat.due():
            self._report()

    @property
    def _is_shipping(self) -> bool:
        return self._shipping is not None and self._shipping.pending > 0

    def _report(self) -> None:
        self._context.tell(
            "writer",
            rows=self._received,
            committed_rows=self._committed,
            shards=self._shards,
            bytes=self._bytes + (self._shard.size_bytes if self._shard else 0),
            open_rows=self._received - self._committed,
            state="sealing"
            if self._sealing or self._is_shipping
            else "writing"
            if self._shard or self._held
            else "idle",
            ring_wait_s=self._ring_wait_s,
            busy_s=self._busy_s,
            writes=durable.writes.count,
            write_s=durable.writes.seconds,
            fsyncs=durable.fsyncs.count,
            fsync_s=durable.fsyncs.seconds,
            cpu_s=time.process_time(),
            **(self._shipping.figures() if self._shipping is not None else {}),
        )


def _shipping(context: StageContext, settings: WriterSettings) -> Shipping | None:
    """The way to the cold store, if there is one."""
    if settings.cold is None:
        return None
    from writers.cold.settings import ColdSettings  # noqa: PLC0415 - only a URL pays for the library
    from writers.cold.shipping import Shipping  # noqa: PLC0415

    return Shipping(settings.folder_path(), ColdSettings.from_dict(settings.cold))


def _ranges(sequences: list[int]) -> list[tuple[int, int]]:
    """Batch numbers as ranges, both ends included; none when there are too many to tell (they are only a help)."""
    ranges: list[tuple[int, int]] = []
    for sequence in sorted(sequences):
        if ranges and sequence <= ranges[-1][1] + 1:
            ranges[-1] = ranges[-1][0], sequence
        else:
            ranges.append((sequence, sequence))
    return ranges if len(ranges) <= _MAX_RANGES else []


def run(context: StageContext) -> None:
    """Write vector slots to shards until told to exit."""
    settings = WriterSettings.from_dict(context.settings)
    pa.set_cpu_count(1)  # one row group at a time; more threads only compete with the servers and MongoDB
    Writer(context, settings).run()
