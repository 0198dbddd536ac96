"""Asking a server's own tokenizer: how many tokens a text has, and what the server puts around every text.

`/tokenize` takes no permit, so it cannot cause a 429. It puts the server's default prompt before a text as embedding
does, and never cuts.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator
from typing import Any, cast

import orjson

from gpu_clients.errors import Failure, FailureKind, classify
from gpu_clients.http.client import HttpClient
from gpu_clients.http.connection import Exchange
from gpu_clients.server_facts import ServerFacts
from gpu_clients.servers.probe_request import ProbeFailed, ProbeRequest, ask, read_json
from gpu_clients.servers.side_requests import Count, Pause, Reply, SideRequest, SideRequests, Step
from gpu_clients.vectors.truncation import Suspects, Truncation, TruncationJudge

TIMEOUT_S = 60.0
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
"""After a count that failed; a server that is restarted is back by then, or its batches go elsewhere."""
_TOKENS_OF_A_LETTER = 2
"""The most that a tokenizer makes of one letter: a mark of a word's beginning, and the letter."""
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


def find_truncated(texts: list[str], suspects: Suspects, judge: TruncationJudge) -> Generator[Step, Reply, Truncation]:
    """The texts that were cut: those that surely were, and of the unsure ones what the tokenizer says.

    A tokenizer that does not answer is asked again; only when it never does, or there is none, does the estimate count.
    """
    cut, unsure = list(suspects.cut), suspects.unsure
    asked = [texts[number] for number in unsure]
    sizes = [len(text.encode()) for text in asked]
    counts: list[int] | None = None
    for pause_s in _PAUSES_S if judge.can_count and asked else ():
        reply = yield Count(orjson.dumps(asked), len(asked), sum(sizes))
        if reply.failure is None:
            counts = reply.counts
            break
        yield Pause(pause_s)
    if counts is None:
        guessed = [number for number in unsure if judge.estimate(texts[number])]
        return Truncation(cut + guessed, n_estimated=len(unsure))
    for number, n_bytes, n_tokens in zip(unsure, sizes, counts, strict=True):
        judge.learn(n_bytes, n_tokens)
        if judge.is_cut(n_tokens):
            cut.append(number)
    return Truncation(cut)


def ask_tokenizer(facts: ServerFacts) -> Generator[ProbeRequest, Exchange, ServerFacts]:
    """Note what the server's tokenizer puts around a one-letter text: special tokens, and a prompt of the server's own.

    A server without `/tokenize`, or with one that does not answer, keeps its facts as they are.
    """
    try:
        answer = yield from ask(ProbeRequest(method="POST", path="/tokenize", body=(b'{"inputs":["a"]}',)))
    except ProbeFailed as error:
        if error.failure.status is None:
            raise  # the server itself is gone
        return facts
    parsed = read_json(answer) if answer.status == 200 else None
    answer.release()
    if not (isinstance(parsed, list) and len(parsed) == 1 and isinstance(parsed[0], list)):
        return facts
    tokens = [token for token in parsed[0] if isinstance(token, dict)]
    plain = [token for token in tokens if not token.get("special")]
    return dataclasses.replace(
        facts, default_prompt=_text_before(plain), special_tokens=len(parsed[0]) - len(plain) if plain else None
    )


def _text_before(tokens: list[dict[str, Any]]) -> str | None:
    """What stands before the text "a" in its tokens; what a tokenizer throws away between them is shown as blanks."""
    if not tokens:
        return None
    stop = tokens[-1].get("stop")
    if type(stop) is not int or stop < 1:  # without places only a prompt of several tokens can be told
        words = [str(token.get("text", "")) for token in tokens]
        return " ".join(words[:-1]) if len(words) > _TOKENS_OF_A_LETTER else ""
    shown = [" "] * (stop - 1)
    for token in tokens:
        start, text = token.get("start"), token.get("text")
        if type(start) is int and isinstance(text, str):
            for place, character in enumerate(text, start):
                if place < len(shown):
                    shown[place] = character
    return "".join(shown)


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
