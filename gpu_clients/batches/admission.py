"""How many texts may be in flight at one server: from a small start to its knee, and there.

The window is counted in texts, because a permit of TEI belongs to a text. Once a window's worth of answers has come
(a *round*), the controller looks at

* what a GPU batch holds: `max_batch_tokens` and `max_batch_requests` of the server, and its tokens per text. Three of
  them in flight (one runs, two wait) keep the GPU busy with full batches; more would only wait.
* the server's own account: `x-inference-time` T is the time of a GPU batch, `x-queue-time` Q the time a text waits
  for one, so Q/T is about the number of batches that wait. It decides when the size of a GPU batch is not known, and
  overrules it when far more wait than that size explains.
* throughput: a larger window has to pay. It decides alone when a server gives no account of its time.
* 429: multiplicative decrease; a target for the 95th percentile: a bound (`latency_target`).

    STARTING   doubles every round while throughput grows or GPU batches are not full
    STEADY     holds three GPU batches: corrects by a quarter up, a fifth down
    FIXED      the user chose a number of requests; only 429 lowers it for a while
"""

from __future__ import annotations

import enum
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import ProtocolError
from gpu_clients.batches.latency_target import LatencyTarget
from gpu_clients.servers.requester import ServerTimes

ENOUGH_WAITING = 2.1
TOO_MANY_WAITING = 2.9
TOO_FEW_WAITING = 1.8
GPU_BOUND_SHARE = 0.5
"""Of a request's latency; where queue and GPU take less, texts spend their time elsewhere (tokenizer, network), and
only throughput tells whether more in flight is better."""
GROWTH_THAT_PAYS = 0.05
LOOK_AGAIN_S = 30.0
"""How often a larger window is tried at a server that gives no account of its time."""
MISSES_BEFORE_STEADY = 2
"""One round without growth may be noise."""
BATCHES_IN_WINDOW = 3
"""GPU batches that a steady window holds: one runs, two wait."""
FAR_TOO_MANY = 5.0 / 3.0
"""With a known GPU batch, no more of them wait than the window holds; so many times that mean that it is smaller than
the server says."""
LEAST_REQUESTS = 2
"""Requests that a window holds however long texts wait: with a single one the GPU waits while its answer is on the way
and the next request is. Only 429 and the latency target go below."""
MARGIN = 0.05
"""Share of the permits that is left to others, unless that would leave fewer than two requests in flight."""
QUICK_S = 0.1
"""A window holds at least so much time of the server's work: an answer on its way, the next request, and a client that
has to wait for a core take milliseconds, in which many small GPU batches would be over."""
_RECENT = 200
_RECOVERY = 0.02
"""Share of a batch by which a limit that 429 has set rises in a round."""
_MIN_ANSWERS_IN_A_ROUND = 4


class AdmissionState(enum.Enum):
    """How the window moves."""

    STARTING = "starting"
    STEADY = "steady"
    FIXED = "fixed"


MOVES: dict[AdmissionState, frozenset[AdmissionState]] = {
    AdmissionState.STARTING: frozenset({AdmissionState.STEADY}),
    AdmissionState.STEADY: frozenset({AdmissionState.STARTING}),
    AdmissionState.FIXED: frozenset(),
}


class GpuBatch:
    """How many texts fit into one batch of the server's GPU.

    Args:
        max_tokens, max_texts: The server's `max_batch_tokens` and `max_batch_requests`, None when it does not say.
    """

    def __init__(self, max_tokens: int | None, max_texts: int | None) -> None:
        self._max_tokens = max_tokens
        self._max_texts = max_texts
        self._tokens_per_text = 0.0

    def learn(self, tokens: int | None, n_texts: int) -> None:
        """Take in what a request cost; texts come sorted by length, so that the mean drifts and is followed."""
        if tokens and n_texts:
            mean = tokens / n_texts
            self._tokens_per_text += 0.1 * (mean - self._tokens_per_text) if self._tokens_per_text else mean

    @property
    def texts(self) -> float | None:
        """Texts in a full batch, None as long as that is not known."""
        if self._max_tokens is None or not self._tokens_per_text:
            return self._max_texts
        by_tokens = max(1.0, self._max_tokens / self._tokens_per_text)
        return by_tokens if self._max_texts is None else min(by_tokens, self._max_texts)


@dataclass(slots=True)
class _Round:
    """What has come in since the controller last looked."""

    began_s: float
    answers: int = 0
    texts: int = 0
    queue_s: float = 0.0
    inference_s: float = 0.0
    latency_s: float = 0.0
    accounts: int = 0
    full: bool = False  # the window was used up at some time, so the round says something about it
    overloaded: int = 0

    @property
    def waiting(self) -> float | None:
        """GPU batches that wait, about; None without the server's account."""
        return self.queue_s / self.inference_s if self.accounts else None

    @property
    def is_quick(self) -> bool:
        """Whether requests are answered so soon that more of them in flight cost nothing."""
        return self.latency_s < QUICK_S * self.accounts

    @property
    def gpu_bound(self) -> bool:
        """Whether texts spend most of their time waiting for the GPU or on it."""
        return self.accounts > 0 and self.queue_s + self.inference_s >= GPU_BOUND_SHARE * self.latency_s


class Admission:
    """The window of one server.

    Args:
        batch_texts: Texts of a usual request.
        permits: The server's `max_concurrent_requests`, or None when it does not say.
        concurrency: A fixed number of requests, or None to adapt.
        max_concurrency: Ceiling in requests.
        start_concurrency: Requests to begin with when adapting, or None for the least that keeps a server busy.
        target_p95_s: Bound on the 95th percentile of latency, or None.
        gpu_batch: What a GPU batch of the server holds.
        clock: Tells monotonic seconds.
    """

    def __init__(
        self,
        *,
        batch_texts: int,
        permits: int | None,
        concurrency: int | None,
        max_concurrency: int,
        target_p95_s: float | None,
        start_concurrency: int | None = None,
        gpu_batch: GpuBatch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._gpu_batch = gpu_batch or GpuBatch(None, None)
        self._batch_texts = batch_texts
        self._request_texts = float(batch_texts)  # of a usual request: fewer when texts are long, or equal
        self._max_requests = max_concurrency if concurrency is None else concurrency
        self._ceiling_texts = max(1, self._max_requests * batch_texts)
        if permits is not None:
            self._ceiling_texts = max(1, min(self._ceiling_texts, _without_margin(permits, batch_texts)))
        self._limit_texts = float(self._ceiling_texts)  # lowered for a while by 429
        if concurrency is None:
            self.state = AdmissionState.STARTING
            self._window_texts = float(min((start_concurrency or LEAST_REQUESTS) * batch_texts, self._ceiling_texts))
        else:
            self.state = AdmissionState.FIXED
            self._window_texts = float(self._ceiling_texts)
        self._target: LatencyTarget | None = None
        if concurrency is None and target_p95_s is not None:
            self._target = LatencyTarget(target_p95_s, start_concurrency or LEAST_REQUESTS)
        self._round = _Round(clock())
        self._best_rate = 0.0
        self._rate = 0.0  # texts a second of the rounds in which the window was full
        self._misses = 0
        self._since_s = clock()
        self._latencies: deque[float] = deque(maxlen=_RECENT)
        self._overloaded_in_a_row = 0

    @property
    def window_texts(self) -> int:
        """Texts that may be in flight."""
        return max(1, int(min(self._window_texts, self._most_texts)))

    @property
    def window_requests(self) -> int:
        """The same in usual requests."""
        return max(1, min(self._max_requests, int(self.window_texts // self._request_texts)))

    @property
    def overloaded_in_a_row(self) -> int:
        """Answers 429 since the last good one."""
        return self._overloaded_in_a_row

    @property
    def _most_texts(self) -> float:
        """What the window may grow to: what 429 and the target allow."""
        if self._target is None:
            return self._limit_texts
        return min(self._limit_texts, math.ceil(self._target.requests * self._request_texts))

    def admits(self, in_flight_texts: int, n_texts: int) -> bool:
        """Whether a request of `n_texts` may go out now; an idle server always gets one."""
        if in_flight_texts == 0 or in_flight_texts + n_texts <= self.window_texts:
            return True
        self._round.full = True
        return False

    def used_up(self) -> None:
        """Take note that all went out that there was room for: the round says something about the window."""
        self._round.full = True

    def exceeds(self, in_flight_texts: int, n_texts: int) -> bool:
        """Whether a request of `n_texts` more is too much even for a run of neighbours."""
        return in_flight_texts > 0 and in_flight_texts + n_texts > int(self._most_texts)

    def room_requests(self, in_flight_texts: int, in_flight_requests: int, beside: int = 0) -> int:
        """Usual requests that should go out now: as many as fit, and when any does, a run of neighbours.

        Batches come sorted by length, and neighbours in a server's queue share GPU batches. A server that takes one
        batch at a time gets every fourth of a fleet of four, a slow one every eighth; padded models pay for the
        difference in length. So a little more than the window may be in flight, in runs of a GPU batch or so.

        Of those in flight, `beside` are no batches but canaries and the like. Each takes a batch's place, however few
        its texts: on a model that pads, the long text of one makes a GPU batch dear by all that follows it closely.
        """
        free = self._max_requests - in_flight_requests
        room = int((self.window_texts - in_flight_texts) // self._request_texts) - beside
        if min(room, free) < 1:
            return 1 if in_flight_texts == 0 else 0
        most = int((int(self._most_texts) - in_flight_texts) // self._request_texts)
        return min(free, max(room, min(self.window_requests // BATCHES_IN_WINDOW, most)))

    def answered(self, n_texts: int, latency_s: float, times: ServerTimes, now_s: float, in_flight_texts: int) -> None:
        """Take note of a good answer; `in_flight_texts` were in flight once it had been sent, its own included."""
        self._overloaded_in_a_row = 0
        self._latencies.append(latency_s)
        if self._target is not None:
            self._target.answered(latency_s, in_flight_texts)
        self._gpu_batch.learn(times.tokens, n_texts)
        self._request_texts += 0.1 * (min(n_texts, self._batch_texts) - self._request_texts)
        current = self._round
        current.answers += 1
        current.texts += n_texts
        if times.inference_s or times.queue_s:
            current.accounts += 1
            # the headers hold whole milliseconds, cut off
            current.queue_s += times.queue_s + 0.0005
            current.inference_s += times.inference_s + 0.0005
            current.latency_s += latency_s
        if current.texts >= self._window_texts and current.answers >= _MIN_ANSWERS_IN_A_ROUND:
            self._end_round(now_s)

    def passed(self) -> None:
        """Take note of a good answer to a request that says nothing about the window."""
        self._overloaded_in_a_row = 0

    def overloaded(self) -> None:
        """Take note of a 429: half the window, once a round."""
        self._overloaded_in_a_row += 1
        current = self._round
        current.overloaded += 1
        if current.overloaded == 1:
            floor = self._request_texts
            self._window_texts = max(floor, self._window_texts / 2)
            # what was too much once is not tried again at once
            self._limit_texts = max(floor, min(self._limit_texts, 2 * self._window_texts))
            self._settle()

    def median_s(self) -> float | None:
        """Median of the last latencies, None before there is one."""
        return sorted(self._latencies)[len(self._latencies) // 2] if self._latencies else None

    def _move(self, state: AdmissionState) -> None:
        if state not in MOVES[self.state]:
            raise ProtocolError(f"admission cannot go from {self.state.name} to {state.name}")
        self.state = state
        self._since_s = self._clock()

    def _end_round(self, now_s: float) -> None:
        ended, self._round = self._round, _Round(now_s)
        took_s = now_s - ended.began_s
        if ended.overloaded or took_s <= 0:
            return
        self._limit_texts = min(float(self._ceiling_texts), self._limit_texts + self._batch_texts * _RECOVERY)
        if self._target is not None:
            self._target.look(self.window_requests, self._request_texts)
            if self._window_texts > self._most_texts:
                self._window_texts = float(self._most_texts)
                self._settle()
        if self.state is AdmissionState.FIXED:
            self._grow_to(self._window_texts + self._batch_texts)
        elif self._target is None or self._target.is_known:
            waiting = ended.waiting
            if ended.full:
                self._rate = max(ended.texts / took_s, 0.9 * self._rate)
            most = self._enough_texts()
            if waiting is not None and waiting > self._too_many_waiting() and not ended.is_quick:
                self._shrink(0.8, floor=self._least_texts())
                self._settle()
            elif most is not None and self._window_texts > 1.2 * most:
                self._window_texts = most
                self._settle()
            elif not ended.full:
                pass  # the window was never used up: nothing is known about a larger one
            elif self.state is AdmissionState.STARTING:
                self._start_round(ended, ended.texts / took_s, most)
            else:
                self._steady_round(ended, ended.texts / took_s, most, now_s)

    def _least_texts(self) -> float:
        """Texts of the least that keeps a server busy; whole ones, so that so many requests do fit."""
        return float(math.ceil(LEAST_REQUESTS * self._request_texts))

    def _enough_texts(self) -> float | None:
        """Texts of as many GPU batches as a window should hold, None when their size is not known."""
        texts = self._gpu_batch.texts
        if texts is None:
            return None
        quick = math.ceil(QUICK_S * self._rate / self._request_texts) * self._request_texts
        return max(self._least_texts(), BATCHES_IN_WINDOW * texts, quick)

    def _too_many_waiting(self) -> float:
        """GPU batches that wait when the window is too large.

        A request of 32 texts is eight GPU batches of four: of those that the window holds, all may wait.
        """
        texts = self._gpu_batch.texts
        if texts is None:
            return TOO_MANY_WAITING
        return FAR_TOO_MANY * max(float(BATCHES_IN_WINDOW), self._window_texts / texts)

    def _start_round(self, ended: _Round, rate: float, most: float | None) -> None:
        """Double as long as that pays; otherwise settle."""
        gain = rate / self._best_rate - 1.0 if self._best_rate else 1.0
        self._best_rate = max(rate, self._best_rate)
        if most is not None:
            enough = self._window_texts >= most
        else:
            enough = ended.waiting is not None and ended.waiting >= ENOUGH_WAITING and not ended.is_quick
        if enough or self._window_texts >= min(self._ceiling_texts, self._most_texts):
            self._settle()
        elif gain >= GROWTH_THAT_PAYS or ended.gpu_bound:
            # GPU batches that are not full yet grow with the window, and cost less for each text
            self._misses = 0
            self._grow_to(min(self._window_texts * 2, most or math.inf))
        else:
            self._misses += 1
            if self._misses >= MISSES_BEFORE_STEADY:
                self._shrink(0.5, floor=self._least_texts())  # the last doubling brought nothing
                self._settle()

    def _steady_round(self, ended: _Round, rate: float, most: float | None, now_s: float) -> None:
        """Follow the server and the lengths of the texts."""
        waiting = ended.waiting
        if waiting is None:
            if now_s - self._since_s > LOOK_AGAIN_S:
                self._best_rate = rate
                self._move(AdmissionState.STARTING)
                self._grow_to(self._window_texts * 2)
        elif ended.gpu_bound or ended.is_quick:
            if most is None:
                too_few = waiting < TOO_FEW_WAITING or ended.is_quick
            else:
                too_few = self._window_texts < 0.95 * most
            least = self._least_texts()
            if too_few or self._window_texts < least:
                self._grow_to(min(max(self._window_texts * 1.25, least), max(most or math.inf, least)))

    def _settle(self) -> None:
        self._misses = 0
        if self.state is AdmissionState.STARTING:
            self._move(AdmissionState.STEADY)

    def _shrink(self, factor: float, *, floor: float | None = None) -> None:
        """Shrink the window, but not below `floor` texts (None: one request), where it is above that."""
        least = self._request_texts if floor is None else min(floor, self._window_texts)
        self._window_texts = max(least, self._window_texts * factor)

    def _grow_to(self, texts: float) -> None:
        self._window_texts = min(self._most_texts, texts)


def _without_margin(permits: int, batch_texts: int) -> int:
    with_margin = int(permits * (1 - MARGIN)) // batch_texts * batch_texts
    return with_margin if with_margin >= 2 * batch_texts else permits
