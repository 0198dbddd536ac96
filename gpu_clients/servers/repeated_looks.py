"""Looking at a server again and again, each time over a connection of its own: does one backend answer, or several?

A balancer before unlike replicas (a round robin, a service, a rolling update) gives a run the vectors of several
models under one URL. A single look sees one replica. Each look here is compared with the first one of its own kind,
never with another arrangement's, because a text's vector may change with its neighbours on a single sound server.

Looks of one kind follow each other: a round robin of two replicas would answer every second question alike.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Generator

from gpu_clients.errors import Failure, FailureKind
from gpu_clients.http.connection import Exchange
from gpu_clients.server_facts import EmbedOptions, ServerFacts
from gpu_clients.servers.canary import Arrangement
from gpu_clients.servers.canary_request import embed_canary
from gpu_clients.servers.identity import identify
from gpu_clients.servers.probe_request import ProbeFailed, ProbeRequest
from gpu_clients.servers.routes import Route
from gpu_clients.vectors.decode import Matrix
from gpu_clients.vectors.soundness import MIN_COSINE, lowest_cosine, unsound_rows

IDENTITIES = 3
LONG_LOOKS = 2
SHORT_LOOKS = 30
"""One bad replica of ten escapes so many looks in 4% of cases: 0.9 ** 30."""
ENOUGH_S = 5.0
"""Once that much time was spent, a slow server is not asked any more."""
LEAST_LOOKS = 9
LONGEST_S = 20.0
"""After that a very slow server is not asked any more, however few its answers were."""
FAILED_LOOKS = 3
"""After so many that were not answered well, or one that was not answered at all, the server is not asked any more."""
UNLIKE_DIMS = 2
"""So many answers of one other dimension come from another backend."""
UNLIKE_TURNS = 3
"""While a run goes on so many do, with a right answer between each two of them."""
FORGOTTEN_AFTER_S = 900.0
SEVERAL = "answers with unlike backends: name each replica's own URL in --tei-urls, without a balancer before them"


def several_backends(how: str) -> ProbeFailed:
    """Unlike backends answer behind one URL."""
    failure = Failure(kind=FailureKind.DRIFTED, detail=f"it {SEVERAL} ({how})")
    return ProbeFailed(failure, misconfigured=True, several=True)


class UnlikeTurns:
    """Tells whether backends of unlike dimensions take turns at answering for one URL while a run goes on.

    A server that turns into another one gives the other dimension from then on; where right answers come between,
    several answer. All of a server's answers count, to batches and to looks.

    Attributes:
        why: What shows that several answer, once it is known.
    """

    def __init__(self) -> None:
        self.why: str | None = None
        self._turns: Counter[str] = Counter()  # by what was unlike
        self._is_wrong = False  # the answer before
        self._last_s = 0.0

    def wrong(self, detail: str) -> None:
        """Take note of an answer of another dimension; `detail` says of which."""
        now_s = time.monotonic()
        if now_s - self._last_s > FORGOTTEN_AFTER_S:
            self._turns.clear()
        self._last_s = now_s
        if not self._is_wrong:
            self._is_wrong = True
            self._turns[detail] += 1
            if self._turns[detail] >= UNLIKE_TURNS:
                self.why = f"it {SEVERAL} ({detail}, and right ones between)"

    def right(self) -> None:
        """Take note of a right answer."""
        self._is_wrong = False


def look_again(
    server_kind: str, options: EmbedOptions, facts: ServerFacts, route: Route, seen: dict[Arrangement, Matrix]
) -> Generator[ProbeRequest, Exchange, None]:
    """Ask for the identity and the canary several times more.

    Args:
        seen: The vectors of the first looks, float32 (texts, dim) each.

    Raises:
        ProbeFailed: two answers to one question differ.
    """
    began_s = time.monotonic()
    n_failed = 0
    unlike_dims: Counter[int] = Counter()
    long_looks = [arrangement for arrangement in seen for _ in range(LONG_LOOKS)]
    questions: list[Arrangement | None] = [None] * IDENTITIES + long_looks + [Arrangement.SHORT] * SHORT_LOOKS
    for n_looks, question in enumerate(questions):
        spent_s = time.monotonic() - began_s
        if spent_s > (ENOUGH_S if n_looks >= LEAST_LOOKS else LONGEST_S):
            break
        try:
            if question is None:
                yield from _compare_identity(server_kind, options, facts)
            else:
                yield from _compare_vectors(question, facts, route, seen, unlike_dims)
        except ProbeFailed as error:
            if error.several:
                raise
            # it shows nothing: whether the server is well, the examination has seen before
            n_failed += 1
            if n_failed == FAILED_LOOKS or error.failure.kind is FailureKind.TIMEOUT:
                break


def _compare_identity(
    server_kind: str, options: EmbedOptions, facts: ServerFacts
) -> Generator[ProbeRequest, Exchange, None]:
    identity = yield from identify(server_kind, options, fresh=True)
    differences = _as_listed(facts).differences(_as_listed(identity.facts))
    if differences:
        raise several_backends(", ".join(differences))


def _compare_vectors(
    arrangement: Arrangement,
    facts: ServerFacts,
    route: Route,
    seen: dict[Arrangement, Matrix],
    unlike_dims: Counter[int],
) -> Generator[ProbeRequest, Exchange, None]:
    dim = next(iter(seen.values())).shape[1]
    matrix, _ = yield from embed_canary(route, arrangement, facts, None, fresh=True)
    if (other := matrix.shape[1]) != dim:
        unlike_dims[other] += 1  # once is an accident: a run checks the dimension of every answer anyway
        if unlike_dims[other] == UNLIKE_DIMS:
            raise several_backends(f"vectors of {dim} and of {other} numbers")
        return
    if unsound_rows(matrix, normalized=False):
        return  # no vector at all is another matter
    cosine = lowest_cosine(seen.setdefault(arrangement, matrix), matrix)
    if not cosine >= MIN_COSINE:
        raise several_backends(f"cosine {cosine:.4f} of two vectors of one canary text")


def _as_listed(facts: ServerFacts) -> ServerFacts:
    """Without what is not listed but was found out by asking."""
    return dataclasses.replace(facts, canary_tokens=None, unit_length=True, openai_base=None, default_prompt=None)
