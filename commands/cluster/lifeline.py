"""The life-line of a node process: a thread that hears the actor above it, and ends everything when that falls silent.

Actor, driver, head, network: whatever of these ends or stops, nothing is heard any more, and the node's processes have
nothing to live for. They end within `SILENCE_S`, also those that were stopped meanwhile and are continued.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections import deque

from engine.memory.channels import Channel, Message

SILENCE_S = 8.0
"""The actor says something at least once a second, for as long as the driver asks it for news."""


class Lifeline:
    """Receives what the actor sends.

    Attributes:
        wake_fd: Readable when something has come.
    """

    def __init__(self, channel: Channel) -> None:
        """Start to listen; this process has to lead its process group."""
        self._channel = channel
        self._messages: deque[Message] = deque()
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        threading.Thread(target=self._listen, name="lifeline", daemon=True).start()

    def take(self) -> Message | None:
        """The next message that has come, or None; the others stay."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)
        return self._messages.popleft() if self._messages else None

    def wait(self, timeout_s: float, *fds: int) -> None:
        """Sleep until something has come here or at one of `fds`."""
        select.select([self.wake_fd, *fds], [], [], timeout_s)

    def _listen(self) -> None:
        heard_at_s = time.monotonic()
        while True:
            readable, _, _ = select.select([self._channel.fd], [], [], 1.0)
            messages, has_ended = self._channel.poll() if readable else ([], False)
            # judged before what has come is taken in: after a stop the past is what counts
            if has_ended or time.monotonic() - heard_at_s > SILENCE_S:
                os.killpg(0, signal.SIGKILL)
            if messages:
                heard_at_s = time.monotonic()
            wanted = [message for message in messages if message.get("do") != "ping"]
            if wanted:
                self._messages.extend(wanted)
                os.eventfd_write(self.wake_fd, 1)
