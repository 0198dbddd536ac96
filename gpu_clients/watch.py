"""Looking in on our server with the canary while it works: in an equal-length batch, in a mixed one, alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from gpu_clients.canary import Arrangement
from gpu_clients.dialogues import Dialogues
from gpu_clients.errors import Failure
from gpu_clients.isolation import Laboratory, check_canary

FIRST_S = 0.5
"""Soon after the start: a server that mixes up its answers under load did not show it to the doctor."""
_TURNS = (Arrangement.ALONE, Arrangement.EQUAL, Arrangement.MIXED)


class Watch:
    """Asks for the canary every so often, one arrangement after the other; all of them at once at the start.

    The long text of the canary makes a GPU batch of short ones dear on a model that pads, so one look at a time.

    Args:
        every_s: Seconds between two looks.
        passed: Called when the server gave the right canary.
        failed: Called with the failure when it did not.
    """

    def __init__(
        self, dialogues: Dialogues, every_s: float, *, passed: Callable[[], None], failed: Callable[[Failure], None]
    ) -> None:
        self._dialogues = dialogues
        self._every_s = every_s
        self._passed = passed
        self._failed = failed
        self._looks = 0
        self._due_s = time.monotonic() + min(FIRST_S, every_s)

    @property
    def n_out(self) -> int:
        """Conversations that it has going on: one, or none."""
        return int(self._due_s == math.inf)

    def begins(self, now_s: float, laboratory: Callable[[], Laboratory]) -> bool:
        """Ask when it is time; tells whether it was."""
        if now_s < self._due_s:
            return False
        self._due_s = math.inf
        arrangement = _TURNS[self._looks % len(_TURNS)]
        self._looks += 1
        found = laboratory()
        self._dialogues.start(check_canary(found.own, arrangement, found), self._looked, now_s)
        return True

    def _looked(self, failure: Failure | None) -> None:
        self._due_s = time.monotonic() + (self._every_s if self._looks >= len(_TURNS) else 0.0)
        if failure is None:
            self._passed()
        else:
            self._failed(failure)
