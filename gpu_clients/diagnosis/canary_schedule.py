"""Looking in on our server with the canary while it works: in an equal-length batch, in a mixed one, alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

from gpu_clients.diagnosis.bisection import Laboratory, check_canary
from gpu_clients.diagnosis.proof import Vouchers
from gpu_clients.errors import Failure
from gpu_clients.servers.canary import Arrangement
from gpu_clients.servers.side_requests import Dialogues

FIRST_S = 0.5
"""Soon after the start: a server that mixes up its answers under load did not show it to the doctor."""
_TURNS = (Arrangement.ALONE, Arrangement.EQUAL, Arrangement.MIXED)


class Watch:
    """Asks for the canary every so often, one arrangement after the other; all of them at once at the start.

    The long text of the canary makes a GPU batch of short ones dear on a model that pads, so one look at a time.

    Args:
        vouchers: Where a right canary is written down.
        laboratory: Where it is asked for.
        every_s: Seconds between two looks.
        failed: Called with the failure when the server did not give the right canary.
    """

    def __init__(
        self,
        vouchers: Vouchers,
        dialogues: Dialogues,
        laboratory: Callable[[], Laboratory],
        *,
        every_s: float,
        failed: Callable[[Failure], None],
    ) -> None:
        self._vouchers = vouchers
        self._dialogues = dialogues
        self._laboratory = laboratory
        self._every_s = every_s
        self._failed = failed
        self._looks = 0
        self._due_s = time.monotonic() + min(FIRST_S, every_s)

    @property
    def n_out(self) -> int:
        """Conversations that it has going on: one, or none."""
        return int(self._due_s == math.inf)

    def advance(self, now_s: float) -> None:
        """Ask when it is time."""
        if now_s < self._due_s:
            return
        self._due_s = math.inf
        arrangement = _TURNS[self._looks % len(_TURNS)]
        self._looks += 1
        laboratory = self._laboratory()
        looked = partial(self._looked, laboratory.own, self._vouchers.rows(laboratory.own))
        self._dialogues.start(check_canary(laboratory.own, arrangement, laboratory), looked, now_s)

    def _looked(self, own: int, rows: int, failure: Failure | None) -> None:
        self._due_s = time.monotonic() + (self._every_s if self._looks >= len(_TURNS) else 0.0)
        if failure is None:
            self._vouchers.vouch(own, rows)
        else:
            self._failed(failure)
