"""Waiting, at a start, for a MongoDB or for servers that may just be starting themselves."""

from __future__ import annotations

import logging
import time

from engine.errors import EngineError

SAY_AFTER_S = 2.0

_log = logging.getLogger("engine.source")


class Patience:
    """How long a start waits for what may just be starting, and when it says so: once, after `SAY_AFTER_S`."""

    def __init__(self, wait_s: float) -> None:
        self._began_s = time.monotonic()
        self._wait_s = wait_s
        self._has_told = False

    @property
    def left_s(self) -> float:
        """Seconds that may still be waited."""
        return max(0.0, self._began_s + self._wait_s - time.monotonic())

    def is_over(self) -> bool:
        """Whether to give up now."""
        return not self.left_s

    def tell(self, whom: str, error: EngineError) -> None:
        """Say what is being waited for, unless it has been said or may be over in a moment."""
        if self._has_told or time.monotonic() - self._began_s < SAY_AFTER_S:
            return
        self._has_told = True
        _log.warning("waiting_for_%s up_to_s=%.0f reason=%r", whom, self._wait_s, str(error))
