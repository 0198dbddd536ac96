"""When our server is asked for the canary while it works: in an equal-length batch, in a mixed one, alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

from gpu_clients.diagnosis.canary_check import BisectionContext, check_canary
from gpu_clients.diagnosis.proof import UnprovenRows
from gpu_clients.errors import Failure, FailureKind
from gpu_clients.servers.canary import Arrangement
from gpu_clients.servers.side_requests import SideRequests
from gpu_clients.settings import ClientSettings

FIRST_S = 0.5
"""Soon after the start: a server that mixes up its answers under load did not show it to the doctor."""
LOOKS = 4
_TEXTS_OF_A_CHECK = 3
"""Long ones at most; the short ones beside them cost little."""
_SHARE = 20.0
"""Of a server's time a twentieth may go into canaries."""
_TURNS = (Arrangement.ALONE, Arrangement.EQUAL, Arrangement.MIXED)


def canary_every_s(settings: ClientSettings) -> float:
    """Seconds between two checks: longer for a slow server, which has better things to do."""
    facts = settings.facts_of(settings.index)
    slow_s = facts.seconds_a_text if facts is not None else None
    return max(settings.canary_every_s, _SHARE * _TEXTS_OF_A_CHECK * (slow_s or 0.0))


class CanarySchedule:
    """Asks for the canary every so often, one arrangement after the other; all of them at once at the start.

    The long text of the canary makes a GPU batch of short ones dear on a model that pads, so one check at a time.
    Beside it go a few looks at the short text: every request has a connection of its own, so that several backends
    behind one URL are found out sooner.

    Args:
        unproven: Gets the rows that a right canary confirms.
        context: What a check that begins now has to know.
        every_s: Seconds between two checks.
        failed: Called with the failure when the server did not give the right canary.
        cleared, sick: Called instead, the latter with the failure, after a check that was asked for by `ask_soon`.
    """

    def __init__(
        self,
        unproven: UnprovenRows,
        side_requests: SideRequests,
        context: Callable[[], BisectionContext],
        *,
        every_s: float,
        failed: Callable[[Failure], None],
        cleared: Callable[[], None],
        sick: Callable[[Failure], None],
    ) -> None:
        self._unproven = unproven
        self._side_requests = side_requests
        self._context = context
        self._every_s = every_s
        self._failed = failed
        self._cleared = cleared
        self._sick = sick
        self._is_urgent = False
        self._n_checks = 0
        self._n_looking = 0
        self._due_s = time.monotonic() + min(FIRST_S, every_s)

    @property
    def n_out(self) -> int:
        """Checks and looks that are going on."""
        return int(self._due_s == math.inf) + self._n_looking

    def ask_soon(self) -> None:
        """Check as soon as can be: batches fail, and the canary tells whose fault that is."""
        self._is_urgent = True
        self._due_s = math.inf if self._due_s == math.inf else 0.0

    def advance(self, now_s: float) -> None:
        """Ask when it is time."""
        if now_s < self._due_s:
            return
        self._due_s = math.inf
        arrangement = _TURNS[self._n_checks % len(_TURNS)]
        self._n_checks += 1
        context = self._context()
        answered = partial(self._answered, context.own, self._unproven.rows(context.own))
        self._side_requests.start(check_canary(context.own, arrangement, context), answered, now_s)
        if context.short_is_steady and not self._is_urgent and not self._n_looking:
            self._n_looking = LOOKS
            for _ in range(LOOKS):
                self._side_requests.start(check_canary(context.own, Arrangement.SHORT, context), self._looked, now_s)

    def _looked(self, failure: Failure | None) -> None:
        self._n_looking -= 1
        if failure is not None and failure.kind is FailureKind.DRIFTED:
            self._failed(failure)

    def _answered(self, own: int, rows: int, failure: Failure | None) -> None:
        self._due_s = time.monotonic() + (self._every_s if self._n_checks >= len(_TURNS) else 0.0)
        is_urgent, self._is_urgent = self._is_urgent, False
        if failure is not None:
            (self._sick if is_urgent else self._failed)(failure)
            return
        self._unproven.confirm(own, rows)
        if is_urgent:
            self._cleared()
