"""What conversations want of our own server: sent among the batches, or alone, or refused when it is out."""

from __future__ import annotations

import time
from collections.abc import Callable

from gpu_clients.batches.lane import Lane
from gpu_clients.errors import Failure, FailureKind, Remedy
from gpu_clients.servers.requester import Completion
from gpu_clients.servers.side_requests import Dialogues, Reply, Talk, reply_of


class OwnTalks:
    """Requests of conversations to our own server.

    Args:
        dim: Numbers in a vector.
        overloaded: Called with the failure when the server answers 429.

    Attributes:
        quiet: Whether a request is out that wants nothing beside it.
    """

    def __init__(self, dialogues: Dialogues, lane: Lane, dim: int, overloaded: Callable[[Failure], float]) -> None:
        self._dialogues = dialogues
        self._lane = lane
        self._dim = dim
        self._overloaded = overloaded
        self._asked: set[Talk] = set()  # whose request is in flight
        self._quiet_for: Talk | None = None

    @property
    def quiet(self) -> bool:
        return self._quiet_for is not None

    def send(self) -> bool:
        """Send what fits; False when nothing else may be sent meanwhile."""
        waiting, lane = self._dialogues.waiting, self._lane
        assert lane.requester is not None
        while waiting:
            talk = waiting[0]
            ask = talk.ask
            assert ask is not None
            if ask.quiet and lane.in_flight:
                return False
            if not lane.admission.admits(lane.in_flight_texts, ask.n_texts):
                return False
            waiting.popleft()
            self._asked.add(talk)
            lane.requester.submit([ask.body], ask.n_texts, timeout_s=lane.timeout_s, tag=talk)
            if ask.quiet:
                self._quiet_for = talk
                return False
        return True

    def take(self, completion: Completion, talk: Talk) -> None:
        """Pass an answer on."""
        if talk not in self._asked:
            completion.release()  # it has been told already that the server is out
            return
        self._asked.discard(talk)
        if self._quiet_for is talk:
            self._quiet_for = None
        if completion.failure is not None and completion.failure.remedy is Remedy.BACK_OFF:
            self._overloaded(completion.failure)
        reply = reply_of(completion, self._dim)
        if reply.sound:
            self._lane.passed()
        self._dialogues.reply(talk, reply, time.monotonic())

    def refuse(self) -> None:
        """Our server is out: tell everybody who waits for it."""
        self._quiet_for = None
        waiting = self._dialogues.waiting
        if not self._asked and not waiting:
            return
        out = Reply(failure=Failure(kind=FailureKind.OUT, detail=f"the server is out: {self._lane.breaker.reason}"))
        now_s = time.monotonic()
        while self._asked or waiting:
            self._dialogues.reply(self._asked.pop() if self._asked else waiting.popleft(), out, now_s)
