"""The `sim` backend: vectors made from the texts, on a modelled GPU whose capacity is known."""

from __future__ import annotations

from bench.standin.api.encoding import Rows
from bench.standin.api.metrics import Metrics
from bench.standin.backends import tokens
from bench.standin.backends.base import Backend, BackendDefaults, Job, prepare_by_rule
from bench.standin.backends.gpu_model import GpuModel, Ticket
from bench.standin.backends.vectors import RAW_NORM, numbered_token_rows, shaped, text_rows, without_window
from bench.standin.http.connection import Block
from bench.standin.http.loop import Loop, Timer

DEFAULTS = BackendDefaults(model_id="google/embeddinggemma-300m", dim=768, dtype="float32", max_input_length=2_048)


class SimBackend(Backend):
    """One modelled server: one tokenizer stage, one FIFO, one GPU."""

    def __init__(
        self, loop: Loop, gpu: GpuModel, metrics: Metrics, *, model_id: str, dim: int, max_input_length: int
    ) -> None:
        self.model_id = model_id
        self.dim = dim
        self._max_input_length = max_input_length
        self._loop = loop
        self._gpu = gpu
        self._metrics = metrics
        self._timer: Timer | None = None
        self._timer_s = 0.0

    def submit(self, job: Job) -> None:
        texts = prepare_by_rule(job, self._max_input_length)
        if not texts:
            job.on_done(job)
            return
        rows = text_rows(self.model_id, texts, self.dim)
        if job.dimensions is not None or not job.normalize:
            rows = shaped(rows * RAW_NORM, job.dimensions, job.normalize)
        job.rows = rows
        self._run()
        ticket = Ticket(job, len(texts), job.arrived_s)
        job.on_abandoned = ticket.abandon
        self._gpu.submit(ticket, job.n_tokens, job.poison)
        self._run()

    def prepared(self, n_rows: int, *, base64: bool, openai: bool) -> Block | None:
        return None

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[tokens.Token]:
        return tokens.tokenize(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return tokens.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_rows(self, job: Job) -> list[Rows]:
        return numbered_token_rows(self.model_id, job.n_tokens, self.dim)

    def free_at_s(self) -> float:
        return self._gpu.free_at_s(self._loop.now())

    def set_slow_factor(self, factor: float) -> None:
        self._gpu.slow_factor = factor

    def switch_model(self, model_id: str) -> None:
        self.model_id = model_id

    def metrics(self) -> dict[str, float]:
        self._run()
        totals = self._gpu.totals
        return {
            "standin_batches_total": totals.batches,
            "standin_inputs_total": totals.inputs,
            "standin_real_tokens_total": totals.real_tokens,
            "standin_padded_tokens_total": totals.padded_tokens,
            "standin_busy_seconds_total": self._gpu.busy_s(self._loop.now()),
            "standin_dropped_total": totals.dropped,
            "te_queue_size": self._gpu.queued,
        }

    def _run(self) -> None:
        """Let the model catch up with the clock, hand out what is done, and set the next alarm."""
        gpu = self._gpu
        done = gpu.advance(self._loop.now())
        if gpu.batch_sizes:
            self._metrics.observe_batches(gpu.batch_sizes, gpu.batch_tokens)
            gpu.batch_sizes.clear()
            gpu.batch_tokens.clear()
        next_s = gpu.next_event_s()
        if next_s is not None and (self._timer is None or self._timer.call is None or next_s != self._timer_s):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(next_s, self._on_timer)
            self._timer_s = next_s
        for ticket in done:
            job = ticket.owner
            assert isinstance(job, Job)
            job.tokenization_s = ticket.tokenization_sum_s / ticket.n_inputs
            job.queue_s = ticket.queue_sum_s / ticket.n_inputs
            job.inference_s = ticket.inference_sum_s / ticket.n_inputs
            job.backend_failed = ticket.failed
            if ticket.without_window:
                job.rows = without_window(job.rows, job.n_tokens, ticket.without_window, self._gpu.sliding_window)
            job.on_done(job)

    def _on_timer(self) -> None:
        self._timer = None
        self._run()
