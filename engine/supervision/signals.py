"""Signal handling: the handler does nothing, the supervisor's loop reads signals as bytes and decides.

Outside of that loop (before it starts, and in every other command) SIGTERM and a closed terminal end the process the
way SIGINT does: by an exception that lets everything be cleaned up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

_WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """Raised by SIGTERM or SIGHUP; like KeyboardInterrupt, nobody should take it for an error.

    Attributes:
        number: Which of the two.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def raise_when_terminated() -> None:
    """Let SIGTERM and SIGHUP raise `Terminated` in the main thread from now on; an ignored one stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise_terminated)


def leave_undisturbed() -> None:
    """Ignore what would end this process from now on: its work is done, its exit code is known, it is on its way out.

    A signal that came while the interpreter takes itself down could only interrupt what libraries do there at last, and
    make a traceback of it.
    """
    for number in _WATCHED:
        signal.signal(number, signal.SIG_IGN)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated(signal.Signals(number))


class SignalInbox:
    """Collects SIGINT, SIGTERM and SIGHUP (a closed terminal counts as SIGTERM) while it is entered.

    In another thread than the main one it collects nothing: there the process's signals are somebody else's.
    A SIGHUP that is ignored stays ignored: `nohup engine run` outlives its terminal.

    Attributes:
        fd: Readable when a signal has come.
    """

    def __init__(self) -> None:
        self.fd, self._notify_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._previous: dict[signal.Signals, Any] = {}
        self._previous_fd = -1

    def __enter__(self) -> SignalInbox:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._previous_fd = signal.set_wakeup_fd(self._notify_fd, warn_on_full_buffer=False)
        for number in _WATCHED:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._previous[number] = signal.signal(number, _leave_it_to_the_loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous:
            signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._notify_fd)

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Give signals back, for a while, to whoever had them before; harmless when nothing is entered."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        try:
            yield
        finally:
            for number in self._previous:
                signal.signal(number, _leave_it_to_the_loop)

    def collect(self) -> list[signal.Signals]:
        """Signals since the last call, in order."""
        try:
            data = os.read(self.fd, 64)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in data if number in _WATCHED]


def _leave_it_to_the_loop(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor has the signal; Python handlers must exist for it to be written."""
