"""How long an object store is waited for: acts are repeated with longer and longer pauses, within a budget."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from engine.errors import EngineError, SinkError
from engine.objects.object_store import Refused, Throttled, Trouble, Unsure

_T = TypeVar("_T")
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 15.0


@dataclass(frozen=True, slots=True)
class Ends:
    """What a store that does not do what is asked is to the user.

    Attributes:
        error: Of which kind.
        store: What the store is called.
        counts: What of the work counts nevertheless.
    """

    error: type[EngineError]
    store: str
    counts: str


COLD_ENDS = Ends(SinkError, "the cold store", "nothing that is not there is marked")


class Patience:
    """The budget of one act: its tries together may wait so long."""

    def __init__(
        self, where: str, budget_s: float, tell: Callable[[str, str], None] | None = None, ends: Ends = COLD_ENDS
    ) -> None:
        """
        Args:
            where: The object or prefix, for messages.
            budget_s: Seconds; the first try is made whatever it is.
            tell: Told where and why whenever something has to be tried again.
            ends: What it is when nothing helps.
        """
        self._where = where
        self._budget_s = budget_s
        self._until_s = time.monotonic() + budget_s
        self._pause_s = FIRST_PAUSE_S
        self._tell = tell
        self._ends = ends

    def wait(self, trouble: Trouble) -> None:
        """Wait before the next try.

        Raises:
            SinkError: there is none: the store refuses for good, or the budget is spent; or what `ends` says instead.
        """
        if not isinstance(trouble, Unsure):
            raise refused(self._where, trouble, self._ends) from trouble
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise self._ends.error(
                f"{self._ends.store} did not do for {self._where} what was asked within {self._budget_s:g} s "
                f"({trouble}): {self._ends.counts}; see to the store, then run the same command again"
            ) from trouble
        if self._tell is not None:
            self._tell(self._where, str(trouble))
        # full jitter, so that many writers do not come back at once; one that is throttled waits half of it at least
        share = random.uniform(0.5, 1.0) if isinstance(trouble, Throttled) else random.uniform(0.1, 1.0)
        time.sleep(min(left_s, self._pause_s * share))
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)


def refused(where: str, trouble: Trouble, ends: Ends = COLD_ENDS) -> EngineError:
    """What a refusal is to the user."""
    if isinstance(trouble, Refused):
        return ends.error(
            f"{ends.store} refuses {where} ({trouble}): see to its rights, its bucket and the credentials in the "
            "environment, then run the same command again"
        )
    return ends.error(f"{ends.store} has no {where} ({trouble})")


def repeated(
    act: Callable[[], _T],
    where: str,
    budget_s: float,
    tell: Callable[[str, str], None] | None = None,
    ends: Ends = COLD_ENDS,
) -> _T:
    """Do something that may be done twice: read, list, delete.

    Raises:
        Trouble: `Absent`, `Changed` or `Taken`, which are answers.
        SinkError: see `Patience.wait`.
    """
    patience = Patience(where, budget_s, tell, ends)
    while True:
        try:
            return act()
        except (Unsure, Refused) as trouble:
            patience.wait(trouble)
