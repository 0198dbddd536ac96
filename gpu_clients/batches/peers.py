"""The other servers of the fleet, for the few things a client wants of them: second opinions, and hedges at the end.

A hedge is a copy of a request that our server has had for long, sent to another server when the reader has nothing
more and the ring is empty: the first sound answer wins, the other one is cancelled. The batch stays with this
client all the while, so nothing has to be agreed with anybody and it cannot come out twice. At most one copy is out at
each other server, so a healthy fleet sees a handful; a slow server's last batches leave one by one as fast as the
others take them. Before a server gets a copy it has to give the right canary: its own client may have taken it out
for wrong vectors, and an idle server answers first.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from gpu_clients.batches.batch import Batch
from gpu_clients.batches.lane import Lane
from gpu_clients.errors import Failure
from gpu_clients.http.connection import Exchange
from gpu_clients.http.polling import Poller
from gpu_clients.servers.requester import Completion
from gpu_clients.servers.side_requests import Ask, SideRequest, SideRequests, reply_of
from gpu_clients.settings import ClientSettings

PEER_TIMEOUT_S = 60.0
CANARY_VALID_S = 10.0
"""How long a right canary speaks for another server."""
FREE_HEDGES = 4
"""Hedges that are allowed whatever the share; a short run has a tail too."""


@dataclass(frozen=True, slots=True, eq=False)
class _Hedge:
    batch: Batch


class Peers:
    """Every server of the fleet but our own.

    Attributes:
        hedged: Copies sent so far.
    """

    def __init__(self, settings: ClientSettings, poller: Poller, rng: random.Random) -> None:
        self.hedged = 0
        self._settings = settings
        self._timeout_s = min(PEER_TIMEOUT_S, settings.request_timeout_s or PEER_TIMEOUT_S)
        self._poller = poller
        self._rng = rng
        self._lanes: dict[int, Lane] = {}
        self._hedges: dict[int, tuple[Batch, Exchange]] = {}  # by server
        self._failed_hedges: set[int] = set()
        self._checking: set[int] = set()
        self._canary_passed_s: dict[int, float] = {}  # when its last right canary came
        n = len(settings.urls)
        around = [(settings.index + step) % n for step in range(1, n)]
        self.known = [server for server in around if settings.facts_of(server) is not None]

    def ask(self, side_request: SideRequest, ask: Ask) -> None:
        """Ask another server for a second opinion."""
        requester = self._lane(ask.server).requester
        assert requester is not None  # only servers with known facts are asked
        requester.submit([ask.body], ask.n_texts, timeout_s=self._timeout_s, tag=side_request, fresh=ask.fresh)

    def check_deadlines(self) -> None:
        """Fail what is overdue."""
        for lane in self._lanes.values():
            if lane.requester is not None:
                lane.requester.http.check_deadlines()

    def take(self, side_requests: SideRequests) -> list[tuple[Batch, Completion, int]]:
        """Pass second opinions on; return the hedges that were answered, and by which server."""
        won = []
        for server, lane in tuple(self._lanes.items()):  # a reply may make a side request ask one more server
            if lane.requester is None or not lane.requester.http.finished:
                continue
            for completion in lane.requester.completions():
                tag = completion.tag
                if isinstance(tag, SideRequest):
                    side_requests.reply(tag, reply_of(completion, self._settings.dim), time.monotonic())
                elif isinstance(tag, _Hedge):
                    if self._hedges.get(server, (None,))[0] is tag.batch:
                        del self._hedges[server]
                    if completion.failure is None:
                        won.append((tag.batch, completion, server))
                    else:
                        self._failed_hedges.add(server)  # it has troubles of its own
        return won

    # -- hedges ----------------------------------------------------------------------------------------

    @property
    def n_checking(self) -> int:
        """Canary checks that are going on at servers which may get a copy."""
        return len(self._checking)

    def canary_answered(self, server: int, failure: Failure | None) -> None:
        """Take note of what came of a canary."""
        self._checking.discard(server)
        if failure is None:
            self._canary_passed_s[server] = time.monotonic()
        else:
            self._failed_hedges.add(server)

    def hedge(
        self, in_flight: set[Batch], *, older_than_s: float, n_requests: int, check_canary: Callable[[int], None]
    ) -> None:
        """Send copies of the oldest batches in flight to servers that have none of ours.

        Args:
            in_flight: Batches that our server has.
            older_than_s: Younger requests are not worth a copy.
            n_requests: Requests sent so far; a share of them may be copied.
            check_canary: Asks a server for the canary, and calls `canary_answered` when it has come.
        """
        now_s = time.monotonic()
        copied = {id(batch) for batch, _ in self._hedges.values()}
        late = sorted(
            (batch for batch in in_flight if now_s - batch.sent_s > older_than_s and id(batch) not in copied),
            key=lambda batch: batch.sent_s,
        )
        for server in self.known:
            allowed = FREE_HEDGES + self._settings.hedge_share * n_requests
            if not late or self.hedged >= allowed:
                return
            if server in self._hedges or server in self._failed_hedges or server in self._checking:
                continue
            if now_s - self._canary_passed_s.get(server, -math.inf) > CANARY_VALID_S:
                self._checking.add(server)
                check_canary(server)
                continue
            batch = late.pop(0)
            requester = self._lane(server).requester
            assert requester is not None
            exchange = requester.submit([batch.body()], batch.n_texts, timeout_s=self._timeout_s, tag=_Hedge(batch))
            self._hedges[server] = (batch, exchange)
            self.hedged += 1

    def forget(self, batch: Batch) -> None:
        """Cancel a batch's copy: it was answered or given back, and its slot's memory goes to somebody else."""
        for server, (copied, exchange) in tuple(self._hedges.items()):
            if copied is batch:
                del self._hedges[server]
                requester = self._lane(server).requester
                assert requester is not None
                requester.cancel(exchange)

    def _lane(self, server: int) -> Lane:
        lane = self._lanes.get(server)
        if lane is None:
            lane = self._lanes[server] = Lane(self._settings, server, self._poller, self._rng)
        return lane
