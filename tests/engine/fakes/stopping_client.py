"""A client that stops itself, in the first generation, with its first result in hand."""

from __future__ import annotations

import dataclasses
import os
import signal
from typing import Any

from engine.supervision.worker import StageContext
from tests.engine.fakes import client


class _Held:
    """The queue of vector slots that are ready, with a stop before the first one is handed over."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._has_stopped = False

    def put(self, slot: int) -> None:
        """Hand a slot over; the first time SIGSTOP comes before."""
        if not self._has_stopped:
            self._has_stopped = True
            os.kill(os.getpid(), signal.SIGSTOP)
        self._queue.put(slot)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)


def run(context: StageContext) -> None:
    """`tests.engine.fakes.client`, but for the stop."""
    if context.generation == 1:
        context = dataclasses.replace(context, vectors_ready=_Held(context.vectors_ready))  # type: ignore[arg-type]
    client.run(context)
