"""How many texts may be in flight at one server: from a small start to its knee, and there.

The window is counted in texts, because a permit of TEI belongs to a text. Once a window's worth of answers has come
(a *round*), the controller looks at

* the server's own account: `x-inference-time` T is the time of a GPU batch, `x-queue-time` Q the time a text waits
  for one. While GPU batches are not full, every waiting text goes into the next one, so Q is about T; once they are
  full the queue grows, and Q/T is the number of GPU batches that wait. Two to three keep the GPU busy.
* throughput: a larger window has to pay. It decides alone when a server gives no account of its time.
* 429, and the 95th percentile against a target: multiplicative decrease.

    STARTING   doubles every round while throughput grows or GPU batches are not full
    STEADY     holds 2 to 3 GPU batches waiting: corrects by a quarter up, a fifth down
    FIXED      the user chose a number of requests; only 429 lowers it for a while
"""

from __future__ import annotations

import enum
import time
from collections import deque
from dataclasses import dataclass

from engine.errors import ProtocolError
from gpu_clients.requester import ServerTimes

ENOUGH_WAITING = 2.1
TOO_MANY_WAITING = 2.9
TOO_FEW_WAITING = 1.8
GPU_BOUND_WAITING = 0.5
"""Below, texts spend their time elsewhere (tokenizer, network), and only throughput tells."""
GROWTH_THAT_PAYS = 0.05
LOOK_AGAIN_S = 30.0
"""How often a larger window is tried at a server that gives no account of its time."""
MISSES_BEFORE_STEADY = 2
"""One round without growth may be noise."""
BATCHES_IN_WINDOW = 3
"""GPU batches that a steady window holds, about."""
MARGIN = 0.05
"""Share of the permits that is left to others, unless that would leave fewer than two requests in flight."""
_RECENT = 200
_MIN_FOR_TARGET = 20
_TARGET_SHARE = 0.9
_RECOVERY = 0.02
"""Share of a batch by which a limit that 429 or the target has set rises in a round."""
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


@dataclass(slots=True)
class _Round:
    """What has come in since the controller last looked."""

    began_s: float
    answers: int = 0
    texts: int = 0
    queue_s: float = 0.0
    inference_s: float = 0.0
    accounts: int = 0
    full: bool = False  # the window was used up at some time, so the round says something about it
    overloaded: int = 0


class Admission:
    """The window of one server.

    Args:
        batch_texts: Texts of a usual request.
        permits: The server's `max_concurrent_requests`, or None when it does not say.
        concurrency: A fixed number of requests, or None to adapt.
        max_concurrency: Ceiling in requests.
        target_p95_s: Bound on the 95th percentile of latency, or None.
    """

    def __init__(
        self,
        *,
        batch_texts: int,
        permits: int | None,
        concurrency: int | None,
        max_concurrency: int,
        target_p95_s: float | None,
    ) -> None:
        self._batch_texts = batch_texts
        self._target_p95_s = target_p95_s
        requests = max_concurrency if concurrency is None else concurrency
        self._ceiling_texts = max(1, requests * batch_texts)
        if permits is not None:
            self._ceiling_texts = max(1, min(self._ceiling_texts, _without_margin(permits, batch_texts)))
        self._limit_texts = float(self._ceiling_texts)  # lowered for a while by 429
        if concurrency is None:
            self.state = AdmissionState.STARTING
            self._window_texts = float(min(2 * batch_texts, self._ceiling_texts))
        else:
            self.state = AdmissionState.FIXED
            self._window_texts = float(self._ceiling_texts)
        self._round = _Round(time.monotonic())
        self._best_rate = 0.0
        self._misses = 0
        self._since_s = time.monotonic()
        self._latencies: deque[float] = deque(maxlen=_RECENT)
        self._overloaded_in_a_row = 0

    @property
    def window_texts(self) -> int:
        """Texts that may be in flight."""
        return max(1, int(min(self._window_texts, self._limit_texts)))

    @property
    def window_requests(self) -> int:
        """The same in usual requests."""
        return max(1, self.window_texts // self._batch_texts)

    @property
    def overloaded_in_a_row(self) -> int:
        """Answers 429 since the last good one."""
        return self._overloaded_in_a_row

    def admits(self, in_flight_texts: int, n_texts: int) -> bool:
        """Whether a request of `n_texts` may go out now; an idle server always gets one."""
        if in_flight_texts == 0 or in_flight_texts + n_texts <= self.window_texts:
            return True
        self._round.full = True
        return False

    def room_requests(self, in_flight_texts: int) -> int:
        """Usual requests that should go out now: as many as fit, and when any does, a run of neighbours.

        Batches come sorted by length, and neighbours in a server's queue share GPU batches. A server that takes one
        batch at a time gets every fourth of a fleet of four, a slow one every eighth; padded models pay for the
        difference in length. So a little more than the window may be in flight, in runs of a GPU batch or so.
        """
        room = (self.window_texts - in_flight_texts) // self._batch_texts
        if room < 1:
            self._round.full = True
            return 1 if in_flight_texts == 0 else 0
        most = (int(self._limit_texts) - in_flight_texts) // self._batch_texts
        return max(room, min(self.window_requests // BATCHES_IN_WINDOW, most))

    def answered(self, n_texts: int, latency_s: float, times: ServerTimes, now_s: float) -> None:
        """Take note of a good answer."""
        self._overloaded_in_a_row = 0
        self._latencies.append(latency_s)
        current = self._round
        current.answers += 1
        current.texts += n_texts
        if times.inference_s or times.queue_s:
            current.accounts += 1
            # the headers hold whole milliseconds, cut off
            current.queue_s += times.queue_s + 0.0005
            current.inference_s += times.inference_s + 0.0005
        if current.texts >= self._window_texts and current.answers >= _MIN_ANSWERS_IN_A_ROUND:
            self._end_round(now_s)

    def overloaded(self) -> None:
        """Take note of a 429: half the window, once a round."""
        self._overloaded_in_a_row += 1
        current = self._round
        current.overloaded += 1
        if current.overloaded == 1:
            floor = float(self._batch_texts)
            self._window_texts = max(floor, self._window_texts / 2)
            # what was too much once is not tried again at once
            self._limit_texts = max(floor, min(self._limit_texts, 2 * self._window_texts))
            self._settle()

    def p95_s(self) -> float | None:
        """95th percentile of the last latencies (the highest of a few), None before there is one."""
        if not self._latencies:
            return None
        ordered = sorted(self._latencies)
        return ordered[-1] if len(ordered) < 20 else ordered[int(0.95 * len(ordered))]

    def median_s(self) -> float | None:
        """Median of the last latencies, None before there is one."""
        return sorted(self._latencies)[len(self._latencies) // 2] if self._latencies else None

    def _move(self, state: AdmissionState) -> None:
        if state not in MOVES[self.state]:
            raise ProtocolError(f"admission cannot go from {self.state.name} to {state.name}")
        self.state = state
        self._since_s = time.monotonic()

    def _end_round(self, now_s: float) -> None:
        ended, self._round = self._round, _Round(now_s)
        took_s = now_s - ended.began_s
        if ended.overloaded or took_s <= 0:
            return
        self._limit_texts = min(float(self._ceiling_texts), self._limit_texts + self._batch_texts * _RECOVERY)
        if self.state is AdmissionState.FIXED:
            self._grow_to(self._window_texts + self._batch_texts)
        elif self._over_target():
            self._settle()
        elif self._target_p95_s is not None and len(self._latencies) < _MIN_FOR_TARGET:
            pass  # the window has just changed: wait for what that does to the latencies
        else:
            waiting = ended.queue_s / ended.inference_s if ended.accounts else None
            if waiting is not None and waiting > TOO_MANY_WAITING:
                self._shrink(0.8)
                self._settle()
            elif not ended.full:
                pass  # the window was never used up: nothing is known about a larger one
            elif self.state is AdmissionState.STARTING:
                self._start_round(ended.texts / took_s, waiting)
            elif waiting is None:
                if now_s - self._since_s > LOOK_AGAIN_S:
                    self._best_rate = ended.texts / took_s
                    self._move(AdmissionState.STARTING)
                    self._grow_to(self._window_texts * 2)
            elif waiting < TOO_FEW_WAITING and self._may_grow(1.25):
                self._grow_to(self._window_texts * 1.25)

    def _start_round(self, rate: float, waiting: float | None) -> None:
        """Double as long as that pays; otherwise settle."""
        gain = rate / self._best_rate - 1.0 if self._best_rate else 1.0
        self._best_rate = max(rate, self._best_rate)
        enough = waiting is not None and waiting >= ENOUGH_WAITING
        if enough or self._window_texts >= self._ceiling_texts or not self._may_grow(2.0):
            self._settle()
        elif gain >= GROWTH_THAT_PAYS or (waiting is not None and waiting >= GPU_BOUND_WAITING):
            # GPU batches that are not full yet grow with the window, and cost less for each text
            self._misses = 0
            self._grow_to(self._window_texts * 2)
        else:
            self._misses += 1
            if self._misses >= MISSES_BEFORE_STEADY:
                self._shrink(0.5)  # the last doubling brought nothing
                self._settle()

    def _settle(self) -> None:
        self._misses = 0
        if self.state is AdmissionState.STARTING:
            self._move(AdmissionState.STEADY)

    def _shrink(self, factor: float) -> None:
        self._window_texts = max(float(self._batch_texts), self._window_texts * factor)

    def _may_grow(self, factor: float) -> bool:
        """Whether the latency target leaves room for a window that many times as large.

        A full server's latency grows with the window (Little's law); a tenth is left for what varies.
        """
        p95_s = self.p95_s()
        return self._target_p95_s is None or p95_s is None or p95_s * factor < _TARGET_SHARE * self._target_p95_s

    def _over_target(self) -> bool:
        """Shrink the window when latencies exceed the target, by what Little's law says; remember where that was."""
        p95_s, target_s = self.p95_s(), self._target_p95_s
        if target_s is None or p95_s is None or p95_s <= target_s:
            return False
        self._shrink(max(0.5, min(0.95, _TARGET_SHARE * target_s / p95_s)))
        self._limit_texts = self._window_texts
        self._latencies.clear()
        return True

    def _grow_to(self, texts: float) -> None:
        self._window_texts = min(self._limit_texts, texts)
        if self._target_p95_s is not None:
            self._latencies.clear()  # they belong to the smaller window


def _without_margin(permits: int, batch_texts: int) -> int:
    with_margin = int(permits * (1 - MARGIN)) // batch_texts * batch_texts
    return with_margin if with_margin >= 2 * batch_texts else permits
