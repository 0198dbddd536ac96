"""A value that takes a while to make, made by one thread at a time and kept for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cached(Generic[T]):
    """A value that is made when somebody asks, at most once in `every_s`, and that takes a bounded share of the time.

    Whoever asks while it is being made gets the last one, or waits for the first.
    """

    def __init__(self, make: Callable[[], T], *, every_s: float, share: float = 0.1) -> None:
        """
        Args:
            share: Of all time that its making may take.
        """
        self._make = make
        self._every_s = every_s
        self._share = share
        self._lock = threading.Lock()
        self._value: T | None = None
        self._until_s = 0.0

    def get(self) -> T:
        """The value, `every_s` old at most, or older when it takes long to make."""
        value = self._value
        if value is not None and time.monotonic() < self._until_s:
            return value
        if not self._lock.acquire(blocking=value is None):
            assert value is not None
            return value
        try:
            if self._value is None or time.monotonic() >= self._until_s:
                began_s = time.monotonic()
                self._value = self._make()
                made_s = time.monotonic()
                self._until_s = made_s + max(self._every_s, (made_s - began_s) / self._share)
            return self._value
        finally:
            self._lock.release()
