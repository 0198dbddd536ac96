"""Embedding requests to one server: submit, poll, decode. The core that a run and a measurement share.

    requester = Requester(HttpClient(address, poller), route, dim=768, normalized=True)
    requester.submit([b'["a","b"]'], 2, timeout_s=30.0, tag="mine")
    for completion in requester.poll(timeout_s=0.1):
        if completion.failure is None:
            completion.decode_into(matrix[: completion.n_texts])
        completion.release()

It knows routes, answers and what an error means; it knows nothing of slots, retries or how many requests are wise.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import cast

from gpu_clients.errors import Failure, FailureKind, classify
from gpu_clients.http.client import HttpClient
from gpu_clients.http.connection import Buffer, Exchange
from gpu_clients.servers.routes import Route
from gpu_clients.vectors.decode import Matrix, VectorDecoder, error_in_answer, float_answer_cap_bytes
from gpu_clients.vectors.soundness import scale_to_unit, unsound_rows

_RAW_TYPE = b"application/octet-stream"
_JSON_TYPES = (b"application/json", b"text/json")


@dataclass(frozen=True, slots=True)
class ServerTimes:
    """What TEI says in the headers of an answer; means over the texts of the request, 0 when it does not say."""

    queue_s: float
    inference_s: float
    tokenization_s: float
    tokens: int | None
    total_s: float = 0.0
    """From the request's arrival to its answer: what its slowest text took."""


class Completion:
    """One request that came to an end; hold it until its answer is decoded, then `release` it.

    Attributes:
        tag: As given to `submit`.
        n_texts: Texts of the request.
        in_flight_texts: Texts in flight at the server once it had been sent, its own included.
        failure: Why there is no answer, or None.
        latency_s: From the first byte out to the last byte in.
        bytes_in, bytes_out: Sizes of the bodies.
        tokens: Tokens that the server counted, once known (with some servers only after `decode_into`).
    """

    __slots__ = (
        "_decoder", "_exchange", "_normalized", "_scale", "bytes_in", "bytes_out", "failure", "in_flight_texts",
        "latency_s", "n_texts", "tag", "tokens",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, decoder: VectorDecoder, *, normalized: bool, scale: bool) -> None:
        self._scale = scale
        self._exchange = exchange
        self._decoder = decoder
        self._normalized = normalized
        # put there by Requester.submit
        self.tag, self.n_texts, self.in_flight_texts = cast("tuple[object, int, int]", exchange.tag)
        self.latency_s = exchange.finished_s - exchange.started_s
        self.bytes_in = exchange.bytes_in
        self.bytes_out = exchange.bytes_out
        self.tokens: int | None = None
        self.failure: Failure | None = exchange.failure or _failure_of(exchange, is_raw=decoder.is_raw)
        if self.failure is not None:
            self.release()

    @property
    def status(self) -> int:
        """HTTP status, 0 without an answer."""
        return self._exchange.status

    @property
    def resent(self) -> bool:
        """Whether a stale kept-alive connection made it go out twice."""
        return self._exchange.resent

    def times(self) -> ServerTimes:
        """The server's own account of its time."""
        headers = self._exchange.headers
        tokens = headers.get(b"x-compute-tokens", b"")
        return ServerTimes(
            _milliseconds(headers.get(b"x-queue-time", b"")),
            _milliseconds(headers.get(b"x-inference-time", b"")),
            _milliseconds(headers.get(b"x-tokenization-time", b"")),
            int(tokens) if tokens.isdigit() else None,
            _milliseconds(headers.get(b"x-total-time", b"")),
        )

    def decode_into(self, out: Matrix) -> list[int]:
        """Decode the vectors into `out`, float32 (n_texts, dim); return the rows that are no sound vectors.

        Raises:
            BadAnswer: the answer is not what was asked for.
        """
        self.tokens = self._decoder.decode_into(self._exchange.body, out)
        if self._scale:
            scale_to_unit(out)
        return unsound_rows(out, normalized=self._normalized)

    def release(self) -> None:
        """Give the connection back; the answer must have been decoded."""
        self._exchange.release()


class Requester:
    """Embedding requests to one server over one route.

    Attributes:
        http: The connections.
        route: How a request is written.
        in_flight: Requests that have not completed.
        in_flight_texts: Texts of these; what the server's permits count.
    """

    def __init__(self, http: HttpClient, route: Route, *, dim: int, normalized: bool) -> None:
        self.http = http
        self.route = route
        self.in_flight = 0
        self.in_flight_texts = 0
        self._dim = dim
        self._normalized = normalized
        self._decoder = VectorDecoder(route.form, dim, is_indexed=route.is_indexed)

    def submit(
        self, texts: list[Buffer], n_texts: int, *, timeout_s: float, tag: object = None, fresh: bool = False
    ) -> Exchange:
        """Send a request; what is returned is good for `cancel`.

        Args:
            texts: Parts of the JSON array of texts; not copied, must stay until the completion.
            n_texts: Texts in the array.
            timeout_s: Time for the whole answer.
            tag: The caller's own mark.
            fresh: Whether it goes over a connection of its own.
        """
        route = self.route
        self.in_flight += 1
        self.in_flight_texts += n_texts
        return self.http.start(
            "POST",
            route.path,
            [route.prefix, *texts, route.suffix],
            deadline_s=time.monotonic() + timeout_s,
            max_body_bytes=float_answer_cap_bytes(n_texts, self._dim),
            tag=(tag, n_texts, self.in_flight_texts),
            fresh=fresh,
        )

    def completions(self) -> list[Completion]:
        """The requests that have come to an end since the last call."""
        finished = self.http.finished
        done = []
        while finished:
            completion = Completion(
                finished.popleft(), self._decoder, normalized=self._normalized, scale=self.route.scale
            )
            self.in_flight -= 1
            self.in_flight_texts -= completion.n_texts
            done.append(completion)
        return done

    def poll(self, timeout_s: float) -> list[Completion]:
        """Wait up to `timeout_s` for something to happen on the poller; return what has completed."""
        if not self.http.finished:
            self.http.poller.run(timeout_s)
            self.http.check_deadlines()
        return self.completions()

    def cancel(self, exchange: Exchange) -> None:
        """Give up a request: its connection is closed, no completion follows, its texts are not looked at any more."""
        if self.http.cancel(exchange):
            self.in_flight -= 1
            self.in_flight_texts -= cast("tuple[object, int, int]", exchange.tag)[1]

    def abandon(self) -> None:
        """Forget what is in flight and close the connections."""
        self.http.abandon()
        self.in_flight = 0
        self.in_flight_texts = 0


def _failure_of(exchange: Exchange, *, is_raw: bool) -> Failure | None:
    """The failure that an answer means; None for one whose body is worth decoding."""
    if exchange.status != 200:
        retry_after = exchange.headers.get(b"retry-after")
        return classify(
            exchange.status, exchange.body, retry_after=retry_after.decode("latin-1") if retry_after else None
        )
    kind, _, parameters = exchange.headers.get(b"content-type", b"").lower().partition(b";")
    kind = kind.strip()
    if is_raw:
        return None if kind == _RAW_TYPE else _failure_of_no_bytes(exchange, kind)
    if kind not in _JSON_TYPES and not kind.endswith(b"+json"):
        return Failure(kind=FailureKind.MALFORMED, detail=f"HTTP 200 with content type {kind[:40]!r}", status=200)
    if b"charset" in parameters and b"utf-8" not in parameters:
        return Failure(kind=FailureKind.MALFORMED, detail=f"HTTP 200 with {parameters[:40]!r}", status=200)
    return None


def _failure_of_no_bytes(exchange: Exchange, kind: bytes) -> Failure:
    """Bytes were asked for, and something else came: a gateway's error, or a server that does not know the form."""
    error = error_in_answer(exchange.body) if kind in _JSON_TYPES else None
    if error is not None:
        return Failure(kind=error.kind, detail=str(error), status=200)
    return Failure(kind=FailureKind.MALFORMED, detail=f"HTTP 200 with content type {kind[:40]!r}", status=200)


def _milliseconds(value: bytes) -> float:
    return int(value) / 1000 if value.isdigit() else 0.0
