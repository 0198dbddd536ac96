"""Which rows a right canary has confirmed, and the proof that is asked for before a shard gets its name.

A right canary confirms every row that its server gave before the canary was begun: a server whose vectors turn
wrong stays wrong (another model behind its address, damaged weights), so its next canary shows it. Rows that no
canary has confirmed yet are *open*. They may have come from our own server or, by a hedge or a second opinion, from
another.

Asked for a proof, the client asks every server with open rows for the canary, beside its other work. It answers when
none is open of the rows that were handed over before the question. One canary may have come from the one replica of
several behind a URL that is right, so beside it go *looks*: requests for the short text alone, over a connection each,
one for every `ROWS_A_LOOK` new rows until `MOST_LOOKS`. Of ten replicas a bad one escapes that many in 3% of cases,
and no more than a hundred of its rows are committed before. A server that cannot be asked does not hold the
shard for long: its rows are counted as doubtful. A wrong canary is never answered with a proof; the supervisor hears
of it and ends the generation, so that the open rows are not committed (docs/adr/0011).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from gpu_clients.diagnosis.canary_check import BisectionContext, check_canary
from gpu_clients.errors import Failure, FailureKind
from gpu_clients.servers.canary import Arrangement
from gpu_clients.servers.side_requests import SideRequests

PATIENCE_S = 2.0
"""For so long a server that cannot be asked is tried again: it may have had a hiccup."""
PAUSE_S = 0.25
ROWS_A_LOOK = 30
MOST_LOOKS = 34
LOOKS_WITHIN_S = 2.0
"""A shard waits no longer for looks: a server so slow is looked at less."""


class UnprovenRows:
    """How many of the rows handed over no right canary has confirmed yet, by server.

    Attributes:
        rows_of: Rows handed over so far, by the number of the server whose vectors they hold, counted by the delivery;
            rows of a batch whose vectors come from two servers count for both.
    """

    def __init__(self) -> None:
        self.rows_of: Counter[int] = Counter()
        self._confirmed: Counter[int] = Counter()
        self._proved: Counter[int] = Counter()

    def rows(self, server: int) -> int:
        """Rows handed over so far."""
        return self.rows_of[server]

    def servers(self) -> list[int]:
        """The servers with open rows."""
        return [server for server in self.rows_of if self.unproven_rows(server, self.rows(server))]

    def unproven_rows(self, server: int, rows: int) -> int:
        """How many of a server's first `rows` rows are open."""
        return max(0, rows - self._confirmed[server])

    def uncommitted(self, server: int) -> int:
        """How many rows of a server no proof has been given for."""
        return self.rows_of[server] - self._proved[server]

    def proved(self, rows_of: Mapping[int, int]) -> None:
        """A proof is given for so many rows of each server: they may be committed."""
        for server, rows in rows_of.items():
            self._proved[server] = max(self._proved[server], rows)

    def refuse(self, server: int) -> int:
        """Ask nothing about a server's rows any more; how many of them may not be committed yet, and so never."""
        rows = self.uncommitted(server)
        self.proved({server: self.rows_of[server]})
        self.confirm(server, self.rows_of[server])
        return rows

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
        self._n_looking = 0
        self._asked_rows: Counter[int] = Counter()
        self._doubtful_rows = 0

    @property
    def n_out(self) -> int:
        """Canary checks and looks that are going on."""
        return len(self._checking) + self._n_looking

    def ask(self, number: int) -> None:
        """Take a question; it is answered through `told`."""
        self._number = number
        self._asked_s = time.monotonic()
        self._goals = {server: self._unproven.rows(server) for server in self._unproven.servers()}
        self._again_s = {}
        self._doubtful_rows = 0
        self._asked_rows = self._unproven.rows_of.copy()
        self._look()
        self.advance(self._asked_s)

    def _look(self) -> None:
        """Begin the looks at every server that gave rows since the last proof, all at once."""
        context = self._context()
        if not context.short_is_steady or self._n_looking:  # those of before: the server is slow
            return
        for server in self._asked_rows:
            n_looks = min(MOST_LOOKS, -(-self._unproven.uncommitted(server) // ROWS_A_LOOK))
            self._n_looking += n_looks
            for _ in range(n_looks):
                check = check_canary(server, Arrangement.SHORT, context)
                self._side_requests.start(check, partial(self._looked, server), self._asked_s)

    def _looked(self, server: int, failure: Failure | None) -> None:
        self._n_looking -= 1
        if failure is not None and failure.kind is FailureKind.DRIFTED:
            self._failed(server, failure)
        self.advance(time.monotonic())

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
        has_looked = not self._n_looking or now_s - self._asked_s > LOOKS_WITHIN_S
        if self._number is not None and not self._goals and has_looked:
            number, self._number = self._number, None
            self._unproven.proved(self._asked_rows)
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
