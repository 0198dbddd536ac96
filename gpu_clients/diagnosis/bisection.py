"""Finding the document that spoils a batch, and never blaming a document for a sick server.

A batch that fails is halved until texts fail alone: log2(n) halvings, and when a left half passes, the right one is
known to be bad without asking. A text that failed alone goes into quarantine only when

1. our server gives the right canary right after it failed, and
2. another server, which gives the right canary right before, fails on it as well. (With one server in the fleet, or
   none other that answers, our own is asked a second time, and the detail says so.)

A text that the other server can embed keeps that vector: all servers of a fleet are in one vector space. On a server
that has failed again and again lately, for reasons that nobody knows, once is not enough: a text then has to fail
every time it is asked for, between canaries that succeed.

Failures of the backend are bisected with nothing else in flight: TEI fails every text of a GPU batch together, so
neighbours in other requests would be taken for culprits.

A text that kills the server process is a matter of its own, because every try of it costs a server. The batches that
were in flight when a server died are sent one at a time to a quiet server; innocent ones pass at once. The one that
kills again is taken apart text by text (n cheap requests and one more death, where halving would cost log2(n)
deaths), and the text found is put before a second server. What is known travels in the batch's history.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator

import numpy as np
import orjson

from gpu_clients.batches.batch import BatchHistory, Suspicion
from gpu_clients.diagnosis.canary_check import MAX_PAUSES, BisectionContext, check_canary, pause_s
from gpu_clients.diagnosis.finding import Finding, Rejection
from gpu_clients.errors import Action, Failure, FailureKind
from gpu_clients.servers.canary import Arrangement
from gpu_clients.servers.side_requests import Ask, Pause, Reply, Step
from gpu_clients.vectors.cutting import LongestBeginning
from gpu_clients.vectors.decode import Matrix

_TIMES_BESIDE_CANARY = 5
_TIMES_BESIDE_CANARY_TOGETHER = 2
"""So often in a row a text, or several, are refused as too much for now and the canary is taken at once: then it is no
overload."""
_TRIES = 2
"""Requests for one piece that may fail for the server's reasons before that counts as the piece's failure."""
_DEATHS = (FailureKind.LOST, FailureKind.UNAVAILABLE)
_GONE = (FailureKind.REFUSED, *_DEATHS)
"""How a server that dies, and one that has died, looks; behind a proxy it answers 502 or 503."""
_NOT_SERVED = (FailureKind.UNAUTHORIZED, FailureKind.WRONG_SERVICE)
_MAY_BE_THE_SUM = (FailureKind.PAYLOAD, *_NOT_SERVED)
"""Failures that the size of a request may be the reason of, so that both halves may be good."""


class ServerSick(Exception):
    """Our own server failed its canary, so nothing can be said about the batch.

    Attributes:
        failure: How the canary failed.
        history: What that says about the batch, if anything.
    """

    def __init__(self, failure: Failure, history: BatchHistory | None = None) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.history = history


Bisection = Generator[Step, Reply, Finding]
_Steps = Generator[Step, Reply, bool]
_Act = Generator[Step, Reply, None]


def bisect(texts: list[str], failure: Failure, context: BisectionContext) -> Bisection:
    """Take a failed batch apart; ends with what is known of every text."""
    quiet = failure.kind is FailureKind.BACKEND or failure.action is Action.RETRY
    overloaded = failure.action is Action.BACK_OFF
    bisection = _Bisection(texts, context, quiet=quiet)
    rows = list(range(len(texts)))
    failed_s = time.monotonic()

    def act() -> _Act:
        if failure.action is not Action.DIVIDE or (quiet and context.last_answer_s() < failed_s):
            # a dead GPU, a wrong key, a redirect fail every batch: ask for the canary before blaming anybody
            yield from bisection.check_own_server(quiet=failure.kind is FailureKind.BACKEND, at_once=True)
        if quiet or overloaded or len(rows) == 1:
            yield from bisection.try_together(rows)
        else:
            yield from bisection.divide(rows, by_size=failure.kind in _MAY_BE_THE_SUM)

    return bisection.run(act())


def recheck_rows(texts: list[str], matrix: Matrix, unsound: list[int], context: BisectionContext) -> Bisection:
    """Ask again, alone, for the texts whose rows are no vectors; the other rows are kept."""
    bisection = _Bisection(texts, context, quiet=False)
    bisection.finding.matrix[:] = matrix

    def act() -> _Act:
        yield from bisection.check_own_server()
        for row in unsound:
            yield from bisection.try_together([row])

    return bisection.run(act())


def embed_suspect(texts: list[str], history: BatchHistory, context: BisectionContext) -> Bisection:
    """Embed a batch that may hold a text which kills servers, with as few deaths as can be."""
    bisection = _Bisection(texts, context, quiet=True)
    rows = list(range(len(texts)))

    def act() -> _Act:
        if history.suspicion is Suspicion.NEARBY:
            yield from bisection.try_together(rows)
        elif history.suspicion is Suspicion.ALONE:
            yield from bisection.check_own_server()
            for row in rows:
                yield from bisection.try_together([row])
        else:
            rest = [row for row in rows if row != history.text]
            if rest:
                yield from bisection.try_together(rest)
            died = Failure(kind=FailureKind.LOST, detail="the server ended while it worked on this text alone")
            yield from bisection.second_opinion(history.text, died, history.server, died=True)

    return bisection.run(act())


class _Bisection:
    """The bisection of one batch."""

    def __init__(self, texts: list[str], context: BisectionContext, *, quiet: bool) -> None:
        self.finding = Finding(np.zeros((len(texts), context.dim), dtype=np.float32), {context.own})
        self._texts = texts
        self._context = context
        self._quiet = quiet

    def run(self, act: _Act) -> Bisection:
        """Do it, and end with the finding."""
        try:
            yield from act
            self.finding.complete = True
        except ServerSick as error:
            self.finding.sick = error.failure
            self.finding.history = error.history
        return self.finding

    def check_own_server(self, *, quiet: bool | None = None, at_once: bool = False) -> _Act:
        """Go on only with a server that gives the right canary.

        Raises:
            ServerSick: it does not.
        """
        failure = yield from self._check_canary(self._context.own, quiet=quiet, at_once=at_once)
        if failure is not None:
            raise ServerSick(failure)

    def try_together(self, rows: list[int]) -> _Steps:
        """Ask for some texts in one request, and take them apart when that fails; tells whether it failed."""
        reply = yield from self._ask_own(rows)
        if reply.failure is None:
            self.finding.matrix[rows] = reply.matrix
            bad = [rows[position] for position in reply.unsound]
            if bad and len(rows) == 1:
                yield from self._confirm_failure(rows[0], _UNSOUND)
            else:
                for row in bad:
                    yield from self.try_together([row])
            return bool(bad)
        if len(rows) == 1:
            yield from self._confirm_failure(rows[0], reply.failure)
        else:
            if len(rows) == len(self._texts) and reply.failure.kind is FailureKind.PAYLOAD:
                self.finding.too_large = True
            yield from self.divide(rows, by_size=reply.failure.kind in _MAY_BE_THE_SUM)
        return True

    def divide(self, rows: list[int], *, by_size: bool) -> _Act:
        """Take texts apart that are known to fail together; `by_size` when the sum of them may be the reason."""
        middle = len(rows) // 2
        left, right = rows[:middle], rows[middle:]
        left_failed = yield from self.try_together(left)
        if left_failed or by_size or len(right) == 1:
            yield from self.try_together(right)
        else:
            yield from self.divide(right, by_size=False)

    def _ask_own(self, rows: list[int], texts: list[str] | None = None) -> Generator[Step, Reply, Reply]:
        """Ask our server; its own failures are taken for the texts' only when they repeat beside a good canary.

        That a request is not allowed, or not known, is not repeated: a text that fails so alone is judged beside the
        canary all the same.

        Args:
            texts: What is sent for the rows, when that is not all of their texts.
        """
        for _ in range(_TRIES):
            reply = yield from self._ask_for(self._context.own, rows, texts)
            failure = reply.failure
            if failure is None or failure.action is Action.DIVIDE or failure.kind in _NOT_SERVED:
                break
            if failure.action in (Action.SUSPECT_SERVER, Action.BACK_OFF):
                raise ServerSick(failure)
            sick = yield from self._check_canary(self._context.own)
            if sick is not None:
                raise ServerSick(sick, self._history_of_death(rows, failure, sick))
        return reply

    def _history_of_death(self, rows: list[int], failure: Failure, sick: Failure) -> BatchHistory | None:
        """What is to be noted when our server, quiet but for these texts, has gone."""
        if not self._quiet or failure.kind not in _DEATHS or sick.kind not in _GONE:
            return None
        if len(rows) > 1:
            return BatchHistory(Suspicion.ALONE)
        return BatchHistory(Suspicion.TEXT, self._context.own, rows[0])

    def _confirm_failure(self, row: int, failure: Failure) -> _Act:
        """A text failed alone on our server: is it the text?"""
        yield from self.check_own_server()
        if failure.kind is FailureKind.TOO_LONG and self._context.cuts and (yield from self._embed_cut(row)):
            return
        for _ in range(self._context.rounds - 1):
            reply = yield from self._ask_for(self._context.own, [row])
            if reply.sound:
                self.finding.matrix[row] = reply.matrix[0]
                return
            yield from self.check_own_server()
        yield from self.second_opinion(row, failure, self._context.own)

    def _embed_cut(self, row: int) -> _Steps:
        """Embed the longest beginning of a text that our server takes, to a 32nd of it; False when it takes none.

        The server has no option to cut, or heeds none.
        """
        text = self._texts[row]
        beginning = LongestBeginning(len(text))
        while (length := beginning.next()) is not None:
            reply = yield from self._ask_own([row], [text[:length]])
            if reply.sound:
                self.finding.matrix[row] = reply.matrix[0]
            elif reply.failure is None or reply.failure.kind is not FailureKind.TOO_LONG:
                return False  # something else is the matter with it: it is judged whole
            beginning.tell(length, is_taken=reply.sound)
        if beginning.taken:
            self.finding.truncated.append(row)
        return bool(beginning.taken)

    def second_opinion(self, row: int, first: Failure, first_server: int, *, died: bool = False) -> _Act:
        """Put a text that failed alone on one server before another one; the first itself comes last.

        Args:
            died: Whether the first server died of it.

        Raises:
            ServerSick: nobody could say anything about it.
        """
        own = self._context.own
        everyone = [own, *self._context.others]
        for server in [*(server for server in everyone if server != first_server), first_server]:
            sick = yield from self._check_canary(server)
            if sick is None:
                repeated = server == first_server
                settled, sick = yield from self._opinion_of(server, row, first, repeated=repeated, died=died)
                if settled:
                    self.finding.sick = sick if server == own else None
                    return
            if server == own and sick is not None:
                raise ServerSick(sick)
        raise ServerSick(first)

    def _opinion_of(
        self, server: int, row: int, first: Failure, *, repeated: bool, died: bool
    ) -> Generator[Step, Reply, tuple[bool, Failure | None]]:
        """One server's opinion of a text: whether that settles it, and what became of the server."""
        for left in reversed(range(self._context.rounds)):
            reply = yield from self._ask_for(server, [row])
            if reply.sound:
                self.finding.matrix[row] = reply.matrix[0]
                self.finding.servers.add(server)
                return True, None
            second = reply.failure or _UNSOUND
            sick: Failure | None = None
            if second.action is Action.BACK_OFF or second.kind is FailureKind.OUT:
                return False, second if second.kind is FailureKind.OUT else None
            if second.action is not Action.DIVIDE or left:
                sick = yield from self._check_canary(server)
                killed = first.kind is FailureKind.LOST and second.kind in (_DEATHS if died else _DEATHS[:1])
                if sick is not None and not killed:
                    return False, sick  # the server fell ill of something else
            if sick is not None:
                break
        where = " (no other server could be asked)" if repeated else ""
        self.finding.rejected[row] = Rejection(first, 2 * self._context.rounds, f"{first.detail}{where}")
        return True, sick

    def _check_canary(
        self, server: int, *, quiet: bool | None = None, at_once: bool = False
    ) -> Generator[Step, Reply, Failure | None]:
        quiet = (self._quiet if quiet is None else quiet) and server == self._context.own
        return (yield from check_canary(server, Arrangement.MIXED, self._context, quiet=quiet, at_once=at_once))

    def _ask_for(self, server: int, rows: list[int], texts: list[str] | None = None) -> Generator[Step, Reply, Reply]:
        """Ask a server for some texts.

        Overload is waited out. When it lasts while the canary is taken at once, time and again, the texts are too much
        for a request: the failure is one of their size then.
        """
        body = orjson.dumps(texts or [self._texts[row] for row in rows])
        ask = Ask(server, body, len(rows), self._quiet and server == self._context.own)
        enough = _TIMES_BESIDE_CANARY if len(rows) == 1 else _TIMES_BESIDE_CANARY_TOGETHER
        in_a_row = 0
        for attempt in range(MAX_PAUSES):
            reply = yield ask
            failure = reply.failure
            if failure is None or failure.action is not Action.BACK_OFF:
                break
            yield Pause(pause_s(attempt))
            in_a_row = in_a_row + 1 if (yield from self._check_canary(server, at_once=True)) is None else 0
            if in_a_row == enough:
                return dataclasses.replace(reply, failure=dataclasses.replace(failure, kind=FailureKind.PAYLOAD))
        return reply


_UNSOUND = Failure(kind=FailureKind.UNSOUND, detail="the vector is not finite, zero, constant or of a wrong norm")
