"""How many requests may be in flight at a server whose latency has a bound.

The 95th percentile allows one late answer of twenty, and a single GPU batch makes a dozen of them: a long text among
short ones on a model that pads, the canary, a hiccup. So a few late answers say nothing about a percentile, and a
window that was given up for more of them need not be won back in small steps. What is known are the last answers, each
with what was in flight when it was sent, and the share of late ones in the long run:

* a window that is larger would have answered each of them later in proportion (Little's law), at most;
* what was in flight with at least the window's texts says whether this window keeps the target;
* whether one request more does is tried, as long as few answers were late: the law is a bound, and a window of one
  request may be far from the target, one of two requests as near as can be.
"""

from __future__ import annotations

from collections import deque

LATE_SHARE = 0.05
"""Of all answers, what a 95th percentile allows."""
KEPT = 200
"""Answers that a percentile is taken of."""
MOST_LATE = int(LATE_SHARE * KEPT)
LEAST = 20
"""Answers without which nothing is said."""
ENOUGH = 50
"""Answers with which a window is known by itself, and not by law from others."""
AIM = 0.97
"""Share of the target that a window is chosen for; one that keeps the target itself stays."""
LONG_RUN = 1_000
"""Answers within which the share of late ones is forgotten."""
MANY_LATE = 0.038
"""Share of late answers in the long run from which on the last ones are believed at once, and no window grows."""
FEW_LATE = 0.02
"""Share of late answers in the long run below which one request more is tried: if it is too many, `2 * MOST_LATE` or so
answers are late until that is known."""


class LatencyTarget:
    """The bound on one server's window, in requests.

    Attributes:
        target_s: What the 95th percentile of latency, in seconds, is to stay below.
        requests: So many may be in flight.
    """

    def __init__(self, target_s: float, requests: int) -> None:
        self.target_s = target_s
        self.requests = requests
        self._answers: deque[tuple[float, int]] = deque(maxlen=KEPT)  # latency, texts in flight with it
        self._late = 0.0
        self._since = 0  # answers since the bound was moved

    @property
    def is_known(self) -> bool:
        """Whether there are answers to go by; until then the bound is where it began."""
        return len(self._answers) >= LEAST

    def answered(self, latency_s: float, in_flight_texts: int) -> None:
        """Take note of a good answer.

        Args:
            in_flight_texts: Texts that were in flight once it had been sent, its own included.
        """
        self._answers.append((latency_s, in_flight_texts))
        self._since += 1
        self._late += ((latency_s > self.target_s) - self._late) / LONG_RUN

    def look(self, requests: int, request_texts: float) -> None:
        """Move the bound by what the answers say.

        Args:
            requests: What the window holds now.
            request_texts: Texts of a usual request.
        """
        answers = self._answers
        if not self.is_known:
            return
        texts = requests * request_texts
        # a window in whole requests: half of one more or less is the same
        least = texts - 0.5 * request_texts
        here = sorted([late * min(1.0, texts / there) for late, there in answers if there > least], reverse=True)
        most_late = MOST_LATE if self._late > MANY_LATE else 2 * MOST_LATE
        if requests > 1 and len(here) > most_late and here[most_late] > self.target_s:
            self._move(min(requests - 1, self._by_law(requests, here[MOST_LATE])))
            return
        known = here
        if len(here) < ENOUGH:
            known = sorted([late * texts / there for late, there in answers], reverse=True)
        p95_s = known[int(LATE_SHARE * len(known))]
        most = self._by_law(requests, p95_s)
        if most > self.requests:
            if self._late < MANY_LATE:
                self._move(most)
        elif requests + 1 < self.requests:
            self.requests = max(requests + 1, most)  # what was never in flight is known by law alone
        elif (
            requests >= self.requests
            and self._since >= ENOUGH
            and self._late < FEW_LATE
            and p95_s < AIM * self.target_s
        ):
            self._move(requests + 1)

    def _by_law(self, requests: int, p95_s: float) -> int:
        """Requests that bring the percentile from `p95_s` to the target when latency follows what is in flight."""
        return int(requests * AIM * self.target_s / max(1e-6, p95_s))

    def _move(self, requests: int) -> None:
        self.requests = max(1, requests)
        self._since = 0
