"""The `minilm` backend: a real small model, shared by all ports of the process.

Worker threads take requests in order of arrival, whatever their port, a few small ones together. The threads run side
by side because numpy lets go of the interpreter inside its kernels; for the full speed start the process with
OPENBLAS_NUM_THREADS=1, so that the kernels do not start threads of their own (`StandinFleet` does).
"""

from __future__ import annotations

import functools
import os
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from bench.standin.api.encoding import Rows
from bench.standin.api.metrics import Metrics
from bench.standin.backends import tokens
from bench.standin.backends.base import Backend, BackendDefaults, Job
from bench.standin.backends.minilm_model import MiniLm, model_folder
from bench.standin.backends.minilm_tokenizer import MiniLmTokenizer
from bench.standin.backends.vectors import of_another_model, shaped
from bench.standin.http.connection import Block
from bench.standin.http.loop import Loop

DEFAULTS = BackendDefaults(
    model_id="sentence-transformers/all-MiniLM-L6-v2", dim=384, dtype="float32", max_input_length=256
)

#: Tokens that are computed together: enough to keep the kernels busy, few enough for the caches.
_CHUNK_TOKENS = 2_048
#: Characters per token of ordinary text, to judge how many requests make a chunk before they are tokenised.
_CHARS_PER_TOKEN = 4


@dataclass(slots=True)
class _Work:
    backend: MiniLmBackend
    job: Job
    n_chars: int
    gone: bool = False

    def abandon(self) -> None:
        self.gone = True


@dataclass(slots=True)
class _Chunk:
    works: list[_Work]
    ids: list[list[int]] = field(default_factory=list)


class MiniLmEngine:
    """The model, its tokenizer and its threads; one per process."""

    def __init__(self, loop: Loop, n_threads: int | None) -> None:
        folder = model_folder()
        self._loop = loop
        self._model = MiniLm(folder)
        self.tokenizer = MiniLmTokenizer(folder)
        self._waiting: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._closing = False
        n_threads = n_threads or len(os.sched_getaffinity(0))
        self._threads = [
            threading.Thread(target=self._run, name=f"minilm-{number}", daemon=True) for number in range(n_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: _Work) -> None:
        """Queue one request."""
        with self._changed:
            self._waiting.append(work)
            self._changed.notify()

    def token_rows(self, ids: list[list[int]]) -> list[Rows]:
        """Return the last hidden states of each text's tokens (on the caller's thread: nobody is in a hurry)."""
        return [self._model.states([one]) for one in ids]

    def close(self) -> None:
        """End the threads; what they are computing is finished first."""
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                works = self._take()
            if works:
                self._try(works)

    def _try(self, works: list[_Work]) -> None:
        """Compute; what cannot be computed ends the server that it was sent to, and no other."""
        try:
            self._compute(works)
        except Exception:  # noqa: BLE001 - a lost thread would leave its clients waiting for ever
            if len(works) > 1:
                for work in works:
                    self._try([work])
                return
            traceback.print_exc()
            job = works[0].job
            job.panics = True
            self._loop.post(functools.partial(job.on_done, job))

    def _take(self) -> list[_Work]:
        works: list[_Work] = []
        n_chars = 0
        while self._waiting and (not works or n_chars + self._waiting[0].n_chars <= _CHUNK_TOKENS * _CHARS_PER_TOKEN):
            work = self._waiting.popleft()
            if work.gone:
                continue
            n_chars += work.n_chars
            works.append(work)
        return works

    def _compute(self, works: list[_Work]) -> None:
        taken_s = time.monotonic()
        ids: list[list[int]] = []
        for work in works:
            ids.extend(work.backend.prepare(work.job))
        tokenised_s = time.monotonic()
        rows = self._rows(ids)
        done_s = time.monotonic()
        at = 0
        for work in works:
            job = work.job
            n_rows = len(job.n_tokens)
            job.rows = rows[at : at + n_rows]
            at += n_rows
            job.queue_s = taken_s - job.arrived_s
            job.tokenization_s = tokenised_s - taken_s
            job.inference_s = done_s - tokenised_s
            self._loop.post(functools.partial(work.backend.computed, job))

    def _rows(self, ids: list[list[int]]) -> Rows:
        parts: list[Rows] = []
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        at = 0
        while at < len(order):
            n_tokens, end = 0, at
            while end < len(order) and (end == at or n_tokens + len(ids[order[end]]) <= _CHUNK_TOKENS):
                n_tokens += len(ids[order[end]])
                end += 1
            parts.append(self._model.embed([ids[index] for index in order[at:end]]))
            at = end
        rows = np.empty((len(ids), DEFAULTS.dim), dtype=np.float32)
        if parts:
            rows[order] = np.concatenate(parts)
        return rows


class MiniLmBackend(Backend):
    """The backend of one port; computes with the engine that all ports share."""

    def __init__(
        self, loop: Loop, engine: MiniLmEngine, metrics: Metrics, *, model_id: str, max_input_length: int
    ) -> None:
        self.model_id = model_id
        self.dim = DEFAULTS.dim
        self._own_model_id = model_id
        self._max_input_length = max_input_length
        self._loop = loop
        self._engine = engine
        self._metrics = metrics
        self._slow_factor = 1.0
        self._queued = 0
        self._real_tokens = 0
        self._busy_s = 0.0

    def submit(self, job: Job) -> None:
        n_chars = sum(len(one) for one in job.inputs)
        work = _Work(self, job, n_chars)
        job.on_abandoned = work.abandon
        self._queued += len(job.inputs)
        self._engine.submit(work)

    def prepare(self, job: Job) -> list[list[int]]:
        """Tokenise `job` (on a worker's thread): return the ids of its sound inputs, cut; set counts and error."""
        return self._engine.tokenizer.prepare(job, self._max_input_length)

    def computed(self, job: Job) -> None:
        """Finish `job` (on the loop's thread)."""
        self._queued -= len(job.inputs)
        assert job.rows is not None
        rows = job.rows if self.model_id == self._own_model_id else of_another_model(job.rows)
        job.rows = shaped(rows, job.dimensions, job.normalize)
        n_tokens = sum(job.n_tokens)
        self._real_tokens += n_tokens
        self._busy_s += job.inference_s
        if job.n_tokens:
            self._metrics.observe_batches([len(job.n_tokens)], [n_tokens])
        extra_s = (self._slow_factor - 1.0) * (job.tokenization_s + job.inference_s)
        if extra_s > 0:
            self._loop.call_later(extra_s, lambda: job.on_done(job))
        else:
            job.on_done(job)

    def prepared(self, n_rows: int, *, base64: bool, openai: bool) -> Block | None:
        return None

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[tokens.Token]:
        return self._engine.tokenizer.tokenize(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return self._engine.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_rows(self, job: Job) -> list[Rows]:
        ids = self._engine.tokenizer.prepare(job, self._max_input_length)
        return self._engine.token_rows(ids)

    def free_at_s(self) -> float:
        return 0.0

    def set_slow_factor(self, factor: float) -> None:
        """Hold answers back as if this port's share of the work had taken `factor` times as long."""
        self._slow_factor = factor

    def switch_model(self, model_id: str) -> None:
        """Give the vectors of a made-up other model until the own one is named again."""
        self.model_id = model_id

    def metrics(self) -> dict[str, float]:
        return {
            "standin_real_tokens_total": self._real_tokens,
            "standin_padded_tokens_total": self._real_tokens,
            "standin_busy_seconds_total": self._busy_s,
            "te_queue_size": self._queued,
        }
