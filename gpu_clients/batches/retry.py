"""When to ask again: pauses with jitter, `Retry-After` within reason, and a budget so that retries never amplify.

There is one layer of retries in the whole engine, and this is it.
"""

from __future__ import annotations

import random
import time

BASE_S = 0.05
CAP_S = 5.0
OVERLOAD_FLOOR_S = 0.02
OVERLOAD_CAP_S = 2.0
RETRY_AFTER_CAP_S = 10.0
"""A server that asks for hours is asked again after that."""


def backoff_s(attempt: int, rng: random.Random) -> float:
    """Pause before retry number `attempt` (from 1) after an error: full jitter, `uniform(0, min(cap, base 2^n))`."""
    return rng.uniform(0.0, min(CAP_S, BASE_S * 2.0**attempt))


def overload_pause_s(n_in_a_row: int, retry_after: str | None, rng: random.Random) -> float:
    """Pause of the whole server after a 429: half fixed, half random, because full jitter can fall to nearly zero.

    `Retry-After` is honoured up to a cap; TEI never sends it, proxies do.
    """
    bound_s = min(OVERLOAD_CAP_S, OVERLOAD_FLOOR_S * 2.0 ** min(n_in_a_row, 10))
    pause_s = bound_s / 2 + rng.uniform(0.0, bound_s / 2)
    asked_s = parse_retry_after(retry_after)
    if asked_s is None:
        return pause_s
    return max(pause_s, min(asked_s, RETRY_AFTER_CAP_S) + rng.uniform(0.0, bound_s / 2))


def parse_retry_after(value: str | None, now_s: float | None = None) -> float | None:
    """Seconds that a `Retry-After` header asks for (a number or an HTTP date), never negative; None if unreadable."""
    if value is None:
        return None
    value = value.strip()
    if value.isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - heavy to import, and seldom needed

    try:
        at_s = parsedate_to_datetime(value).timestamp()
    except ValueError:
        return None
    return max(0.0, at_s - (time.time() if now_s is None else now_s))


class RetryBudget:
    """A bucket of retries: a share of the requests that went well flows in, every retry takes one out.

    A small constant flow keeps a client alive whose every request fails.
    """

    def __init__(self, share: float, *, reserve: float = 10.0, flow_per_s: float = 1.0) -> None:
        self._share = share
        self._most = reserve
        self._left = reserve
        self._flow_per_s = flow_per_s
        self._looked_s = time.monotonic()

    def earn(self) -> None:
        """A request went well."""
        self._left = min(self._most, self._left + self._share)

    def spend(self, now_s: float) -> bool:
        """Take one retry out; False when there is none."""
        self._left = min(self._most, self._left + (now_s - self._looked_s) * self._flow_per_s)
        self._looked_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
