"""The reader stage: a process that turns the documents of a source into batches in the document ring.

    fetching thread     pages ahead of the reader, retries while the source is away
    this thread         screening -> window -> encoder -> slot; commands and heartbeats in between

It keeps no position: what is not marked, or not in the ledger, is offered again, so a new generation simply begins
again.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path

from engine.errors import ProtocolError
from engine.ledger import durable
from engine.memory.channels import Message
from engine.supervision.worker import HEARTBEAT_S, Heartbeat, StageContext
from engine.telemetry.metrics import Stopwatch
from readers.batching.columns import ColumnReader
from readers.batching.encode import BatchEncoder, Encoded, room_for_a_text
from readers.batching.fetch import PageFetcher, PageSize
from readers.batching.lengths import LengthSample
from readers.batching.ports import Document, DocumentSource
from readers.batching.quarantine_messages import in_portions
from readers.batching.screening import Screening, TextPolicy
from readers.batching.skip import QuarantineLog, SkipSet
from readers.batching.window import Apart, BatchLimits, Window
from readers.opening import open_done_ids, open_source
from readers.settings import ReaderSettings

_IDLE_WAIT_S = 0.1
_STARVING_AFTER_S = 0.02
"""Rows are not held back for a better order while the next page takes longer than that."""

_POLL_EVERY_BATCHES = 8
_COLLECT_EVERY = 50_000
"""Allocations between two runs of Python's cycle collector. Every document is a dict, so the usual 700 would have it
run all the time, and find nothing (0.6 us a document)."""


def run(context: StageContext) -> None:
    """Read until told to exit; see `engine.supervision.worker` for how the supervisor starts this.

    Raises:
        ConfigError: the source cannot be read as it is (no usable index, wrong credentials, a file that has changed),
            or settings that do not fit the rings.
        SourceError: the source is away for longer than allowed, or refuses.
    """
    settings = ReaderSettings.from_dict(context.settings)
    thresholds = gc.get_threshold()
    gc.set_threshold(_COLLECT_EVERY, 20, 50)
    source = open_source(context, settings)
    try:
        Reader(context, settings, source).run()
    finally:
        source.close()
        gc.set_threshold(*thresholds)


class Reader:
    """One reader: passes over its source, at the supervisor's command."""

    def __init__(self, context: StageContext, settings: ReaderSettings, source: DocumentSource) -> None:
        self._context = context
        self._settings = settings
        self._source = source
        ids = source.ids
        self._skip = SkipSet(
            QuarantineLog(settings.quarantine_file, ids.key_of_text, settings.quarantine_before),
            open_done_ids(settings),
            ids,
            source.may_wait,
        )
        self._columns = ColumnReader(source.columns, source.types, self._log_misfit) if source.columns else None
        policy = TextPolicy(
            text_field=settings.text_field,
            prompt=settings.prompt or "",
            max_text_bytes=room_for_a_text(
                settings.max_text_bytes,
                settings.max_request_bytes,
                context.documents.slot_bytes,
                context.layout.meta_capacity_bytes,
            ),
            max_characters=settings.max_characters,
            max_tokens=settings.max_tokens,
            truncate=settings.truncate,
            keep_text=settings.keep_text,
        )
        self._screening = Screening(policy, ids, self._skip, self._columns)
        self._window = Window(
            BatchLimits(
                max_texts=settings.batch_size,
                max_rows=context.layout.max_rows,
                max_characters=min(settings.max_request_bytes, context.documents.slot_bytes),
                max_tokens=settings.max_request_tokens,
            ),
            ids.keys,
            max_rows=settings.window_rows,
            bucketing=settings.bucketing,
            dedup=settings.dedup,
            apart=Apart(settings.apart_tokens, settings.max_tokens) if settings.apart_tokens else None,
        )
        self._encoder = BatchEncoder(
            ids,
            context.layout,
            context.documents.slot_bytes,
            settings.max_request_bytes,
            self._screening.refuse_sent,
        )
        self._page_size = PageSize(settings.page_rows, first_rows=max(256, 4 * settings.batch_size))
        self._outage = source.outage
        self._page_watch = Stopwatch()
        self._lengths = LengthSample()
        self._heartbeat = Heartbeat()
        self._fetcher: PageFetcher | None = None
        self._state = "reading"
        self._pass = 0
        self._parts: deque[Message] = deque()  # given out to this reader, and not begun
        self._parts_done = 0
        self._limit = settings.limit
        self._documents = 0
        self._batches = 0
        self._ring_wait_s = 0.0
        self._source_wait_s = 0.0
        self._pause_wait_s = 0.0
        self._read = 0  # published, waiting in the window, or refused
        self._stop = False
        self._has_told_stopped = False
        self._rescan = False
        self._paused = False  # marking is too far behind
        self._exit = False

    def run(self) -> None:
        """Make a pass at once and one for every `rescan`, or one for every `part`, until `exit`."""
        try:
            if not self._settings.by_ranges:
                self._make_pass()
            while not self._exit:
                self._context.wait(_IDLE_WAIT_S)
                self._poll_commands()
                if self._stop and not self._has_told_stopped:
                    self._tell_stopped(work_left=bool(self._parts))
                elif self._parts and not self._stop:
                    self._read_parts()
                elif self._rescan and not self._stop:
                    self._rescan = False
                    self._make_pass()
        finally:
            self._end_fetching()

    def _read_parts(self) -> None:
        """Make a pass over each part that was given out, one right behind the other."""
        while self._parts and not self._stop and not self._exit:
            part = self._parts.popleft()
            self._source.take_range(part["range"])
            self._skip.counts = part["counts"]
            if part.get("done_ids") is not None:
                self._skip.add_done(Path(part["done_ids"]))
            self._limit = None if part["limit"] is None else self._read + part["limit"]
            self._make_pass(part)
        if not self._parts and not self._stop and not self._exit:
            self._tell_pass_done(self._documents)

    def _tell_pass_done(self, found: int) -> None:
        self._state = "pass_done"
        self._report()
        done = {"pass": self._pass, "documents": self._documents, "found": found}
        self._context.tell("pass_done", **done, parts=self._parts_done)

    def _make_pass(self, part: Message | None = None) -> None:
        self._pass += 1
        before, read_before = self._documents, self._read
        self._skip.follow_quarantine(self._poll_commands)
        self._state = "reading"
        self._source.begin_pass()
        self._fetcher = PageFetcher(self._source, self._page_size, self._page_watch)
        try:
            is_complete = self._read_pages(self._fetcher)
        finally:
            self._end_fetching()
        self._tell_quarantined()
        if self._stop or (part is None and self._room() == 0):
            self._tell_stopped(work_left=not is_complete or bool(self._parts))
        elif part is not None and (is_complete or self._room() == 0):
            self._tell_part_done(
                part["number"], self._documents - before, read=self._read - read_before, is_whole=is_complete
            )
        elif is_complete:
            self._tell_pass_done(self._documents - before)

    def _tell_part_done(self, number: int, found: int, **facts: int) -> None:
        """All that may be read of a part is published; with its last batch it will be settled."""
        self._parts_done += facts["is_whole"]
        self._report()  # a run that is over with this part would count without it what is in quarantine
        last = self._batches - 1
        self._context.tell("part_done", number=number, found=found, sequence=last, skipped=self._skip.skipped, **facts)

    def _tell_stopped(self, *, work_left: bool) -> None:
        self._stop = True
        self._has_told_stopped = True
        self._state = "stopped"
        self._report()
        self._context.tell("stopped", documents=self._documents, work_left=work_left)

    def _read_pages(self, fetcher: PageFetcher) -> bool:
        """Publish page after page until the end, a stop or the limit; whether nothing is left that could be read."""
        starving_since: float | None = None
        while not self._poll_commands():
            fetcher.clear_wake()
            documents = fetcher.poll()
            if documents is None:
                starving_since = starving_since or time.monotonic()
                self._wait_for_source(fetcher, starving_since)
                continue
            starving_since = None
            self._state = "reading"
            if not self._source.take_in(self._skip, self._poll_commands):
                return False
            if not documents:
                self._publish_window(flush=True)
                return not self._stop
            if self._take_page(documents):
                return False
            if not self._settings.by_ranges:  # of a range nobody asks how large it is
                self._source.first_page_is_there()
        return False

    def _take_page(self, documents: list[Document]) -> bool:
        """Publish what a page holds, as far as the limit allows; True when it holds more than that."""
        if self._room() == 0:
            return self._screening.has_new(documents)
        refused_before = self._screening.n_quarantined
        rows, behind = self._screening.screen(documents, self._room())
        self._read += len(rows) + self._screening.n_quarantined - refused_before
        if len(rows):
            self._page_size.observe(len(rows), self._screening.page_characters)
            self._lengths.add(rows.texts, self._screening.page_characters)
            self._window.add(rows)
        self._publish_window(flush=self._room() == 0)
        self._tell_quarantined()
        return bool(behind) and self._screening.has_new(behind)

    def _room(self) -> int | None:
        """How many documents may still be read, or None when there is no limit."""
        return None if self._limit is None else max(0, self._limit - self._read)

    def _publish_window(self, *, flush: bool) -> None:
        for batch in self._window.batches(flush=flush):
            for encoded in self._encoder.encode(batch):
                if not self._publish(encoded):
                    return

    def _publish(self, encoded: Encoded) -> bool:
        """Put a batch into the next free slot; False when told to stop first."""
        if self._batches % _POLL_EVERY_BATCHES == 0 and self._poll_commands():
            return False
        number = None if self._paused else self._context.documents_free.take()
        if number is None:
            number = self._wait_for_slot()
            if number is None:
                return False
        encoded.write(self._context.documents.slot(number), self._context.generation, self._batches)
        batch = encoded.batch
        self._skip.published(self._batches, batch.ids)
        self._batches += 1
        self._documents += len(batch)
        durable.point("reader.slot_filled")
        self._context.documents_ready.put(number)
        durable.point("reader.slot_ready")
        return True

    def _wait_for_slot(self) -> int | None:
        began = time.monotonic()
        self._state = "waiting_ring"
        number = None
        while number is None and not self._poll_commands():
            if self._paused:
                paused_s = time.monotonic()
                self._context.wait(_IDLE_WAIT_S)
                self._pause_wait_s += time.monotonic() - paused_s
                continue
            self._context.wait(_IDLE_WAIT_S, self._context.documents_free.read_fd)
            number = self._context.documents_free.take()
        self._state = "reading"
        self._ring_wait_s += time.monotonic() - began
        return number

    def _wait_for_source(self, fetcher: PageFetcher, starving_since: float) -> None:
        """Wait for a page; rows in the window wait no longer than that is likely to help."""
        began = time.monotonic()
        if len(self._window) and began - starving_since >= _STARVING_AFTER_S:
            self._publish_window(flush=True)
            return
        is_long = self._outage.going_on or began - starving_since > HEARTBEAT_S
        self._state = "waiting_source" if is_long else "reading"
        self._context.wait(_STARVING_AFTER_S if len(self._window) else _IDLE_WAIT_S, fetcher.wake_fd)
        self._source_wait_s += time.monotonic() - began

    def _poll_commands(self) -> bool:
        """Obey commands and report when it is time; True when no more may be published."""
        for command in self._context.poll_commands():
            kind = command.get("do")
            if kind == "settled":
                self._skip.settle(int(command["sequence"]))
            elif kind == "rescan":
                self._rescan = True
            elif kind == "part":
                self._parts.append(command)
            elif kind in ("pause", "resume"):
                self._paused = kind == "pause"
            elif kind == "stop":
                self._stop = True
            elif kind == "exit":
                self._exit = True
            else:
                raise ProtocolError(f"the reader was told to {kind!r}")
        if self._heartbeat.due():
            self._report()
        return self._stop or self._exit

    def _report(self) -> None:
        self._context.tell(
            "reader",
            **{"pass": self._pass},
            documents=self._documents,
            batches=self._batches,
            quarantined=self._screening.n_quarantined,
            skipped=self._skip.skipped,
            state=self._state,
            ring_wait_s=round(self._ring_wait_s, 3),
            source_wait_s=round(self._source_wait_s, 3),
            paused=self._paused,
            pages=self._page_watch.count,
            page_s=round(self._page_watch.seconds, 4),
            rows_read=self._read,
            characters=self._lengths.characters,
            lengths=self._lengths.sparse(),
            cpu_s=time.process_time(),
            pause_wait_s=round(self._pause_wait_s, 3),
            estimate=self._source.estimate,
            last_error=self._outage.last_error,
            truncated=self._screening.n_truncated,
            saved_texts=self._window.saved_texts,
            beside_equals=self._window.n_apart,
            misfits=dict(self._columns.misfits) if self._columns is not None else {},
            unsettled=self._skip.unsettled,
        )

    def _tell_quarantined(self) -> None:
        entries = [asdict(entry) for entry in self._screening.quarantined]
        self._screening.quarantined.clear()
        for part in in_portions(entries):
            self._context.tell("quarantine", entries=part)

    def _log_misfit(self, column: str, expected: str, met: str) -> None:
        self._context.log("warning", "column_value_misfit", column=column, expected=expected, met=met, becomes="null")

    def _end_fetching(self) -> None:
        if self._fetcher is not None:
            self._fetcher.stop()
            self._fetcher = None
