"""The requests of side requests to our own server: sent among the batches, or alone, or refused when it is out."""

from __future__ import annotations

import time
from collections.abc import Callable

from gpu_clients.batches.lane import Lane
from gpu_clients.errors import Action, Failure, FailureKind
from gpu_clients.servers.requester import Completion
from gpu_clients.servers.side_requests import Reply, SideRequest, SideRequests, reply_of


class OwnServerRequests:
    """Sends what side requests want of our own server, and passes the answers on.

    Args:
        dim: Numbers in a vector.
        overloaded: Called with the failure when the server answers 429.

    Attributes:
        quiet: Whether a request is out that wants nothing beside it.
    """

    def __init__(
        self, side_requests: SideRequests, lane: Lane, dim: int, overloaded: Callable[[Failure], float]
    ) -> None:
        self._side_requests = side_requests
        self._lane = lane
        self._dim = dim
        self._overloaded = overloaded
        self._asked: set[SideRequest] = set()  # whose request is in flight
        self._quiet_for: SideRequest | None = None

    @property
    def quiet(self) -> bool:
        return self._quiet_for is not None

    @property
    def n_out(self) -> int:
        """Requests of theirs that are in flight."""
        return len(self._asked)

    def send(self) -> bool:
        """Send what fits; False when nothing else may be sent meanwhile."""
        waiting, lane = self._side_requests.waiting, self._lane
        assert lane.requester is not None
        while waiting:
            side_request = waiting[0]
            ask = side_request.ask
            assert ask is not None
            if ask.quiet and lane.in_flight:
                return False
            if not lane.admission.admits(lane.in_flight_texts, ask.n_texts):
                return False
            waiting.popleft()
            self._asked.add(side_request)
            lane.requester.submit([ask.body], ask.n_texts, timeout_s=lane.timeout_s, tag=side_request, fresh=ask.fresh)
            if ask.quiet:
                self._quiet_for = side_request
                return False
        return True

    def take(self, completion: Completion, side_request: SideRequest) -> None:
        """Pass an answer on."""
        if side_request not in self._asked:
            completion.release()  # it has been told already that the server is out
            return
        self._asked.discard(side_request)
        if self._quiet_for is side_request:
            self._quiet_for = None
        if completion.failure is not None and completion.failure.action is Action.BACK_OFF:
            self._overloaded(completion.failure)
        reply = reply_of(completion, self._dim)
        if reply.sound:
            self._lane.passed()
        elif reply.failure is not None:
            self._lane.failed(reply.failure)
        self._side_requests.reply(side_request, reply, time.monotonic())

    def refuse(self) -> None:
        """Our server is out: tell everybody who waits for it."""
        self._quiet_for = None
        waiting = self._side_requests.waiting
        if not self._asked and not waiting:
            return
        out = Reply(failure=Failure(kind=FailureKind.OUT, detail=f"the server is out: {self._lane.breaker.reason}"))
        now_s = time.monotonic()
        while self._asked or waiting:
            self._side_requests.reply(self._asked.pop() if self._asked else waiting.popleft(), out, now_s)
