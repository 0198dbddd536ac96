"""Drives the client stage without a supervisor: plays the reader and the writer over real rings and real channels.

    with StandinFleet(...) as fleet:
        outcome = Harness(fleet.urls, texts).run()
    outcome.check_exact(model_id)     # every document in exactly one row with its own vector, or in quarantine

Clients run in threads of the test's process, each with its own channel, or as real child processes.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from engine.memory import ids
from engine.memory.channels import Channel
from engine.memory.ids import IdType
from engine.memory.shared_rings import RingSizes, SharedRings
from engine.memory.slots import HEADER_BYTES, TRUNCATED, Header, VectorLayout, meta_of
from engine.supervision.generation import Generation
from engine.supervision.run_plan import StagePlan
from engine.supervision.worker import StageContext
from gpu_clients import stage
from gpu_clients.servers.doctor import Fleet, examine
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.outcome import Outcome

GENERATION = 7
WAIT_S = 100.0
"""Only what never comes is waited for that long."""


class Harness:
    """One generation of clients, with the test as reader and writer."""

    def __init__(
        self,
        urls: tuple[str, ...],
        texts: list[str],
        *,
        batch_rows: int = 32,
        settings: ClientSettings | None = None,
        fleet: Fleet | None = None,
        clients: tuple[int, ...] | None = None,
        id_type: IdType = IdType.INT64,
        n_documents: int = 24,
        n_vectors: int = 24,
        fan_out: Callable[[list[str]], tuple[list[str], list[int]]] | None = None,
        columns: list[Any] | None = None,
        processes: bool = False,
        timeouts_s: dict[int, float] | None = None,
    ) -> None:
        """Examine the servers.

        Args:
            timeouts_s: Times for a request by client. A time that is short enough for a test to wait it out is too
                short for a sound server on a machine that stands still for a moment, so only sick ones get it.
        """
        base = settings or ClientSettings(urls=urls, batch_size=batch_rows)
        base = dataclasses.replace(base, id_type=id_type)
        self.fleet = fleet or examine(base)
        self.settings = base
        self.texts = texts
        self._batch_rows = batch_rows
        self._id_type = id_type
        self._fan_out = fan_out
        self._columns = columns
        self._processes = processes
        self._timeouts_s = timeouts_s or {}
        self._roles = clients if clients is not None else tuple(range(len(urls)))
        most_bytes = max(
            (_body_bytes(texts[at : at + batch_rows]) for at in range(0, len(texts), batch_rows)), default=64
        )
        meta_bytes = batch_rows * 120 + 64 + (4096 if columns else 0)
        document_bytes = -(-(HEADER_BYTES + meta_bytes + 2 * batch_rows + most_bytes) // 64) * 64
        layout = VectorLayout(dim=self.fleet.dim, max_rows=batch_rows, meta_capacity_bytes=meta_bytes)
        self.rings = RingSizes(
            n_documents=n_documents, document_bytes=document_bytes, n_vectors=n_vectors, layout=layout
        )
        self.outcome = Outcome(texts, events={f"client-{index}": [] for index in self._roles})
        self.accounted = 0
        self.hold_vectors = False
        self._held: list[int] = []
        self._generation: Generation | None = None
        self._threads: list[threading.Thread] = []
        self._channels: dict[str, Channel] = {}
        self._crashed: list[BaseException] = []
        self.parts: SharedRings
        self._next = 0
        self._sequence = 0
        self._published = 0

    # -- life ------------------------------------------------------------------------------------------

    def start(self, *first: int) -> Harness:
        """Start the clients: those of `first`, or all of them; documents are there before the first client is.

        Which of several clients gets how much is a matter of chance. When a test needs that a certain one gets
        something, it starts that one alone, and the others with `start_others`.
        """
        if self._processes:
            plans = [
                StagePlan(role=f"client-{index}", stage="gpu_clients.stage", settings=self._client_settings(index))
                for index in self._roles
            ]
            self._generation = Generation(GENERATION, 1, self.rings, plans, [])
            self.parts = self._generation.rings
            self._channels = {role: child.channel for role, child in self._generation.children.items()}
            return self
        self.parts = SharedRings.create(self.rings)
        self._publish()
        for index in first or self._roles:
            self._start_client(index)
        return self

    def start_others(self) -> None:
        """Start the clients that `start` has left out."""
        for index in self._roles:
            if f"client-{index}" not in self._channels:
                self._start_client(index)

    def _start_client(self, index: int) -> None:
        ours, theirs = Channel.pair()
        role = f"client-{index}"
        self._channels[role] = ours
        context = StageContext(
            role=role,
            generation=GENERATION,
            epoch=1,
            settings=json.loads(json.dumps(self._client_settings(index))),
            channel=theirs,
            **{name: getattr(self.parts, name) for name in (*SharedRings._QUEUES, "documents", "vectors", "layout")},
        )
        thread = threading.Thread(target=self._run_stage, args=(context,), name=role)
        self._threads.append(thread)
        thread.start()

    def run(self, *first: int, met: Callable[[], bool] | None = None) -> Outcome:
        """Publish every document, collect everything, stop the clients.

        Args:
            first: Clients that work alone until `met()`.
        """
        began_s = time.monotonic()
        self.start(*first)
        try:
            if met is not None:
                self.work(met)
                self.start_others()
            self.outcome.finished = self.work(lambda: self.accounted >= len(self.texts))
            self.outcome.seconds = time.monotonic() - began_s
            self.stop()
        finally:
            self.finish()
        return self.outcome

    def work(self, done: Callable[[], bool], at_most_s: float | None = None) -> bool:
        """Play reader and writer until `done()`; False when a time that was given is over first.

        Raises:
            AssertionError: no time was given, and it does not come.
        """
        began_s = time.monotonic()
        while not done():
            spent_s = time.monotonic() - began_s
            if at_most_s is not None and spent_s > at_most_s:
                return False
            assert spent_s < WAIT_S, f"it has not come in {WAIT_S} s: {self.outcome.explain()}"
            if self._crashed:
                raise self._crashed[0]
            busy = self._publish() + self._collect() + self._listen()
            if not busy:
                time.sleep(0.002)
        return True

    def work_beside(self, role: str) -> None:
        """Play reader and writer until everything is out but what one client has taken."""

        def left() -> int:
            figures = self.outcome.figures(role)
            held = figures["taken_rows"] - figures["rows"] - figures["quarantined"] if figures else 0
            return len(self.texts) - self.accounted - held

        self.work(lambda: left() <= 0)

    def command(self, role: str | None = None, **order: Any) -> None:
        """Send a command to one client or to all."""
        for name in [role] if role else list(self._channels):
            self._channels[name].send(order)

    def stop(self) -> bool:
        """Let the clients deliver what they have in hand; their last figures come with it."""
        self.command(do="stop")
        return self.work(lambda: len(self.outcome.told("stopped")) == len(self._channels))

    def finish(self) -> None:
        """End the clients."""
        if self._generation is not None:
            self._generation.finish(2.0)
            return
        for channel in self._channels.values():
            channel.try_send({"do": "exit"})
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive(), "a client does not leave"
        self._listen()
        for channel in self._channels.values():
            channel.close()
        self.parts.close()
        if self._crashed:
            raise self._crashed[0]

    def cpu_s(self) -> float:
        """CPU seconds of all clients; only for real processes, after `finish`."""
        assert self._generation is not None
        return self._generation.cpu_s("client")

    def _client_settings(self, index: int) -> dict[str, Any]:
        settings = self.fleet.client_settings(self.settings, index)
        if index in self._timeouts_s:
            settings = dataclasses.replace(settings, request_timeout_s=self._timeouts_s[index])
        return settings.as_dict()

    def _run_stage(self, context: StageContext) -> None:
        try:
            stage.run(context)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            self._crashed.append(error)

    # -- the reader's part -----------------------------------------------------------------------------

    def _publish(self) -> int:
        n_done = 0
        while self._next < len(self.texts):
            number = self.parts.documents_free.take()
            if number is None:
                break
            numbers = range(self._next, min(len(self.texts), self._next + self._batch_rows))
            self._fill(self.parts.documents.slot(number), list(numbers))
            self._next = numbers.stop
            self._published += len(numbers)
            self.parts.documents_ready.put(number)
            n_done += 1
        return n_done

    def _fill(self, view: memoryview, numbers: list[int]) -> None:
        texts = [self.texts[number] for number in numbers]
        fanout = b""
        sent = texts
        if self._fan_out is not None:
            sent, owners = self._fan_out(texts)
            fanout = np.array(owners, dtype="<u2").tobytes() if len(sent) < len(texts) else b""
        body = orjson.dumps(sent)
        columns = orjson.dumps([self._columns[number] for number in numbers]) if self._columns else b""
        id_column = _pack_ids(self._id_type, numbers)
        at = HEADER_BYTES
        for part in (id_column, bytes(len(numbers)), columns, fanout, body):
            view[at : at + len(part)] = part
            at += len(part)
        Header(
            generation=GENERATION,
            n_rows=len(numbers),
            sequence=self._sequence,
            ids_bytes=len(id_column),
            flags_bytes=len(numbers),
            columns_bytes=len(columns),
            body_bytes=len(body),
            n_texts=len(sent),
            fanout_bytes=len(fanout),
            estimated_tokens=sum(map(len, texts)) // 4,
            characters=sum(map(len, texts)),
        ).pack_into(view)
        self._sequence += 1

    # -- the writer's part -----------------------------------------------------------------------------

    def _collect(self) -> int:
        if self.hold_vectors:
            return 0
        numbers = self.parts.vectors_ready.take_many(64)
        for number in numbers:
            self._take_rows(self.parts.vectors.slot(number))
            self.parts.vectors_free.put(number)
        return len(numbers)

    def _take_rows(self, view: memoryview) -> None:
        header = Header.unpack_from(view, GENERATION)
        meta = meta_of(view, header)
        numbers = _unpack_ids(self._id_type, meta.ids, header.n_rows)
        raw = self.parts.layout.matrix_bytes(view, header.n_rows)
        matrix = np.frombuffer(raw, dtype="<f4").reshape(header.n_rows, self.parts.layout.dim)
        columns = orjson.loads(meta.columns) if len(meta.columns) else [None] * header.n_rows
        flags = bytes(meta.flags)
        assert len(numbers) == len(flags) == len(columns) == header.n_rows
        self._record(numbers, matrix, flags, columns)
        self.accounted += header.n_rows

    def _record(self, numbers: list[int], matrix: npt.NDArray[np.float32], flags: bytes, columns: list[Any]) -> None:
        outcome = self.outcome
        for number, vector, flag, column in zip(numbers, matrix, flags, columns, strict=True):
            outcome.rows[number] = vector.copy()
            outcome.deliveries[number] = outcome.deliveries.get(number, 0) + 1
            outcome.columns[number] = column
            if flag & TRUNCATED:
                outcome.truncated.add(number)

    def _listen(self) -> int:
        n_heard = 0
        for role, channel in self._channels.items():
            messages, _ = channel.poll()
            self.outcome.events[role] += messages
            n_heard += len(messages)
            for message in messages:
                if message["event"] == "quarantine":
                    for entry in message["entries"]:
                        number = _read_id(self._id_type, entry["id"])
                        assert number not in self.outcome.quarantined, "told twice"
                        self.outcome.quarantined[number] = entry
                        self.accounted += 1
                if message["event"] == "error":
                    raise AssertionError(message)
        return n_heard


def _body_bytes(texts: list[str]) -> int:
    return len(orjson.dumps(texts)) + 64


def _pack_ids(kind: IdType, numbers: list[int]) -> bytes:
    if kind is IdType.INT64:
        return ids.pack_int64(numbers)
    if kind is IdType.OBJECTID:
        return ids.pack_fixed([number.to_bytes(12, "big") for number in numbers])
    if kind is IdType.STRING:
        return ids.pack_variable([f"näme {number}".encode() for number in numbers])
    return ids.pack_variable([b'{"$numberLong": "%d"}' % number for number in numbers])


def _unpack_ids(kind: IdType, blob: memoryview | bytes, n_rows: int) -> list[int]:
    values = ids.unpack(kind, blob, n_rows)
    return [_number_of(kind, value) for value in values]


def _number_of(kind: IdType, value: int | bytes) -> int:
    if isinstance(value, int):
        return value
    if kind is IdType.OBJECTID:
        return int.from_bytes(value, "big")
    if kind is IdType.STRING:
        return int(value.decode().split()[1])
    return int(json.loads(value)["$numberLong"])


def _read_id(kind: IdType, text: str) -> int:
    """The document that a quarantine entry names."""
    value = json.loads(text)
    if kind is IdType.INT64:
        return int(value)
    if kind is IdType.OBJECTID:
        return int(value["$oid"], 16)
    if kind is IdType.STRING:
        return int(value.split()[1])
    return int(value["$numberLong"])
