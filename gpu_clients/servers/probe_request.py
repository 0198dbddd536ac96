"""What an examination of a server wants to be sent, and how it ends when the server cannot be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import orjson

from gpu_clients.errors import Action, Failure, FailureKind, classify
from gpu_clients.http.connection import Exchange

INFO_BYTES = 1 << 20
_MAX_OVERLOADED = 5
WANTS_KEY = "the server wants an API key, or another API key: give it in ENGINE_TEI_API_KEY or --tei-api-key-file"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRequest:
    """A request that an examination wants to be sent.

    Attributes:
        method: `GET` or `POST`.
        path: Path on the server.
        body: Parts of the body.
        max_body_bytes: Cap on the answer's body.
        pause_s: Seconds to wait before.
        fresh: Whether it goes over a connection of its own.
        n_timeouts: How many times as long as usual it may take: an embedding of long texts on a slow server.
    """

    method: str
    path: str
    body: tuple[bytes, ...] = ()
    max_body_bytes: int = INFO_BYTES
    pause_s: float = 0.0
    fresh: bool = False
    n_timeouts: int = 1


class ProbeFailed(Exception):
    """The server cannot be used.

    Attributes:
        failure: Why.
        misconfigured: Whether that is a matter of configuration (the wrong thing behind the URL, a wrong key, an
            option it cannot do) and not of a server that is down.
        several: Whether unlike backends answer behind its URL.
    """

    def __init__(self, failure: Failure, *, misconfigured: bool, several: bool = False) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.misconfigured = misconfigured
        self.several = several


def misfit(sentence: str) -> ProbeFailed:
    """The server cannot be used as it is, or as it is asked for."""
    return ProbeFailed(Failure(kind=FailureKind.WRONG_SERVICE, detail=sentence), misconfigured=True)


def ask(request: ProbeRequest, *, any_status: bool = False) -> Generator[ProbeRequest, Exchange, Exchange]:
    """One exchange; overload is waited out, no answer at all is a failed probe.

    Args:
        any_status: Whether every status is an answer; otherwise 3xx and 5xx are failed probes.

    Raises:
        ProbeFailed: there is no answer.
    """
    for attempt in range(_MAX_OVERLOADED):
        exchange = yield request
        if exchange.failure is not None:
            failure = exchange.failure
            wrong = failure.kind is FailureKind.WRONG_SERVICE
            raise ProbeFailed(failure, misconfigured=wrong)
        status = exchange.status
        if status != 429 and (any_status or status < 300 or 400 <= status < 500):
            return exchange
        failure = classify(status, exchange.body)
        exchange.release()
        if status < 400:
            raise redirected(status)
        if failure.action is not Action.BACK_OFF:
            break
        request = dataclasses.replace(request, pause_s=0.05 * 2**attempt)
    raise ProbeFailed(failure, misconfigured=False)


def redirected(status: int) -> ProbeFailed:
    """It sends us elsewhere."""
    return misfit(f"the server redirects (HTTP {status}), which is never followed: name its real URL")


def read_json(exchange: Exchange) -> Any:
    """An answer's body as JSON values; None when it is no JSON."""
    try:
        return orjson.loads(exchange.body)
    except orjson.JSONDecodeError:
        return None
