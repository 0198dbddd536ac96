"""A single-threaded event loop over epoll: sockets, timers, and wake-ups from one worker thread.

Why not asyncio: the `canned` backend shares two cores with the engine that is being measured. A request of 32
texts costs about 43 us of CPU on this loop against 50-70 us on asyncio's protocols (Python 3.11), and faults such
as a TCP reset or a listener that goes away for some seconds need the bare sockets anyway.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import time
from collections import deque
from collections.abc import Callable

Handler = Callable[[int], None]

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
#: A wait is cut to this so that a lost wake-up can never hang the process.
_LONGEST_WAIT_S = 1.0


class Timer:
    """One call in the future; `cancel` may be called any time, also after it ran."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget the call."""
        self.call = None


class Loop:
    """Dispatches readiness, timers and posted calls, all on the thread that calls `run`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._posted: deque[Callable[[], None]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._running = False
        self.add(self._wake_fd, READ, self._on_wake)

    @staticmethod
    def now() -> float:
        """Return the monotonic time in seconds that every timer uses."""
        return time.monotonic()

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Call `handler(events)` whenever `fd` is ready (level triggered)."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Change what `fd` waits for; 0 pauses it."""
        self._epoll.modify(fd, events)

    def drop(self, fd: int) -> None:
        """Stop watching `fd`; call before closing it."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, when_s: float, call: Callable[[], None]) -> Timer:
        """Run `call` once when the clock reaches `when_s`."""
        timer = Timer(call)
        heapq.heappush(self._timers, (when_s, next(self._order), timer))
        return timer

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Run `call` once, `delay_s` from now."""
        return self.call_at(self.now() + delay_s, call)

    def post(self, call: Callable[[], None]) -> None:
        """Run `call` soon on the loop's thread; safe from any thread and from a signal handler."""
        self._posted.append(call)
        os.eventfd_write(self._wake_fd, 1)

    def stop(self) -> None:
        """Make `run` return; safe from any thread and from a signal handler."""
        self.post(self._end)

    def run(self) -> None:
        """Dispatch until `stop`."""
        self._running = True
        poll = self._epoll.poll
        handlers = self._handlers
        while self._running:
            for fd, events in poll(self._wait_s()):
                # a handler of this same round may have closed fd
                handler = handlers.get(fd)
                if handler is not None:
                    handler(events)
            if self._timers:
                self._run_timers()

    def close(self) -> None:
        """Give the loop's own descriptors back."""
        self._epoll.close()
        os.close(self._wake_fd)

    def _end(self) -> None:
        self._running = False

    def _wait_s(self) -> float:
        if not self._timers:
            return _LONGEST_WAIT_S
        return min(max(0.0, self._timers[0][0] - self.now()), _LONGEST_WAIT_S)

    def _run_timers(self) -> None:
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.call is not None:
                timer.call()

    def _on_wake(self, _events: int) -> None:
        os.eventfd_read(self._wake_fd)
        while self._posted:
            self._posted.popleft()()
