"""Letting a server back in: an examination as at start, and the same vectors as then.

Wrong vectors, and within minutes right ones again, are no recovery unless the server was away in between: either
several backends answer behind its URL, or one whose vectors change. Such a server is not let in again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gpu_clients.batches.lane import Lane
from gpu_clients.errors import FailureKind
from gpu_clients.servers.canary import Canary
from gpu_clients.servers.probe import Examination, ServerProbe
from gpu_clients.servers.probe_request import ProbeFailed
from gpu_clients.servers.repeated_looks import SEVERAL
from gpu_clients.settings import ClientSettings
from gpu_clients.vectors.soundness import MIN_COSINE

WITHIN_S = 900.0
"""Right vectors so soon after wrong ones are no recovery."""
_AWAY = (FailureKind.REFUSED, FailureKind.LOST, FailureKind.TIMEOUT, FailureKind.UNAVAILABLE)


class Rejoin:
    """Examines a server that is out, whenever its breaker says that it is time.

    Args:
        drifted: Called when it does not give the right canary.
        several: Called with the reason when unlike backends answer behind its URL; the run cannot go on with it.
    """

    def __init__(
        self,
        settings: ClientSettings,
        lane: Lane,
        canary: Canary | None,
        *,
        drifted: Callable[[], None],
        several: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._lane = lane
        self._canary = canary
        self._drifted = drifted
        self._several = several
        self._away_s = 0.0  # when it last did not answer
        self._probe: ServerProbe | None = None

    def advance(self, now_s: float) -> bool:
        """Do what is due; True at the moment when the server is in again."""
        lane = self._lane
        if self._probe is None:
            if lane.breaker.probe_due(now_s):
                lane.breaker.probe_begins()
                self._probe = lane.probe()
            return False
        if not self._probe.advance():
            return False
        probe, self._probe = self._probe, None
        probe.close()
        outcome = probe.outcome
        assert outcome is not None
        if isinstance(outcome, ProbeFailed) and outcome.failure.kind in _AWAY:
            self._away_s = now_s
        why = self._unfit(outcome)
        changed = self._why_several(outcome, now_s) if why is None or isinstance(outcome, ProbeFailed) else None
        if changed is not None:
            lane.breaker.probe_failed(changed)
            lane.breaker.bar(changed)
            self._several(changed)
            return False
        if why is not None or not isinstance(outcome, Examination):
            lane.breaker.probe_failed(why or str(outcome))
            return False
        lane.examined(outcome.facts)
        lane.breaker.probe_passed()
        return True

    def _why_several(self, outcome: Examination | ProbeFailed, now_s: float) -> str | None:
        """What shows that unlike backends answer, or a backend whose vectors change; None when nothing does."""
        if isinstance(outcome, ProbeFailed):
            return str(outcome) if outcome.several else None
        drifted_s = self._lane.drifted_s
        if drifted_s is None or now_s - drifted_s > WITHIN_S or self._away_s > drifted_s:
            return None
        return f"it {SEVERAL} (wrong vectors of the canary texts, then right ones, and it was never away)"

    def _unfit(self, outcome: Examination | ProbeFailed) -> str | None:
        """Why a server that was examined may not work in this run; None when it may."""
        if isinstance(outcome, ProbeFailed):
            return str(outcome)
        known = next((facts for facts in self._settings.facts if facts is not None), None)
        differences = known.differences(outcome.facts) if known is not None else []
        batch = self._settings.batch_size
        for name in ("max_client_batch_size", "max_concurrent_requests"):
            admitted = getattr(outcome.facts, name)
            if admitted is not None and admitted < batch:
                differences.append(f"{name} {admitted}, which never admits this run's batches of {batch}")
        if outcome.dim != self._settings.dim:
            differences.append(f"dimension {outcome.dim} is not {self._settings.dim}")
        elif self._canary is not None:
            cosine = self._canary.agrees_with(outcome.canary)
            if not cosine >= MIN_COSINE:
                differences.append(f"the vectors of the canary texts (cosine {cosine:.4f})")
                self._lane.drifted_s = time.monotonic()
                self._drifted()
        return f"it does not fit this run: {', '.join(differences)}" if differences else None
