"""Conversations with servers that take more than one request, written as generators.

Finding a bad document in a batch, hearing a second server, looking in on a server with the canary: each is a generator
that yields what it wants next and is sent what came of it. The stage runs any number of them beside the bulk of the
work, in its one thread.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu_clients.answers import BadAnswer
from gpu_clients.decode import Matrix
from gpu_clients.errors import Failure
from gpu_clients.requester import Completion


@dataclass(frozen=True, slots=True)
class Ask:
    """Embed these texts.

    Attributes:
        server: Number of the server.
        body: JSON array of texts.
        n_texts: Texts in it.
        quiet: Only while nothing else is in flight at our own server.
    """

    server: int
    body: bytes
    n_texts: int
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Go on after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of an `Ask`.

    Attributes:
        failure: Why there are no vectors, or None.
        matrix: float32 (n_texts, dim), of its own memory; empty after a failure.
        unsound: Rows of it that are no vectors.
    """

    failure: Failure | None
    matrix: Matrix
    unsound: list[int]

    @property
    def sound(self) -> bool:
        """Whether every text got a sound vector."""
        return self.failure is None and not self.unsound


_NOTHING = np.empty((0, 0), dtype=np.float32)


def failed_reply(failure: Failure) -> Reply:
    """The reply to a request that failed."""
    return Reply(failure, _NOTHING, [])


def reply_of(completion: Completion, dim: int) -> Reply:
    """Decode and release a completion."""
    if completion.failure is not None:
        return failed_reply(completion.failure)
    matrix = np.empty((completion.n_texts, dim), dtype=np.float32)
    try:
        return Reply(None, matrix, completion.decode_into(matrix))
    except BadAnswer as error:
        return failed_reply(Failure(kind=error.kind, detail=str(error), status=200))
    finally:
        completion.release()


Wish = Ask | Pause
Conversation = Generator[Wish, Reply, Any]


@dataclass(slots=True, eq=False)
class Talk:
    """A conversation that is going on.

    Attributes:
        conversation: The generator.
        on_end: Called with its result.
        ask: What it waits for, if that is a reply.
        owner: What it is about.
    """

    conversation: Conversation
    on_end: Callable[[Any], None]
    owner: object
    ask: Ask | None = None


@dataclass(slots=True)
class Dialogues:
    """All conversations of a client.

    Attributes:
        own: Number of the client's own server.
        waiting: Talks that want something of the own server and have not been sent yet, in order.
        send_elsewhere: Sends an `Ask` to another server.
    """

    own: int
    send_elsewhere: Callable[[Talk, Ask], None]
    waiting: deque[Talk] = field(default_factory=deque)
    _paused: list[tuple[float, int, Talk]] = field(default_factory=list)
    _numbers: Any = field(default_factory=itertools.count)
    n_open: int = 0

    def start(self, conversation: Conversation, on_end: Callable[[Any], None], owner: object, now_s: float) -> None:
        """Begin a conversation."""
        self.n_open += 1
        talk = Talk(conversation, on_end, owner)
        self._step(talk, lambda: next(conversation), now_s)

    def reply(self, talk: Talk, reply: Reply, now_s: float) -> None:
        """Give a talk what it waited for."""
        talk.ask = None
        self._step(talk, lambda: talk.conversation.send(reply), now_s)

    def wake(self, now_s: float) -> None:
        """Go on with the talks whose pause is over."""
        while self._paused and self._paused[0][0] <= now_s:
            _, _, talk = heapq.heappop(self._paused)
            self._step(talk, lambda talk=talk: next(talk.conversation), now_s)  # type: ignore[misc]

    def _step(self, talk: Talk, go_on: Callable[[], Wish], now_s: float) -> None:
        try:
            wish = go_on()
        except StopIteration as end:
            self.n_open -= 1
            talk.on_end(end.value)
            return
        if isinstance(wish, Pause):
            heapq.heappush(self._paused, (now_s + wish.seconds, next(self._numbers), talk))
            return
        talk.ask = wish
        if wish.server == self.own:
            self.waiting.append(talk)
        else:
            self.send_elsewhere(talk, wish)
