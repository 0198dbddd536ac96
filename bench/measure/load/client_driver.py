"""Drives client processes without reader and writer: batches go round in one order, vectors are counted and dropped.

What a client costs and how well it uses its servers shows best without a reader and a writer; rings, channels and
processes are the real ones.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

import orjson
import psutil

from engine.memory.channels import Message
from engine.memory.ids import pack_int64
from engine.memory.shared_rings import RingSizes
from engine.memory.slots import HEADER_BYTES, Header, VectorLayout
from engine.supervision.generation import Generation
from engine.supervision.run_plan import StagePlan
from gpu_clients.servers.doctor import examine
from gpu_clients.settings import ClientSettings

_NUMBER = 1  # of the generation


@dataclass(slots=True)
class Interval:
    """What the clients did in a stretch of time.

    Attributes:
        rows: Rows that came out.
        seconds: Wall time.
        cpu_s: CPU time of all clients.
    """

    rows: int
    seconds: float
    cpu_s: float

    @property
    def rows_per_s(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds

    @property
    def cpu_us_per_row(self) -> float:
        """CPU microseconds of all clients for each row."""
        return self.cpu_s / max(1, self.rows) * 1e6


@dataclass(slots=True)
class ClientDriver:
    """Runs one client process for each server, and feeds them batches; a context manager.

    Attributes:
        settings: The clients' settings; the doctor fills in the rest.
        batches: Texts of each batch; after the last one the first comes again.
        n_slots: Document slots.
        once: Whether to stop after the last batch instead.
        reports: The last `client` event of every client.
    """

    settings: ClientSettings
    batches: Sequence[Sequence[str]]
    n_slots: int = 32
    n_vectors: int = 32
    once: bool = False
    reports: dict[str, Message] = field(default_factory=dict)
    _bodies: list[bytes] = field(default_factory=list)
    _sequence: int = 0
    _generation: Generation | None = None
    _processes: list[psutil.Process] = field(default_factory=list)

    def __enter__(self) -> ClientDriver:
        fleet = examine(self.settings)
        rows = max(map(len, self.batches))
        self._bodies = [orjson.dumps(list(batch)) for batch in self.batches]
        meta_bytes = rows * 9
        slot_bytes = -(-(HEADER_BYTES + meta_bytes + max(map(len, self._bodies))) // 64) * 64
        layout = VectorLayout(dim=fleet.dim, max_rows=rows, meta_capacity_bytes=meta_bytes)
        rings = RingSizes(n_documents=self.n_slots, document_bytes=slot_bytes, n_vectors=self.n_vectors, layout=layout)
        plans = [
            StagePlan(
                role=f"client-{index}",
                stage="gpu_clients.stage",
                settings=fleet.client_settings(self.settings, index).as_dict(),
            )
            for index in range(len(self.settings.urls))
        ]
        self._generation = generation = Generation(_NUMBER, 1, rings, plans, [])
        self._processes = [psutil.Process(child.process.pid) for child in generation.children.values()]
        self._fill_free_slots()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._generation is not None
        self._generation.finish(2.0)

    def run(self, *, seconds: float, rows: int | None = None) -> Interval:
        """Feed the clients for so long, or until so many rows have come out."""
        assert self._generation is not None
        rings = self._generation.rings
        n_rows = 0
        began_s, cpu_began_s = time.monotonic(), self.cpu_s()
        heard_s = began_s
        while (now_s := time.monotonic()) - began_s < seconds and (rows is None or n_rows < rows):
            select.select([rings.vectors_ready.read_fd, rings.documents_free.read_fd], [], [], 0.1)
            full = rings.vectors_ready.take_many(64)
            for number in full:
                n_rows += Header.unpack_from(rings.vectors.slot(number), _NUMBER).n_rows
            rings.vectors_free.put_many(full)
            self._fill_free_slots()
            if now_s - heard_s > 0.2:
                heard_s = now_s
                self._listen()
        self._listen()
        return Interval(n_rows, time.monotonic() - began_s, self.cpu_s() - cpu_began_s)

    def cpu_s(self) -> float:
        """CPU seconds of all clients so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes)

    def _fill_free_slots(self) -> None:
        assert self._generation is not None
        rings = self._generation.rings
        left = len(self.batches) - self._sequence if self.once else 64
        for slot in rings.documents_free.take_many(min(64, max(0, left))):
            number = self._sequence % len(self.batches)
            _fill(rings.documents.slot(slot), self._sequence, len(self.batches[number]), self._bodies[number])
            self._sequence += 1
            rings.documents_ready.put(slot)

    def _listen(self) -> None:
        assert self._generation is not None
        for role, child in self._generation.children.items():
            messages, ended = child.channel.poll()
            for message in messages:
                if message["event"] == "client":
                    self.reports[role] = message
                elif message["event"] == "error":
                    raise RuntimeError(f"{role}: {message['message']}")
            if ended:
                raise RuntimeError(f"{role} has ended")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _fill(view: memoryview, sequence: int, n_rows: int, body: bytes) -> None:
    id_column = pack_int64(range(sequence * n_rows, (sequence + 1) * n_rows))
    at = HEADER_BYTES
    for part in (id_column, bytes(n_rows), body):
        view[at : at + len(part)] = part
        at += len(part)
    Header(
        generation=_NUMBER,
        n_rows=n_rows,
        sequence=sequence,
        ids_bytes=len(id_column),
        flags_bytes=n_rows,
        columns_bytes=0,
        body_bytes=len(body),
        n_texts=n_rows,
    ).pack_into(view)
