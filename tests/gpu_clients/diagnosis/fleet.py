"""Servers that are functions, to drive a bisection against: how many questions, and who is blamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import orjson

from gpu_clients.diagnosis.bisection import Bisection
from gpu_clients.diagnosis.canary_check import BisectionContext
from gpu_clients.diagnosis.finding import Finding
from gpu_clients.errors import Failure, FailureKind
from gpu_clients.servers.canary import canary_texts
from gpu_clients.servers.side_requests import Ask, Pause, Reply

DIM = 4
Verdict = FailureKind | Failure | None
Server = Callable[[list[str]], Verdict]
CANARIES = set(canary_texts(None))


def context(*others: int, rounds: int = 1) -> BisectionContext:
    """Our server is number 0."""
    return BisectionContext(own=0, others=others, canary=None, max_input_length=None, dim=DIM, rounds=rounds)


@dataclass
class Fleet:
    """Servers that answer by a function of the texts; counts what they are asked.

    Attributes:
        servers: The functions, by number.
        asked: Every request: the server's number, and the texts.
        paused_s: Seconds that the bisection wanted to wait.
    """

    servers: list[Server]
    asked: list[tuple[int, list[str]]] = field(default_factory=list)
    paused_s: float = 0.0

    def run(self, bisection: Bisection) -> Finding:
        """Drive a bisection to its end."""
        reply: Reply | None = None
        while True:
            try:
                step = next(bisection) if reply is None else bisection.send(reply)
            except StopIteration as end:
                found: Finding = end.value
                return found
            reply = self._answer(step) if isinstance(step, Ask) else None
            assert isinstance(step, Ask | Pause)
            self.paused_s += step.seconds if isinstance(step, Pause) else 0.0

    def _answer(self, ask: Ask) -> Reply:
        texts = orjson.loads(ask.body)
        assert len(texts) == ask.n_texts
        self.asked.append((ask.server, texts))
        kind = self.servers[ask.server](texts)
        if isinstance(kind, Failure):
            return Reply(failure=kind)
        if kind is not None:
            return Reply(failure=Failure(kind=kind, detail=f"failed as {kind.value}"))
        return Reply(matrix=np.array([vector(text) for text in texts], dtype=np.float32))

    def questions(self, server: int) -> int:
        """Requests to a server that were no canaries."""
        return sum(number == server and not set(texts) <= CANARIES for number, texts in self.asked)


def vector(text: str) -> list[float]:
    """A vector that tells which text it is of."""
    return [float(len(text)), float(sum(text.encode())), 1.0, 2.0]


def sound(_: list[str]) -> Verdict:
    """A server without faults."""
    return None


def refuses(*bad: str, kind: FailureKind = FailureKind.REJECTED) -> Server:
    """A server that fails on some texts."""
    return lambda texts: kind if set(texts) & set(bad) else None


def batch(n: int) -> list[str]:
    """Different texts."""
    return [f"text {number:03d} {'x' * number}" for number in range(n)]


def failure(kind: FailureKind) -> Failure:
    """What the batch failed with."""
    return Failure(kind=kind, detail="first")


def check(finding: Finding, texts: list[str], rejected: set[int]) -> None:
    """Every text but the rejected ones has its own vector."""
    assert finding.complete
    assert set(finding.rejected) == rejected
    for number, text in enumerate(texts):
        if number not in rejected:
            assert finding.matrix[number].tolist() == vector(text)
