"""Finding the document that spoils a batch, and never blaming a document for a sick server.

A batch that fails is halved until texts fail alone: log2(n) halvings, and when a left half passes, the right one is
known to be bad without asking. A text that failed alone goes into quarantine only when

1. our server gives the right canary right after it failed, and
2. another server, which gives the right canary right before, fails on it as well. (With one server in the fleet, or
   none other that answers, our own is asked a second time, and the detail says so.)

A text that the other server can embed keeps that vector: all servers of a fleet are in one vector space. On a server
that has failed again and again lately, for reasons that nobody knows, once is not enough: a text then has to fail
every time it is asked for, between canaries that succeed.

Failures of the backend are looked for with nothing else in flight: TEI fails every text of a GPU batch together, so
neighbours in other requests would be taken for culprits.

A text that kills the server process is a case of its own, because every look at it costs a server. The batches that
were in flight when a server died are sent one at a time to a quiet server; innocent ones pass at once. The one that
kills again is taken apart text by text (n cheap requests and one more death, where halving would cost log2(n)
deaths), and the text found is put before a second server. What is known travels in the batch's case file.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from gpu_clients.batches.batch import CaseFile, Suspicion
from gpu_clients.errors import Failure, FailureKind, Remedy
from gpu_clients.servers.canary import Arrangement, Canary, canary_body
from gpu_clients.servers.side_requests import Ask, Pause, Reply, Wish
from gpu_clients.vectors.decode import Matrix

_MAX_PAUSES = 20
_TIMES_BESIDE_CANARY = 5
_TIMES_BESIDE_CANARY_TOGETHER = 2
"""So often in a row a text, or several, are refused as too much for now and the canary is taken at once: then it is no
overload."""
_TRIES = 2
"""Requests for one piece that may fail for the server's reasons before that counts as the piece's failure."""
_GONE = (FailureKind.REFUSED, FailureKind.LOST)
_NOT_SERVED = (FailureKind.UNAUTHORIZED, FailureKind.WRONG_SERVICE)
_MAY_BE_THE_SUM = (FailureKind.PAYLOAD, *_NOT_SERVED)
"""Failures that the size of a request may be the reason of, so that both halves may be good."""


class ServerSick(Exception):
    """Our own server failed its canary, so nothing can be said about the batch.

    Attributes:
        failure: How the canary failed.
        case: What that says about the batch, if anything.
    """

    def __init__(self, failure: Failure, case: CaseFile | None = None) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.case = case


@dataclass(frozen=True, slots=True)
class Rejection:
    """A text that goes into quarantine.

    Attributes:
        failure: How it failed first.
        attempts: Requests that failed on it alone.
        detail: What is written beside it.
    """

    failure: Failure
    attempts: int
    detail: str


@dataclass(slots=True)
class Finding:
    """What is known of a batch's texts.

    Attributes:
        matrix: float32 (n_texts, dim); rows of rejected texts mean nothing.
        servers: Numbers of the servers that its vectors come from.
        rejected: Rejections by text.
        complete: Whether every text has a vector or a rejection; otherwise the batch has to be given back.
        sick: Why our own server has to be given up, or None.
        case: What is to be noted in the batch's case file, or None.
        truncated: Texts that the server has cut.
        judged: Whether it has been looked into which these are.
        too_large: Whether the texts were refused together because of their size, and divided.
    """

    matrix: Matrix
    servers: set[int]
    rejected: dict[int, Rejection] = field(default_factory=dict)
    complete: bool = False
    sick: Failure | None = None
    case: CaseFile | None = None
    truncated: list[int] = field(default_factory=list)
    judged: bool = False
    too_large: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Laboratory:
    """Where a batch is taken apart.

    Attributes:
        own: Number of our server.
        others: Numbers of servers that may give a second opinion, best first.
        canary: Reference vectors, or None when there are none (a measurement without a doctor).
        max_input_length: What the canary texts depend on.
        dim: Numbers in a vector.
        rounds: How often a text has to fail alone on each server.
        last_answer_s: When our server last gave a good answer, monotonic seconds.
    """

    own: int
    others: Sequence[int]
    canary: Canary | None
    max_input_length: int | None
    dim: int
    rounds: int = 1
    last_answer_s: Callable[[], float] = lambda: -math.inf


Search = Generator[Wish, Reply, Finding]
_Steps = Generator[Wish, Reply, bool]
_Act = Generator[Wish, Reply, None]


def isolate(texts: list[str], failure: Failure, laboratory: Laboratory) -> Search:
    """Take a failed batch apart; ends with what is known of every text."""
    quiet = failure.kind is FailureKind.BACKEND or failure.remedy is Remedy.RETRY
    overloaded = failure.remedy is Remedy.BACK_OFF
    search = _Search(texts, laboratory, quiet=quiet)
    rows = list(range(len(texts)))
    failed_s = time.monotonic()

    def act() -> _Act:
        if failure.remedy is not Remedy.DIVIDE or (quiet and laboratory.last_answer_s() < failed_s):
            # a dead GPU, a wrong key, a redirect fail every batch: ask for the canary before blaming anybody
            yield from search.check_own_server(quiet=failure.kind is FailureKind.BACKEND, at_once=True)
        if quiet or overloaded or len(rows) == 1:
            yield from search.try_together(rows)
        else:
            yield from search.divide(rows, by_size=failure.kind in _MAY_BE_THE_SUM)

    return search.run(act())


def isolate_rows(texts: list[str], matrix: Matrix, unsound: list[int], laboratory: Laboratory) -> Search:
    """Ask again, alone, for the texts whose rows are no vectors; the other rows are kept."""
    search = _Search(texts, laboratory, quiet=False)
    search.finding.matrix[:] = matrix

    def act() -> _Act:
        yield from search.check_own_server()
        for row in unsound:
            yield from search.try_together([row])

    return search.run(act())


def interrogate(texts: list[str], case: CaseFile, laboratory: Laboratory) -> Search:
    """Embed a batch that may hold a text which kills servers, with as few deaths as can be."""
    search = _Search(texts, laboratory, quiet=True)
    rows = list(range(len(texts)))

    def act() -> _Act:
        if case.suspicion is Suspicion.NEARBY:
            yield from search.try_together(rows)
        elif case.suspicion is Suspicion.ALONE:
            yield from search.check_own_server()
            for row in rows:
                yield from search.try_together([row])
        else:
            rest = [row for row in rows if row != case.text]
            if rest:
                yield from search.try_together(rest)
            died = Failure(kind=FailureKind.LOST, detail="the server ended while it worked on this text alone")
            yield from search.hear_second(case.text, died, case.server)

    return search.run(act())


def check_canary(
    server: int, arrangement: Arrangement, laboratory: Laboratory, *, quiet: bool = False, at_once: bool = False
) -> Generator[Wish, Reply, Failure | None]:
    """Ask a server for the canary; None when its vectors are the right ones.

    Args:
        quiet: Whether it is asked while nothing else is in flight at our own server.
        at_once: Whether overload is a failure too, instead of being waited out.
    """
    body, n_texts = canary_body(arrangement, laboratory.max_input_length)
    ask = Ask(server, body, n_texts, quiet)
    reply = (yield ask) if at_once else (yield from _ask(ask))
    if reply.failure is not None:
        return reply.failure
    if reply.unsound:
        return Failure(kind=FailureKind.DRIFTED, detail="the canary's vectors are not sound")
    if laboratory.canary is not None and not laboratory.canary.accepts(arrangement, reply.matrix):
        cosine = laboratory.canary.cosine(arrangement, reply.matrix)
        return Failure(kind=FailureKind.DRIFTED, detail=f"the canary's vectors have drifted (cosine {cosine:.4f})")
    return None


def _ask(ask: Ask) -> Generator[Wish, Reply, Reply]:
    """One request; overload is waited out."""
    for attempt in range(_MAX_PAUSES):
        reply = yield ask
        if reply.failure is None or reply.failure.remedy is not Remedy.BACK_OFF:
            break
        yield Pause(_pause_s(attempt))
    return reply


def _pause_s(attempt: int) -> float:
    return min(1.0, 0.02 * 2.0**attempt)


class _Search:
    """The search in one batch."""

    def __init__(self, texts: list[str], laboratory: Laboratory, *, quiet: bool) -> None:
        self.finding = Finding(np.zeros((len(texts), laboratory.dim), dtype=np.float32), {laboratory.own})
        self._texts = texts
        self._laboratory = laboratory
        self._quiet = quiet

    def run(self, act: _Act) -> Search:
        """Do it, and end with the finding."""
        try:
            yield from act
            self.finding.complete = True
        except ServerSick as error:
            self.finding.sick = error.failure
            self.finding.case = error.case
        return self.finding

    def check_own_server(self, *, quiet: bool | None = None, at_once: bool = False) -> _Act:
        """Go on only with a server that gives the right canary.

        Raises:
            ServerSick: it does not.
        """
        failure = yield from self._look_at(self._laboratory.own, quiet=quiet, at_once=at_once)
        if failure is not None:
            raise ServerSick(failure)

    def try_together(self, rows: list[int]) -> _Steps:
        """Ask for some texts in one request, and take them apart when that fails; tells whether it failed."""
        reply = yield from self._ask_own(rows)
        if reply.failure is None:
            self.finding.matrix[rows] = reply.matrix
            bad = [rows[position] for position in reply.unsound]
            if bad and len(rows) == 1:
                yield from self._judge(rows[0], _UNSOUND)
            else:
                for row in bad:
                    yield from self.try_together([row])
            return bool(bad)
        if len(rows) == 1:
            yield from self._judge(rows[0], reply.failure)
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

    def _ask_own(self, rows: list[int]) -> Generator[Wish, Reply, Reply]:
        """Ask our server; its own failures are taken for the texts' only when they repeat beside a good canary.

        That a request is not allowed, or not known, is not repeated: a text that fails so alone is judged beside the
        canary all the same.
        """
        for _ in range(_TRIES):
            reply = yield from self._ask_for(self._laboratory.own, rows)
            failure = reply.failure
            if failure is None or failure.remedy is Remedy.DIVIDE or failure.kind in _NOT_SERVED:
                break
            if failure.remedy in (Remedy.EXCLUDE, Remedy.BACK_OFF):
                raise ServerSick(failure)
            sick = yield from self._look_at(self._laboratory.own)
            if sick is not None:
                raise ServerSick(sick, self._case_of_death(rows, failure, sick))
        return reply

    def _case_of_death(self, rows: list[int], failure: Failure, sick: Failure) -> CaseFile | None:
        """The case when our server, quiet but for these texts, has gone."""
        if not self._quiet or failure.kind is not FailureKind.LOST or sick.kind not in _GONE:
            return None
        if len(rows) > 1:
            return CaseFile(Suspicion.ALONE)
        return CaseFile(Suspicion.TEXT, self._laboratory.own, rows[0])

    def _judge(self, row: int, failure: Failure) -> _Act:
        """A text failed alone on our server: is it the text?"""
        yield from self.check_own_server()
        for _ in range(self._laboratory.rounds - 1):
            reply = yield from self._ask_for(self._laboratory.own, [row])
            if reply.sound:
                self.finding.matrix[row] = reply.matrix[0]
                return
            yield from self.check_own_server()
        yield from self.hear_second(row, failure, self._laboratory.own)

    def hear_second(self, row: int, first: Failure, first_server: int) -> _Act:
        """Put a text that failed alone on one server before another one; the first itself comes last.

        Raises:
            ServerSick: nobody could say anything about it.
        """
        own = self._laboratory.own
        everyone = [own, *self._laboratory.others]
        for server in [*(server for server in everyone if server != first_server), first_server]:
            sick = yield from self._look_at(server)
            if sick is None:
                settled, sick = yield from self._hear(server, row, first, repeated=server == first_server)
                if settled:
                    self.finding.sick = sick if server == own else None
                    return
            if server == own and sick is not None:
                raise ServerSick(sick)
        raise ServerSick(first)

    def _hear(
        self, server: int, row: int, first: Failure, *, repeated: bool
    ) -> Generator[Wish, Reply, tuple[bool, Failure | None]]:
        """One server's opinion of a text: whether that settles it, and what became of the server."""
        for left in reversed(range(self._laboratory.rounds)):
            reply = yield from self._ask_for(server, [row])
            if reply.sound:
                self.finding.matrix[row] = reply.matrix[0]
                self.finding.servers.add(server)
                return True, None
            second = reply.failure or _UNSOUND
            sick: Failure | None = None
            if second.remedy is Remedy.BACK_OFF or second.kind is FailureKind.OUT:
                return False, second if second.kind is FailureKind.OUT else None
            if second.remedy is not Remedy.DIVIDE or left:
                sick = yield from self._look_at(server)
                if sick is not None and (second.kind, first.kind) != (FailureKind.LOST, FailureKind.LOST):
                    return False, sick  # the server fell ill of something else
            if sick is not None:
                break
        where = " (no other server could be asked)" if repeated else ""
        self.finding.rejected[row] = Rejection(first, 2 * self._laboratory.rounds, f"{first.detail}{where}")
        return True, sick

    def _look_at(
        self, server: int, *, quiet: bool | None = None, at_once: bool = False
    ) -> Generator[Wish, Reply, Failure | None]:
        quiet = (self._quiet if quiet is None else quiet) and server == self._laboratory.own
        return (yield from check_canary(server, Arrangement.MIXED, self._laboratory, quiet=quiet, at_once=at_once))

    def _ask_for(self, server: int, rows: list[int]) -> Generator[Wish, Reply, Reply]:
        """Ask a server for some texts.

        Overload is waited out. When it lasts while the canary is taken at once, time and again, the texts are too much
        for a request: the failure is one of their size then.
        """
        body = orjson.dumps([self._texts[row] for row in rows])
        ask = Ask(server, body, len(rows), self._quiet and server == self._laboratory.own)
        enough = _TIMES_BESIDE_CANARY if len(rows) == 1 else _TIMES_BESIDE_CANARY_TOGETHER
        in_a_row = 0
        for attempt in range(_MAX_PAUSES):
            reply = yield ask
            failure = reply.failure
            if failure is None or failure.remedy is not Remedy.BACK_OFF:
                break
            yield Pause(_pause_s(attempt))
            in_a_row = in_a_row + 1 if (yield from self._look_at(server, at_once=True)) is None else 0
            if in_a_row == enough:
                return dataclasses.replace(reply, failure=dataclasses.replace(failure, kind=FailureKind.PAYLOAD))
        return reply


_UNSOUND = Failure(kind=FailureKind.UNSOUND, detail="the vector is not finite, zero, constant or of a wrong norm")
