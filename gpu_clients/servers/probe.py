"""Examining one server: what it is, what it can do, which vectors it gives.

An examination is a generator of requests. The doctor drives it for all servers at once before a run, a client for its
own server when that comes back.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import orjson

from gpu_clients.errors import Action, Failure, FailureKind, classify
from gpu_clients.http.answers import BadAnswer
from gpu_clients.http.client import HttpClient
from gpu_clients.http.connection import Exchange
from gpu_clients.server_facts import OPENAI_BASE, EmbedOptions, ServerFacts
from gpu_clients.servers.canary import Arrangement, Canary, canary_body
from gpu_clients.servers.padding import QUICK_S, measure_padding
from gpu_clients.servers.probe_request import ProbeRequest
from gpu_clients.servers.routes import NATIVE_PATH, Route, choose_route
from gpu_clients.vectors.decode import AnswerForm, Matrix, VectorDecoder, float_answer_cap_bytes
from gpu_clients.vectors.soundness import repeated_rows, unsound_rows

_UNKNOWN_DIM = 16_384  # only for the cap on an answer
_MAX_OVERLOADED = 5


class ProbeFailed(Exception):
    """The server cannot be used.

    Attributes:
        failure: Why.
        misconfigured: Whether that is a matter of configuration (the wrong thing behind the URL, a wrong key, an
            option it cannot do) and not of a server that is down.
    """

    def __init__(self, failure: Failure, *, misconfigured: bool) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.misconfigured = misconfigured


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What came out.

    Attributes:
        facts: What the server says of itself.
        route: How it is asked.
        dim: Numbers in a vector.
        canary: Its vectors of the canary texts.
        prompt_tokens: Tokens that the server puts around a one-letter text by itself; None when it cannot say.
        pads: Whether its GPU batches are padded to the longest text; None when not measured, or not clear.
        warnings: Sentences for the user.
    """

    facts: ServerFacts
    route: Route
    dim: int
    canary: Canary
    prompt_tokens: int | None = None
    pads: bool | None = None
    warnings: tuple[str, ...] = field(default=())


_BASES = (OPENAI_BASE, "")
"""Where OpenAI-compatible servers have their routes: nearly all under /v1, Infinity without it."""
_LONG_WORDS = 40_000
_FEWEST_TOKENS_A_WORD = 0.5

ExaminationSteps = Generator[ProbeRequest, Exchange, Examination]
_Step = Generator[ProbeRequest, Exchange, Exchange]


def examine_server(server_kind: str, options: EmbedOptions, *, with_padding: bool = False) -> ExaminationSteps:
    """Ask `/info` (or `/v1/models`), then for the canary texts.

    Args:
        with_padding: Whether to measure if the server pads, which takes it up to a second or two.

    Raises:
        ProbeFailed: the server does not answer, or cannot do what is asked of it.
    """
    facts = yield from _identify(server_kind, options)
    if facts.kind == "openai" and not options.normalize:
        raise _misfit("an OpenAI-compatible server has no option for vectors that are not normalised")
    if facts.kind == "tei" and facts.auto_truncate is None and not options.truncate:
        raise _misfit("the server does not say whether it truncates")
    facts, route, mixed = yield from _first_vectors(facts, options)
    _check_sound(mixed, options)
    if repeated_rows(mixed):
        raise _misfit("the server gives the same vector for different texts")
    began_s = time.monotonic()
    equal = yield from _embed(route, Arrangement.EQUAL, facts, mixed.shape[1])
    is_quick = time.monotonic() - began_s < QUICK_S
    _check_sound(equal, options)
    canary = Canary.of(mixed, equal)
    warnings = []
    if canary.neighbours_matter():
        warnings.append("a long text's vector changes with its peers in a batch (cosine below 0.999)")
    prompt_tokens = (yield from _count_prompt_tokens()) if facts.kind == "tei" else None
    if facts.kind == "openai" and not options.truncate:
        yield from _require_refusal_of_long_texts(route)
    pads = (yield from measure_padding(route, facts, mixed.shape[1])) if with_padding and is_quick else None
    return Examination(
        facts=facts,
        route=route,
        dim=mixed.shape[1],
        canary=canary,
        prompt_tokens=prompt_tokens,
        pads=pads,
        warnings=tuple(warnings),
    )


class ServerProbe:
    """Drives the examination of one server over connections of its own; the owner of the poller calls `advance`.

    Attributes:
        outcome: What came out, or None while it goes on.
    """

    def __init__(self, http: HttpClient, steps: ExaminationSteps, *, timeout_s: float) -> None:
        self.outcome: Examination | ProbeFailed | None = None
        self._http = http
        self._steps = steps
        self._timeout_s = timeout_s
        self._request: ProbeRequest | None = None
        self._due_s = 0.0
        self._give(None)

    def advance(self) -> bool:
        """Do what can be done now; True once there is an outcome."""
        http = self._http
        http.check_deadlines()
        while http.finished and self.outcome is None:
            self._give(http.finished.popleft())
        now_s = time.monotonic()
        if self._request is not None and now_s >= self._due_s:
            request, self._request = self._request, None
            http.start(
                request.method,
                request.path,
                request.body,
                deadline_s=now_s + self._timeout_s,
                max_body_bytes=request.max_body_bytes,
            )
        return self.outcome is not None

    def close(self) -> None:
        """Close the connections."""
        self._http.abandon()

    def _give(self, exchange: Exchange | None) -> None:
        """Give an answer to the examination and take its next request, or its end."""
        try:
            self._request = next(self._steps) if exchange is None else self._steps.send(exchange)
            self._due_s = time.monotonic() + self._request.pause_s
        except StopIteration as end:
            self.outcome = end.value
        except ProbeFailed as error:
            self.outcome = error


def _identify(server_kind: str, options: EmbedOptions) -> Generator[ProbeRequest, Exchange, ServerFacts]:
    if server_kind != "openai":
        info = yield from _ask(ProbeRequest(method="GET", path="/info"))
        facts = _read_info(_json(info)) if info.status == 200 else None
        status = info.status
        info.release()
        if facts is not None:
            return facts
        if server_kind == "tei" or status in (401, 403):
            why = (
                "wants another API key"
                if status in (401, 403)
                else f"answers /info with HTTP {status}, not as TEI does"
            )
            raise _misfit(f"the server {why}")
    for base in _BASES:
        models = yield from _ask(ProbeRequest(method="GET", path=f"{base}/models"))
        listed = _model_names(_json(models)) if models.status == 200 else []
        status = models.status
        models.release()
        if status in (401, 403):
            raise _misfit("the server wants another API key")
        if listed:
            if options.model is not None and options.model not in listed:
                raise _misfit(f"the server has no model {options.model!r}, it lists {', '.join(listed[:5])}")
            return ServerFacts(kind="openai", model_id=options.model or listed[0], openai_base=base)
    if server_kind == "openai" and options.model:
        return ServerFacts(kind="openai", model_id=options.model, openai_base=None)
    if server_kind == "openai":
        raise _misfit(f"it does not list its models at /v1/models (HTTP {status}): name the model with --model")
    raise _misfit(f"neither /info nor /v1/models is answered as an embedding server does (HTTP {status})")


def _first_vectors(
    facts: ServerFacts, options: EmbedOptions
) -> Generator[ProbeRequest, Exchange, tuple[ServerFacts, Route, Matrix]]:
    """The canary's vectors over the best route that works; when none does, it is the best one's failure that counts."""
    first: ProbeFailed | None = None
    forms: list[str | None] = [AnswerForm.BASE64.value, AnswerForm.OPENAI_FLOATS.value]
    bases = _BASES if facts.openai_base is None else (facts.openai_base,)
    ways = [(base, form) for base in bases for form in forms]
    if facts.kind == "tei":
        ways.append((OPENAI_BASE, None))
    for base, form in ways:
        facts = dataclasses.replace(facts, form=form, openai_base=base)
        route = choose_route(facts, options)
        try:
            matrix = yield from _embed(route, Arrangement.MIXED, facts, None)
            return facts, route, matrix
        except ProbeFailed as error:
            first = first or error
            if route.path == NATIVE_PATH or not error.misconfigured:
                break
    assert first is not None
    raise first


def _embed(
    route: Route, arrangement: Arrangement, facts: ServerFacts, dim: int | None
) -> Generator[ProbeRequest, Exchange, Matrix]:
    body, n_texts = canary_body(arrangement, facts.max_input_length)
    if facts.max_client_batch_size is not None and facts.max_client_batch_size < n_texts:
        raise _misfit(f"the server takes {facts.max_client_batch_size} texts in a request, at least 3 are needed")
    answer = yield from _ask(
        ProbeRequest(
            method="POST",
            path=route.path,
            body=(route.prefix, body, route.suffix),
            max_body_bytes=float_answer_cap_bytes(n_texts, dim or _UNKNOWN_DIM),
        )
    )
    try:
        if answer.status != 200:
            failure = classify(answer.status, answer.body)
            # a validation error on texts that every server can take is a matter of options, not of health
            misfit = failure.action is Action.SUSPECT_SERVER or failure.kind in (
                FailureKind.REJECTED,
                FailureKind.PAYLOAD,
            )
            raise ProbeFailed(failure, misconfigured=misfit)
        matrix = VectorDecoder(route.form, dim).decode(answer.body, n_texts)
    except BadAnswer as error:
        raise ProbeFailed(Failure(kind=error.kind, detail=str(error)), misconfigured=True) from error
    finally:
        answer.release()
    return matrix


def _check_sound(matrix: Matrix, options: EmbedOptions) -> None:
    if unsound_rows(matrix, normalized=options.normalize):
        what = "not normalised, not finite or constant" if options.normalize else "not finite, zero or constant"
        raise _misfit(f"the server's vectors are {what}")


def _count_prompt_tokens() -> Generator[ProbeRequest, Exchange, int | None]:
    """Tokens of a one-letter text without special tokens; more than a few mean that the server has a prompt."""
    answer = yield from _ask(
        ProbeRequest(method="POST", path="/tokenize", body=(b'{"inputs":["a"],"add_special_tokens":false}',))
    )
    parsed = _json(answer) if answer.status == 200 else None
    answer.release()
    if isinstance(parsed, list) and len(parsed) == 1 and isinstance(parsed[0], list):
        return len(parsed[0])
    return None


def _require_refusal_of_long_texts(route: Route) -> Generator[ProbeRequest, Exchange, None]:
    """See that a server which takes no option for it does not cut texts without saying so.

    Raises:
        ProbeFailed: it embeds a text of 40,000 words, and does not say that it has read all of it.
    """
    body = orjson.dumps(["word " * _LONG_WORDS])
    request = ProbeRequest(
        method="POST",
        path=route.path,
        body=(route.prefix, body, route.suffix),
        max_body_bytes=float_answer_cap_bytes(1, _UNKNOWN_DIM),
    )
    try:
        answer = yield from _ask(request)
    except ProbeFailed as error:
        if error.failure.status is None:
            raise
        return  # refused with a 5xx, as llama.cpp does
    usage = _json(answer) if answer.status == 200 else None
    refused = answer.status != 200
    answer.release()
    usage = usage.get("usage") if isinstance(usage, dict) else None
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if not refused and (not isinstance(tokens, int) or tokens < _FEWEST_TOKENS_A_WORD * _LONG_WORDS):
        raise _misfit(
            "the server cuts texts that are too long without saying so, which --no-truncate forbids: configure it to "
            "refuse them, or run with --truncate"
        )


def _ask(request: ProbeRequest) -> _Step:
    """One exchange; overload is waited out, no answer at all is a failed probe."""
    for attempt in range(_MAX_OVERLOADED):
        exchange = yield request
        if exchange.failure is not None:
            failure = exchange.failure
            wrong = failure.kind is FailureKind.WRONG_SERVICE
            raise ProbeFailed(failure, misconfigured=wrong)
        if exchange.status < 500 and exchange.status != 429:
            if 300 <= exchange.status < 400:
                status = exchange.status
                exchange.release()
                raise _misfit(f"the server redirects (HTTP {status}), which is never followed: name its real URL")
            return exchange
        failure = classify(exchange.status, exchange.body)
        exchange.release()
        if failure.action is not Action.BACK_OFF:
            break
        request = dataclasses.replace(request, pause_s=0.05 * 2**attempt)
    raise ProbeFailed(failure, misconfigured=False)


def _misfit(sentence: str) -> ProbeFailed:
    return ProbeFailed(Failure(kind=FailureKind.WRONG_SERVICE, detail=sentence), misconfigured=True)


def _json(exchange: Exchange) -> Any:
    try:
        return orjson.loads(exchange.body)
    except orjson.JSONDecodeError:
        return None


def _model_names(parsed: Any) -> list[str]:
    data = parsed.get("data") if isinstance(parsed, dict) else None
    return (
        [str(item["id"]) for item in data if isinstance(item, dict) and "id" in item] if isinstance(data, list) else []
    )


def _read_info(parsed: Any) -> ServerFacts | None:
    """The facts in an answer of `/info`; None when it is not TEI's.

    Raises:
        ProbeFailed: it is TEI, but does not serve an embedding model.
    """
    if not isinstance(parsed, dict) or "model_id" not in parsed or "max_concurrent_requests" not in parsed:
        return None
    model_type = parsed.get("model_type")
    embedding = model_type.get("embedding") if isinstance(model_type, dict) else None
    if isinstance(model_type, dict) and not isinstance(embedding, dict):
        raise _misfit(
            f"the server's model {parsed['model_id']!r} is a {', '.join(map(str, model_type))}, no embedding model"
        )
    pooling = embedding.get("pooling") if isinstance(embedding, dict) else None

    def number(name: str) -> int | None:
        value = parsed.get(name)
        return value if type(value) is int else None

    def text(name: str) -> str | None:
        value = parsed.get(name)
        return value if isinstance(value, str) else None

    truncates = parsed.get("auto_truncate")
    return ServerFacts(
        kind="tei",
        model_id=str(parsed["model_id"]),
        model_sha=text("model_sha"),
        dtype=text("model_dtype"),
        pooling=pooling if isinstance(pooling, str) else None,
        version=text("version"),
        max_input_length=number("max_input_length"),
        max_client_batch_size=number("max_client_batch_size"),
        max_concurrent_requests=number("max_concurrent_requests"),
        max_batch_tokens=number("max_batch_tokens"),
        max_batch_requests=number("max_batch_requests"),
        auto_truncate=truncates if isinstance(truncates, bool) else None,
        tokenization_workers=number("tokenization_workers"),
    )
