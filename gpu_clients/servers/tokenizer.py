"""Counting tokens with a server's own tokenizer (`/tokenize` takes no permit, so it cannot cause a 429)."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import cast

import orjson

from gpu_clients.errors import Failure, FailureKind, classify
from gpu_clients.http.client import HttpClient
from gpu_clients.http.connection import Exchange
from gpu_clients.servers.side_requests import Count, Reply, SideRequest, SideRequests, Step
from gpu_clients.vectors.truncation import Suspects, TruncationJudge

TIMEOUT_S = 60.0
_BYTES_PER_TOKEN = 200
"""A generous size of one token in the answer: `{"id":..,"text":..,"special":..,"start":..,"stop":..}`."""


class TokenCounter:
    """Counts tokens for side requests, over a connection of its own."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def count(self, side_request: SideRequest, step: Count) -> None:
        """Send the request."""
        self._http.start(
            "POST",
            "/tokenize",
            [b'{"inputs":', step.body, b"}"],
            deadline_s=time.monotonic() + TIMEOUT_S,
            max_body_bytes=10_000 + step.n_bytes * _BYTES_PER_TOKEN,
            tag=(side_request, step.n_texts),
        )

    def take(self, side_requests: SideRequests) -> None:
        """Pass the answers on."""
        finished = self._http.finished
        while finished:
            exchange = finished.popleft()
            side_request, n_texts = cast("tuple[SideRequest, int]", exchange.tag)
            reply = _read(exchange, n_texts)
            exchange.release()
            side_requests.reply(side_request, reply, time.monotonic())

    def check_deadlines(self) -> None:
        """Fail what is overdue."""
        self._http.check_deadlines()


def find_truncated(
    texts: list[str], suspects: Suspects, judge: TruncationJudge, *, can_count: bool = True
) -> Generator[Step, Reply, list[int]]:
    """The texts that were cut: those that surely were, and of the unsure ones what the tokenizer says.

    Args:
        can_count: Whether the server has TEI's `/tokenize`; otherwise the estimate counts.
    """
    cut = list(suspects.cut)
    limit = judge.limit_tokens
    asked = [texts[number] for number in suspects.unsure]
    if asked and not can_count:
        cut += [number for number in suspects.unsure if judge.estimate(texts[number])]
    elif asked and limit is not None:
        sizes = [len(text.encode()) for text in asked]
        reply = yield Count(orjson.dumps(asked), len(asked), sum(sizes))
        if reply.failure is not None:
            cut += [number for number in suspects.unsure if judge.estimate(texts[number])]
        else:
            for number, n_bytes, n_tokens in zip(suspects.unsure, sizes, reply.counts, strict=True):
                judge.learn(n_bytes, n_tokens)
                if n_tokens > limit:
                    cut.append(number)
    return cut


def _read(exchange: Exchange, n_texts: int) -> Reply:
    if exchange.failure is not None:
        return Reply(failure=exchange.failure)
    if exchange.status != 200:
        return Reply(failure=classify(exchange.status, exchange.body))
    try:
        parsed = orjson.loads(exchange.body)
    except orjson.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, list) or len(parsed) != n_texts or not all(isinstance(item, list) for item in parsed):
        return Reply(failure=Failure(kind=FailureKind.MALFORMED, detail="/tokenize answers something else", status=200))
    return Reply(counts=[len(item) for item in parsed])
