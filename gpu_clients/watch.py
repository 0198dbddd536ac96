"""Looking in on our server with the canary while it works: alone, in an equal-length batch, in a mixed one."""

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
_ROUND = (Arrangement.ALONE, Arrangement.EQUAL, Arrangement.MIXED)


class Watch:
    """Asks for the canary every so often, one round at a time.

    Args:
        every_s: Seconds between the end of a round and the next one.
        passed: Called after a round in which the server gave the right canary.
        failed: Called with the failure when it does not.
    """

    def __init__(
        self, dialogues: Dialogues, every_s: float, *, passed: Callable[[], None], failed: Callable[[Failure], None]
    ) -> None:
        self._dialogues = dialogues
        self._every_s = every_s
        self._passed = passed
        self._failed = failed
        self._due_s = time.monotonic() + min(FIRST_S, every_s)

    def begins(self, now_s: float, laboratory: Callable[[], Laboratory]) -> bool:
        """Begin a round when it is time; tells whether one has begun."""
        if now_s < self._due_s:
            return False
        self._due_s = math.inf
        self._ask(laboratory(), 0)
        return True

    def _ask(self, laboratory: Laboratory, number: int) -> None:
        def looked(failure: Failure | None) -> None:
            if failure is None and number + 1 < len(_ROUND):
                self._ask(laboratory, number + 1)
                return
            self._due_s = time.monotonic() + self._every_s
            if failure is None:
                self._passed()
            else:
                self._failed(failure)

        self._dialogues.start(check_canary(laboratory.own, _ROUND[number], laboratory), looked, time.monotonic())
