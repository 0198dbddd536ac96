"""Waiting for descriptors: sockets, channels and queues of slot numbers, in one place."""

from __future__ import annotations

import select
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
EXCLUSIVE = select.EPOLLEXCLUSIVE
"""Of several processes that wait for the same descriptor, wake one."""


class Poller:
    """Readiness of descriptors: one callback each, level-triggered."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler(events)` whenever one of `events` holds."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        """Wait for other events."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching; harmless when not watched."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def watches(self, fd: int) -> bool:
        """Whether `fd` is watched."""
        return fd in self._handlers

    def run(self, timeout_s: float) -> None:
        """Wait for at most `timeout_s` and serve what is ready."""
        for fd, events in self._epoll.poll(timeout_s):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)

    def close(self) -> None:
        """Close the poller, not what it watched."""
        self._epoll.close()
