"""Asking a server for the canary: the check that tells a sick server from a text that cannot be embedded."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from gpu_clients.errors import Action, Failure, FailureKind
from gpu_clients.servers.canary import Arrangement, Canary, canary_bodies
from gpu_clients.servers.side_requests import Ask, Pause, Reply, Step

MAX_PAUSES = 20
"""So often an overloaded server is asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BisectionContext:
    """What a bisection, or a canary check, has to know.

    Attributes:
        own: Number of our server.
        others: Numbers of servers that may give a second opinion, best first.
        canary: Reference vectors, or None when there are none (a measurement without a doctor).
        max_input_length: What the canary texts depend on.
        dim: Numbers in a vector.
        most_texts: Texts that a request to any of the servers may hold, None when any number may.
        cuts: Whether a text that the server refuses as too long is cut here, because the run wants long texts cut.
        short_is_steady: Whether the canary's short text may be asked for alone.
        rounds: How often a text has to fail alone on each server.
        last_answer_s: When our server last gave a good answer, monotonic seconds.
    """

    own: int
    others: Sequence[int]
    canary: Canary | None
    max_input_length: int | None
    dim: int
    most_texts: int | None = None
    cuts: bool = False
    short_is_steady: bool = False
    rounds: int = 1
    last_answer_s: Callable[[], float] = lambda: -math.inf


def check_canary(
    server: int, arrangement: Arrangement, context: BisectionContext, *, quiet: bool = False, at_once: bool = False
) -> Generator[Step, Reply, Failure | None]:
    """Ask a server for the canary; None when its vectors are the right ones.

    Args:
        quiet: Whether it is asked while nothing else is in flight at our own server.
        at_once: Whether overload is a failure too, instead of being waited out.
    """
    if context.canary is not None and not context.canary.covers(arrangement, context.max_input_length):
        arrangement = Arrangement.MIXED  # the short text is among them, which every server gets
    matrices = []
    for body, n_texts in canary_bodies(arrangement, context.max_input_length, context.most_texts):
        ask = Ask(server, body, n_texts, quiet, fresh=True)
        reply = (yield ask) if at_once else (yield from _ask(ask))
        if reply.failure is not None:
            return reply.failure
        if reply.unsound:
            return Failure(kind=FailureKind.DRIFTED, detail="the canary's vectors are not sound")
        matrices.append(reply.matrix)
    matrix = np.concatenate(matrices) if len(matrices) > 1 else matrices[0]
    if context.canary is not None and not context.canary.accepts(arrangement, matrix, context.max_input_length):
        cosine = context.canary.cosine(arrangement, matrix, context.max_input_length)
        return Failure(kind=FailureKind.DRIFTED, detail=f"the canary's vectors have drifted (cosine {cosine:.4f})")
    return None


def _ask(ask: Ask) -> Generator[Step, Reply, Reply]:
    """One request; overload is waited out."""
    for attempt in range(MAX_PAUSES):
        reply = yield ask
        if reply.failure is None or reply.failure.action is not Action.BACK_OFF:
            break
        yield Pause(pause_s(attempt))
    return reply


def pause_s(attempt: int) -> float:
    """Pause before an overloaded server is asked again, for the time after answer number `attempt` (from 0)."""
    return min(1.0, 0.02 * 2.0**attempt)
