"""The breaker of one server: takes it out of use when it fails, and back when an examination finds it sound.

    OK ------ a few failures in a row, a bad share of the last ones, or a verdict ------> OUT
    OUT ----- its pause is over ------> PROBING
    PROBING - probe passed -----------> OK
    PROBING - probe failed -----------> OUT   (a longer pause)

A dead GPU answers errors faster than a sound one answers vectors, so a server without a breaker draws the work to
itself. The pause grows with every time out and is forgotten only after a while of good service, so that a server
that flaps does not make the client flap with it.
"""

from __future__ import annotations

import enum
import math
import random
import time
from collections import deque

from engine.errors import ProtocolError

FAILURES_IN_A_ROW = 4
WINDOW = 20
BAD_IN_WINDOW = 10
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 15.0
GOOD_SERVICE_S = 10.0


class BreakerState(enum.Enum):
    """Whether a server is used."""

    OK = "ok"
    OUT = "out"
    PROBING = "probing"


MOVES: dict[BreakerState, frozenset[BreakerState]] = {
    BreakerState.OK: frozenset({BreakerState.OUT}),
    BreakerState.OUT: frozenset({BreakerState.PROBING}),
    BreakerState.PROBING: frozenset({BreakerState.OK, BreakerState.OUT}),
}


class Breaker:
    """Decides whether one server is used.

    Attributes:
        state: Where it stands.
        reason: Why it is out, or was last.
        trips: How often it was taken out.
    """

    def __init__(self, rng: random.Random) -> None:
        self.state = BreakerState.OK
        self.reason = ""
        self.trips = 0
        self._rng = rng
        self._in_a_row = 0
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self._pause_s = FIRST_PAUSE_S
        self._probe_at_s = 0.0
        self._since_s = time.monotonic()

    @property
    def is_ok(self) -> bool:
        """Whether work may be sent."""
        return self.state is BreakerState.OK

    def _move(self, state: BreakerState) -> None:
        if state not in MOVES[self.state]:
            raise ProtocolError(f"breaker cannot go from {self.state.name} to {state.name}")
        self.state = state
        self._since_s = time.monotonic()

    def succeeded(self) -> None:
        """A request was answered well."""
        if self._in_a_row or self._pause_s != FIRST_PAUSE_S:
            self._in_a_row = 0
            if time.monotonic() - self._since_s > GOOD_SERVICE_S:
                self._pause_s = FIRST_PAUSE_S
        self._recent.append(True)

    def failed(self) -> bool:
        """A request failed through the server's fault; True when that is enough to take it out (see `trip`)."""
        self._in_a_row += 1
        self._recent.append(False)
        return self._in_a_row >= FAILURES_IN_A_ROW or self._recent.count(False) >= BAD_IN_WINDOW

    def cleared(self) -> None:
        """The canary is right: what failed was not the server's fault."""
        self._in_a_row = 0
        self._recent.clear()

    def trip(self, reason: str) -> None:
        """Take the server out now."""
        self._move(BreakerState.OUT)
        self.trips += 1
        self._pause(reason)

    def bar(self, reason: str) -> None:
        """Let a server that is out in no more."""
        self.reason = reason
        self._probe_at_s = math.inf

    def probe_due(self, now_s: float) -> bool:
        """Whether it is time for a probe."""
        return self.state is BreakerState.OUT and now_s >= self._probe_at_s

    def probe_begins(self) -> None:
        """A probe is on its way."""
        self._move(BreakerState.PROBING)

    def probe_passed(self) -> None:
        """The server may work again."""
        self._move(BreakerState.OK)
        self.cleared()

    def probe_failed(self, reason: str) -> None:
        """The server stays out for longer."""
        self._move(BreakerState.OUT)
        self._pause(reason)

    def _pause(self, reason: str) -> None:
        self.reason = reason
        self._probe_at_s = time.monotonic() + self._pause_s * self._rng.uniform(0.75, 1.25)
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
