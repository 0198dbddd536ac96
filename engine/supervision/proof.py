"""Proofs of shards: none is named before its vectors are proved, and a drifted server's rows are refused (ADR 11).

The writer asks for a proof, the supervisor asks every client, and passes on when all have answered. A client that
finds wrong vectors tells of a drift instead: whatever is not committed then is refused, by ending the generation. In
the next one the server is under suspicion: it works only after a right canary, and no more at all when it has drifted
too often. A client that dies, or hangs, ends the generation anyway, so nothing here needs a clock of its own.
"""

from __future__ import annotations

import logging
import time
from collections import deque

from engine.ledger import durable
from engine.memory.channels import Message
from engine.supervision.generation import Stage, Stages, StageT

_log = logging.getLogger("engine.supervisor")

AN_HOUR_S = 3600.0
MAX_DRIFTS = 3
"""Drifts of one server within an hour after which it is used no more in this run; else it could refuse for ever."""


class RowsRefused(Exception):
    """A server has drifted: the rows that are not committed yet must not be."""


class HourlyCounter:
    """A count of the events of the last hour."""

    def __init__(self) -> None:
        self._times_s: deque[float] = deque()

    def add(self) -> int:
        """Count one more; how many there were within the last hour, this one included."""
        now_s = time.monotonic()
        self._times_s.append(now_s)
        while now_s - self._times_s[0] > AN_HOUR_S:
            self._times_s.popleft()
        return len(self._times_s)


class Proofs:
    """Asks the clients for the proof of a shard, and remembers which servers have drifted in this run."""

    def __init__(self) -> None:
        self._number = 0
        self._awaited: set[str] = set()
        self._drifts: dict[str, HourlyCounter] = {}
        self._barred: set[str] = set()

    def begin(self) -> dict[str, list[Message]]:
        """Begin a generation: no proof is awaited; the commands that the clients of suspects are started with.

        A command that comes later would come too late for a client that is quicker: its server lies at once, the
        generation is refused, and the next one goes the same way.
        """
        self._awaited.clear()
        return {role: [{"do": "suspect", "for_good": role in self._barred}] for role in self._drifts}

    def ask(self, generation: Stages[StageT]) -> None:
        """The writer wants a proof: ask every client for it."""
        self._number += 1
        self._awaited = {client.role for client in generation.clients()}
        durable.point("proof.before_asked")
        generation.command_clients(do="prove", number=self._number)
        durable.point("proof.after_asked")

    def receive(self, generation: Stages[StageT], client: Stage, answer: Message) -> None:
        """Take a client's answer: all that it had handed over when it was asked is proved."""
        if answer["number"] != self._number or client.role not in self._awaited:
            return
        self._awaited.discard(client.role)
        if not self._awaited:
            durable.point("proof.before_told")
            generation.command("writer", do="proved")
            durable.point("proof.after_told")

    def refuse(self, client: Stage, drift: Message) -> None:
        """Refuse the rows of a server whose vectors a client has found wrong, as far as they are not committed.

        Raises:
            RowsRefused: always.
        """
        role = f"client-{drift['server']}"
        if self._drifts.setdefault(role, HourlyCounter()).add() >= MAX_DRIFTS:
            self._barred.add(role)
        url, rows = drift["url"], drift["rows"]
        _log.warning(
            "rows_refused server=%s rows=%d told_by=%s barred=%s: nothing of them is committed, their documents are "
            "read again",
            url,
            rows,
            client.role,
            role in self._barred,
        )
        raise RowsRefused(f"{url} gives wrong vectors; {rows} rows of it were not committed yet and are refused")
