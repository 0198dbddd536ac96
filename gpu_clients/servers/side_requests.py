"""Side requests: what is asked of servers beside the batches, in several steps, written as generators.

Finding a bad document in a batch, asking for a second server's opinion, checking a server with the canary: each is a
generator that yields what it wants next and is sent what came of it. The stage runs any number of them beside the bulk
of the work, in its one thread.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu_clients.errors import Failure
from gpu_clients.http.answers import BadAnswer
from gpu_clients.servers.requester import Completion
from gpu_clients.vectors.decode import Matrix


@dataclass(frozen=True, slots=True)
class Ask:
    """Embed these texts.

    Attributes:
        server: Number of the server.
        body: JSON array of texts.
        n_texts: Texts in it.
        quiet: Only while nothing else is in flight at our own server.
        fresh: Over a connection of its own, so that a balancer does not always lead it to the same backend.
    """

    server: int
    body: bytes
    n_texts: int
    quiet: bool = False
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Count:
    """Count the tokens of these texts, with the tokenizer of our own server.

    Attributes:
        body: JSON array of texts.
        n_texts: Texts in it.
        n_bytes: Bytes of the texts, for a cap on the answer.
    """

    body: bytes
    n_texts: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Go on after so many seconds."""

    seconds: float


_NOTHING = np.empty((0, 0), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of an `Ask` or a `Count`.

    Attributes:
        failure: Why there is no answer, or None.
        matrix: float32 (n_texts, dim), of its own memory; empty after a failure.
        unsound: Rows of it that are no vectors.
        counts: Tokens of each text, after a `Count`.
    """

    failure: Failure | None = None
    matrix: Matrix = field(default_factory=lambda: _NOTHING)
    unsound: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether every text got a sound vector."""
        return self.failure is None and not self.unsound


def reply_of(completion: Completion, dim: int) -> Reply:
    """Decode and release a completion."""
    if completion.failure is not None:
        return Reply(failure=completion.failure)
    matrix = np.empty((completion.n_texts, dim), dtype=np.float32)
    try:
        return Reply(matrix=matrix, unsound=completion.decode_into(matrix))
    except BadAnswer as error:
        return Reply(failure=Failure(kind=error.kind, detail=str(error), status=200))
    finally:
        completion.release()


Step = Ask | Count | Pause
"""What a side request wants next."""
Steps = Generator[Step, Reply, Any]


@dataclass(slots=True, eq=False)
class SideRequest:
    """What is asked of servers in one matter, until that has its result.

    Attributes:
        steps: The generator that yields what it wants next.
        on_end: Called with its result.
        ask: What it waits for, if that is an embedding.
    """

    steps: Steps
    on_end: Callable[[Any], None]
    ask: Ask | None = None


class SideRequests:
    """All side requests of a client.

    Attributes:
        waiting: Those that want an embedding from our own server and have not been sent yet, in order.
        n_open: Those that have not ended.
    """

    def __init__(
        self, own: int, send_elsewhere: Callable[[SideRequest, Ask], None], count: Callable[[SideRequest, Count], None]
    ) -> None:
        self.waiting: deque[SideRequest] = deque()
        self.n_open = 0
        self._own = own
        self._send_elsewhere = send_elsewhere
        self._count = count
        self._paused: list[tuple[float, int, SideRequest]] = []
        self._numbers: Iterator[int] = itertools.count()

    def start(self, steps: Steps, on_end: Callable[[Any], None], now_s: float) -> None:
        """Begin one; `on_end` is called with what it returns."""
        self.n_open += 1
        self._step(SideRequest(steps, on_end), None, now_s)

    def reply(self, side_request: SideRequest, reply: Reply, now_s: float) -> None:
        """Give one what it waited for."""
        side_request.ask = None
        self._step(side_request, reply, now_s)

    def wake(self, now_s: float) -> None:
        """Go on with those whose pause is over."""
        while self._paused and self._paused[0][0] <= now_s:
            self._step(heapq.heappop(self._paused)[2], None, now_s)

    def _step(self, side_request: SideRequest, reply: Reply | None, now_s: float) -> None:
        try:
            # a generator is begun, and goes on after a pause, with nothing
            step = next(side_request.steps) if reply is None else side_request.steps.send(reply)
        except StopIteration as end:
            self.n_open -= 1
            side_request.on_end(end.value)
            return
        if isinstance(step, Pause):
            heapq.heappush(self._paused, (now_s + step.seconds, next(self._numbers), side_request))
        elif isinstance(step, Count):
            self._count(side_request, step)
        else:
            side_request.ask = step
            if step.server == self._own:
                self.waiting.append(side_request)
            else:
                self._send_elsewhere(side_request, step)
