"""Which rows a right canary has confirmed, and the proof that is asked for before a shard gets its name.

A right canary confirms every row that its server gave before the canary was begun: a server whose vectors turn
wrong stays wrong (another model behind its address, damaged weights), so its next canary shows it. Rows that no
canary has confirmed yet are *open*. They may have come from our own server or, by a hedge or a second opinion, from
another.

Asked for a proof, the client asks every server with open rows for the canary, beside its other work. It answers when
none is open of the rows that were handed over before the question. A server that cannot be asked does not hold the
shard for long: its rows are counted as doubtful. A wrong canary is never answered with a proof; the supervisor hears
of it and ends the generation, so that the open rows are not committed (docs/adr/0011).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from gpu_clients.diagnosis.canary_check import BisectionContext, check_canary
from gpu_clients.errors import Failure
from gpu_clients.servers.canary import Arrangement
from gpu_clients.servers.side_requests import SideRequests

PATIENCE_S = 2.0
"""For so long a server that cannot be asked is tried again: it may have had a hiccup."""
PAUSE_S = 0.25


class UnprovenRows:
    """How many of the rows handed over no right canary has confirmed yet, by server.

    Attributes:
        rows_of: Rows handed over so far, by the number of the server whose vectors they hold, counted by the delivery;
            rows of a batch whose vectors come from two servers count for both.
    """

    def __init__(self) -> None:
        self.rows_of: Counter[int] = Counter()
        self._confirmed: Counter[int] = Counter()

    def rows(self, server: int) -> int:
        """Rows handed over so far."""
        return self.rows_of[server]

    def servers(self) -> list[int]:
        """The servers with open rows."""
        return [server for server in self.rows_of if self.unproven_rows(server, self.rows(server))]

    def unproven_rows(self, server: int, rows: int) -> int:
        """How many of a server's first `rows` rows are open."""
        return max(0, rows - self._confirmed[server])

    def confirm(self, server: int, rows: int) -> int:
        """A server's first `rows` rows are open no more; tells how many of them were."""
        n_open = self.unproven_rows(server, rows)
        self._confirmed[server] += n_open
        return n_open


class Proof:
    """Answers whether all rows handed over so far may be committed.

    Args:
        context: What a canary check that begins now has to know.
        patience_s: Within which time a server that works has answered.
        told: Called with the number of the question and the doubtful rows, when it is answered.
        failed: Called with the server and the failure when a canary was wrong or did not come.
    """

    def __init__(
        self,
        unproven: UnprovenRows,
        side_requests: SideRequests,
        context: Callable[[], BisectionContext],
        *,
        patience_s: Callable[[], float],
        told: Callable[[int, int], None],
        failed: Callable[[int, Failure], None],
    ) -> None:
        self._unproven = unproven
        self._side_requests = side_requests
        self._context = context
        self._patience_s = patience_s
        self._told = told
        self._failed = failed
        self._number: int | None = None  # of the question that is open
        self._asked_s = 0.0
        self._goals: dict[int, int] = {}  # how many of a server's rows have to be confirmed
        self._again_s: dict[int, float] = {}  # when a server that failed is asked again
        self._checking: set[int] = set()
        self._doubtful_rows = 0

    @property
    def n_out(self) -> int:
        """Canary checks that are going on."""
        return len(self._checking)

    def ask(self, number: int) -> None:
        """Take a question; it is answered through `told`."""
        self._number = number
        self._asked_s = time.monotonic()
        self._goals = {server: self._unproven.rows(server) for server in self._unproven.servers()}
        self._again_s = {}
        self._doubtful_rows = 0
        self.advance(self._asked_s)

    def advance(self, now_s: float) -> None:
        """Do what is due for the open question, if there is one."""
        if self._number is None:
            return
        for server, goal in tuple(self._goals.items()):
            if not self._unproven.unproven_rows(server, goal):
                del self._goals[server]
            elif now_s - self._asked_s > (PATIENCE_S if server in self._again_s else self._patience_s()):
                self._doubtful_rows += self._unproven.confirm(server, goal)
                del self._goals[server]
            elif server not in self._checking and now_s >= self._again_s.get(server, 0.0):
                self._check(server, now_s)
        if not self._goals:
            number, self._number = self._number, None
            self._told(number, self._doubtful_rows)

    def _check(self, server: int, now_s: float) -> None:
        self._checking.add(server)
        answered = partial(self._answered, server, self._unproven.rows(server))
        self._side_requests.start(check_canary(server, Arrangement.MIXED, self._context()), answered, now_s)

    def _answered(self, server: int, rows: int, failure: Failure | None) -> None:
        self._checking.discard(server)
        now_s = time.monotonic()
        if failure is None:
            self._unproven.confirm(server, rows)
        else:
            self._again_s[server] = now_s + PAUSE_S
            self._failed(server, failure)
        self.advance(now_s)
