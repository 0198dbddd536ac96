"""The modelled GPU: how a server of this kind forms batches, and how long they take.

    request -> tokenizer -> FIFO of inputs -> cut a batch -> one prefetched batch -> GPU

Inputs of all requests share one FIFO; a request is done when its slowest input is. A batch is cut as soon as the
prefetch place is free, without waiting for more. The cut walks the FIFO from the front and stops at the first input
that would exceed `max_batch_tokens` (padded: longest x count, otherwise the sum) or `max_batch_requests`.

The model has no clock of its own: it is told the time and advances event by event in *model* time. A late call only
delays when an answer leaves, never when the next batch starts, so timer jitter costs no capacity. The same class
therefore serves live requests and computes what a server can do (`bench.standin.backends.capacity`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from bench.standin.config import GpuConfig


class Ticket:
    """One request inside the model; times are seconds, summed over its inputs where `_sum` says so."""

    __slots__ = (
        "arrived_s",
        "done_s",
        "failed",
        "gone",
        "inference_sum_s",
        "left",
        "n_inputs",
        "owner",
        "queue_sum_s",
        "taken",
        "tokenization_sum_s",
        "without_window",
    )

    def __init__(self, owner: object, n_inputs: int, arrived_s: float) -> None:
        self.owner = owner
        self.n_inputs = n_inputs
        self.left = n_inputs
        self.arrived_s = arrived_s
        self.done_s = 0.0
        self.failed = False
        self.gone = False
        self.tokenization_sum_s = 0.0
        self.queue_sum_s = 0.0
        self.inference_sum_s = 0.0
        self.taken = 0  # inputs that batches have taken
        self.without_window: list[int] = []  # inputs that were computed without the model's sliding window

    def abandon(self) -> None:
        """Skip the inputs that no batch has taken yet."""
        self.gone = True


@dataclass(slots=True)
class Totals:
    """What the GPU has done so far."""

    batches: int = 0
    inputs: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0  # what the batches cost: equals real_tokens when nothing is padded
    busy_s: float = 0.0
    dropped: int = 0


@dataclass(slots=True)
class _Batch:
    cut_s: float
    count: int
    longest: int
    tokens: int
    runs: list[tuple[Ticket, int, float]]  # neighbours of one request: number, sum of ready times
    poisoned: bool
    start_s: float = 0.0
    end_s: float = 0.0


class GpuModel:
    """One modelled server; `submit` and `advance` must be called with times that never go back."""

    def __init__(
        self,
        gpu: GpuConfig,
        *,
        max_batch_tokens: int,
        max_batch_requests: int | None = None,
        speed: float = 1.0,
        slow_factor: float = 1.0,
    ) -> None:
        self._gpu = gpu
        self._max_batch_tokens = max_batch_tokens
        self._max_batch_requests = max_batch_requests
        self._speed = speed
        self.slow_factor = slow_factor
        self.totals = Totals()
        self.batch_sizes: list[int] = []  # since somebody last cleared it
        self.batch_tokens: list[int] = []
        self._fifo: deque[tuple[float, int, Ticket, bool]] = deque()
        self._tokenizer_free_s = 0.0
        self._place_free_s = 0.0  # when the prefetch place was last vacated
        self._gpu_free_s = 0.0
        self._prefetched: _Batch | None = None
        self._running: _Batch | None = None

    @property
    def sliding_window(self) -> int:
        """Return the window that batches of equal lengths lose; 0 for none."""
        return self._gpu.sliding_window

    @property
    def queued(self) -> int:
        """Return the number of inputs that no batch has taken yet."""
        return len(self._fifo)

    def free_at_s(self, now_s: float) -> float:
        """Return when the running batch ends; `now_s` while there is none."""
        return now_s if self._running is None else max(now_s, self._running.end_s)

    def busy_s(self, now_s: float) -> float:
        """Return the GPU time spent until `now_s`, the running batch only as far as it has got."""
        return self.totals.busy_s - (self.free_at_s(now_s) - now_s)

    def submit(self, ticket: Ticket, n_tokens: list[int], poison: frozenset[int] = frozenset()) -> None:
        """Queue the inputs of one request, in order; a batch with an index of `poison` in it fails whole."""
        rate = self._gpu.tokenizer_tokens_per_s
        ready_s = max(self._tokenizer_free_s, ticket.arrived_s)
        append = self._fifo.append
        for index, tokens in enumerate(n_tokens):
            if rate:
                ready_s += tokens / rate
            ticket.tokenization_sum_s += ready_s - ticket.arrived_s
            append((ready_s, tokens, ticket, index in poison if poison else False))
        self._tokenizer_free_s = ready_s

    def next_event_s(self) -> float | None:
        """Return when `advance` has something to do next; None while idle."""
        times = []
        if self._running is not None:
            times.append(self._running.end_s)
        if self._prefetched is None and self._fifo:
            times.append(max(self._place_free_s, self._fifo[0][0]))
        return min(times, default=None)

    def advance(self, now_s: float) -> list[Ticket]:
        """Let the model run up to `now_s`; return the requests that were completed, in order."""
        done: list[Ticket] = []
        while True:
            if self._prefetched is None and self._fifo:
                cut_s = max(self._place_free_s, self._fifo[0][0])
                # a batch that ends before this cut is an earlier event
                earlier = self._running is not None and self._running.end_s <= cut_s
                if cut_s <= now_s and not earlier:
                    self._prefetched = self._cut(cut_s)
                    continue
            if self._running is not None:
                if self._running.end_s > now_s:
                    return done
                self._end(self._running, done)
                self._running = None
            if self._prefetched is not None:
                self._start(self._prefetched)
            elif self.next_event_s() is None or (self.next_event_s() or 0.0) > now_s:
                return done

    def _cut(self, cut_s: float) -> _Batch | None:
        gpu_padded = self._gpu.padded
        limit = self._max_batch_tokens
        most = self._max_batch_requests or len(self._fifo)
        fifo = self._fifo
        count = longest = total = 0
        poisoned = False
        runs: list[tuple[Ticket, int, float]] = []
        run_ticket: Ticket | None = None
        run, run_ready_s = 0, 0.0
        while fifo and count < most:
            ready_s, tokens, ticket, poison = fifo[0]
            if ready_s > cut_s:
                break
            if ticket.gone:
                fifo.popleft()
                self.totals.dropped += 1
                continue
            new_longest = tokens if tokens > longest else longest
            cost = new_longest * (count + 1) if gpu_padded else total + tokens
            if cost > limit and count:
                break
            fifo.popleft()
            longest = new_longest
            total += tokens
            count += 1
            poisoned = poisoned or poison
            if ticket is not run_ticket:
                if run_ticket is not None:
                    runs.append((run_ticket, run, run_ready_s))
                run_ticket, run, run_ready_s = ticket, 0, 0.0
            run += 1
            run_ready_s += ready_s
        if run_ticket is None:
            return None
        runs.append((run_ticket, run, run_ready_s))
        loses_window = (
            self._gpu.padded and count > 1 and longest * count == total and 2 * longest > self._gpu.sliding_window > 0
        )
        for ticket, run, _ in runs:
            if loses_window:
                ticket.without_window += range(ticket.taken, ticket.taken + run)
            ticket.taken += run
        return _Batch(cut_s, count, longest, total, runs, poisoned)

    def _start(self, batch: _Batch) -> None:
        cost_tokens = batch.longest * batch.count if self._gpu.padded else batch.tokens
        took_s = self._gpu.fixed_overhead_s + cost_tokens / self._gpu.tokens_per_s
        took_s *= self.slow_factor / self._speed
        batch.start_s = max(self._gpu_free_s, batch.cut_s)
        batch.end_s = batch.start_s + took_s
        self._running, self._prefetched = batch, None
        self._place_free_s = batch.start_s
        totals = self.totals
        totals.batches += 1
        totals.inputs += batch.count
        totals.real_tokens += batch.tokens
        totals.padded_tokens += cost_tokens
        totals.busy_s += took_s
        self.batch_sizes.append(batch.count)
        self.batch_tokens.append(batch.tokens)

    def _end(self, batch: _Batch, done: list[Ticket]) -> None:
        self._gpu_free_s = batch.end_s
        for ticket, run, ready_sum_s in batch.runs:
            ticket.queue_sum_s += batch.start_s * run - ready_sum_s
            ticket.inference_sum_s += (batch.end_s - batch.start_s) * run
            ticket.failed = ticket.failed or batch.poisoned
            ticket.left -= run
            if ticket.left == 0:
                ticket.done_s = batch.end_s
                done.append(ticket)
