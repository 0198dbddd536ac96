"""Examining one server: what it is, what it can do, which vectors it gives.

An examination is a generator of requests. The doctor drives it for all servers at once before a run, a client for its
own server when that comes back.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import time
from collections.abc import Generator
from dataclasses import dataclass, field

import orjson

from gpu_clients.errors import FailureKind
from gpu_clients.http.client import HttpClient
from gpu_clients.http.connection import Exchange
from gpu_clients.server_facts import OPENAI_BASE, EmbedOptions, ServerFacts
from gpu_clients.servers.canary import Arrangement, Canary
from gpu_clients.servers.canary_request import UNKNOWN_DIM, embed_canary, raw_if_it_can
from gpu_clients.servers.identity import BASES, identify
from gpu_clients.servers.measured.frontend import FrontendCost, measure_frontend
from gpu_clients.servers.measured.neighbours import Neighbours, measure_neighbours
from gpu_clients.servers.measured.padding import QUICK_S, measure_padding
from gpu_clients.servers.probe_request import ProbeFailed, ProbeRequest, ask, misfit, read_json
from gpu_clients.servers.repeated_looks import look_again
from gpu_clients.servers.routes import NATIVE_PATH, Route, choose_route
from gpu_clients.servers.tokenizer import ask_tokenizer
from gpu_clients.vectors.decode import AnswerForm, Matrix, float_answer_cap_bytes
from gpu_clients.vectors.soundness import MIN_COSINE, lowest_cosine, repeated_rows, scale_to_unit, unsound_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What came out.

    Attributes:
        facts: What the server says of itself.
        route: How it is asked.
        dim: Numbers in a vector.
        canary: Its vectors of the canary texts.
        pads: Whether its GPU batches are padded to the longest text; None when not measured, or not clear.
        neighbours: Whether long texts' vectors hang on their neighbours; None when not measured.
        frontend: What a text costs its HTTP side and its model; only of vLLM, None when not measured.
        warnings: Sentences for the user.
    """

    facts: ServerFacts
    route: Route
    dim: int
    canary: Canary
    pads: bool | None = None
    neighbours: Neighbours | None = None
    frontend: FrontendCost | None = None
    warnings: tuple[str, ...] = field(default=())


class LongTexts(enum.Enum):
    """How closely is looked whether long texts' vectors hang on their neighbours."""

    NOT = "not"
    BRIEFLY = "briefly"
    CLOSELY = "closely"


SLOW_TEXT_S = 0.25
"""A server that takes longer for a long text gets longer deadlines, and canaries less often."""
_CANARY_TOKENS = (None, 256, 64)
"""Canary texts get shorter until a server takes them that does not say how long a text may be."""
_MAY_BE_TOO_LONG = (FailureKind.REJECTED, FailureKind.PAYLOAD, FailureKind.TOO_LONG, FailureKind.BACKEND)
_CHEAP_TOKENS = 4_096
_LONG_WORDS = 40_000
_FEWEST_TOKENS_A_WORD = 0.5

ExaminationSteps = Generator[ProbeRequest, Exchange, Examination]


def examine_server(
    server_kind: str, options: EmbedOptions, *, with_padding: bool = False, long_texts: LongTexts = LongTexts.NOT
) -> ExaminationSteps:
    """Ask `/info` (or `/v1/models`), then for the canary texts, then for both again over fresh connections.

    Args:
        with_padding: Whether to measure if the server pads, which takes it up to a second or two.
        long_texts: How closely to look whether long texts' vectors hang on their neighbours; only of TEI that may pad.

    Raises:
        ProbeFailed: the server does not answer, or cannot do what is asked of it.
    """
    identity = yield from identify(server_kind, options)
    facts, warnings = identity.facts, list(identity.warnings)
    if facts.kind == "tei" and facts.auto_truncate is None and not options.truncate:
        raise misfit("the server does not say whether it truncates")
    try:
        facts, mixed = yield from _first_vectors(facts, options)
    except ProbeFailed as error:
        if not warnings or not error.misconfigured:
            raise
        raise misfit(f"{error.failure.detail}; {warnings[0]}") from error
    if facts.is_vllm:
        facts = yield from raw_if_it_can(facts, options, mixed)
    facts = _note_length(facts, mixed, options, warnings)
    route = choose_route(facts, options)
    if route.scale:
        scale_to_unit(mixed)
    _check_sound(mixed, options)
    if repeated_rows(mixed):
        raise misfit("the server gives the same vector for different texts")
    began_s = time.monotonic()
    equal, _ = yield from embed_canary(route, Arrangement.EQUAL, facts, mixed.shape[1])
    took_s = time.monotonic() - began_s
    is_quick = took_s < QUICK_S
    if took_s > 2 * SLOW_TEXT_S:
        facts = dataclasses.replace(facts, seconds_a_text=round(took_s / 2, 2))
    _check_sound(equal, options)
    seen = {Arrangement.MIXED: mixed, Arrangement.EQUAL: equal}
    yield from look_again(server_kind, options, facts, route, seen)
    short = seen.get(Arrangement.SHORT)
    if short is not None and lowest_cosine(short, mixed[:1]) >= MIN_COSINE:
        facts = dataclasses.replace(facts, short_is_steady=True)
    canary = Canary.of(mixed, equal, facts.canary_limit)
    if not facts.is_indexed and not lowest_cosine(mixed[2:], equal[:1]) >= MIN_COSINE:
        raise misfit("the server does not say which vector belongs to which text, nor keep them in order")
    if canary.neighbours_matter():
        warnings.append("a long text's vector changes with its peers in a batch (cosine below 0.999)")
    if facts.kind == "tei":
        facts = yield from ask_tokenizer(facts)
    if facts.kind == "openai" and options.truncate and facts.auto_truncate is None:
        facts = dataclasses.replace(facts, auto_truncate=(yield from _cuts_long_texts(route, facts.max_input_length)))
    if facts.kind == "openai" and not options.truncate:
        yield from _require_refusal_of_long_texts(route)
    pads = (yield from measure_padding(route, facts, mixed.shape[1])) if with_padding and is_quick else None
    neighbours = None
    if facts.kind == "tei" and is_quick and pads is not False and long_texts is not LongTexts.NOT:
        thorough = long_texts is LongTexts.CLOSELY
        neighbours = yield from measure_neighbours(
            route, facts, mixed.shape[1], cuts=options.truncate, thorough=thorough
        )
        if neighbours.matter_from is not None:
            warnings.append(
                f"a text of {neighbours.matter_from:,} tokens has another vector among texts of equal length (cosine "
                f"{neighbours.cosine:.4f}), as with TEI's Gemma3 beyond half of its window: a run keeps such texts "
                "apart as far as it can (docs/servers.md)"
            )
    frontend = None
    if facts.is_vllm and with_padding and is_quick:
        frontend = yield from measure_frontend(route, mixed.shape[1])
    return Examination(
        facts=facts,
        route=route,
        dim=mixed.shape[1],
        canary=canary,
        pads=pads,
        neighbours=neighbours,
        frontend=frontend,
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
                deadline_s=now_s + self._timeout_s * request.n_timeouts,
                max_body_bytes=request.max_body_bytes,
                fresh=request.fresh,
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


def _first_vectors(
    facts: ServerFacts, options: EmbedOptions
) -> Generator[ProbeRequest, Exchange, tuple[ServerFacts, Matrix]]:
    """The canary's vectors over the best route that works; when none does, it is the best one's failure that counts."""
    first: ProbeFailed | None = None
    for tokens in _CANARY_TOKENS:
        if tokens is not None and facts.max_input_length is not None and facts.max_input_length <= tokens:
            continue
        may_be_too_long = False
        for way in _ways(facts):
            asked = dataclasses.replace(way, canary_tokens=tokens)
            route = choose_route(asked, options)
            try:
                matrix, is_indexed = yield from embed_canary(route, Arrangement.MIXED, asked, None)
            except ProbeFailed as error:
                first = first or error
                may_be_too_long = may_be_too_long or error.failure.kind in _MAY_BE_TOO_LONG
                if route.path == NATIVE_PATH or not (error.misconfigured or error.failure.kind in _MAY_BE_TOO_LONG):
                    raise first from None
            else:
                cuts = True if asked.cuts_with is not None and options.truncate else asked.auto_truncate
                return dataclasses.replace(asked, is_indexed=is_indexed, auto_truncate=cuts), matrix
        if not may_be_too_long:
            break
    assert first is not None
    raise first


def _ways(facts: ServerFacts) -> list[ServerFacts]:
    """How a server may want to be asked, the best way first."""
    bases = BASES if facts.openai_base is None else (facts.openai_base, *(b for b in BASES if b != facts.openai_base))
    fields = dict.fromkeys((facts.cuts_with, None))
    if facts.kind == "tei":
        bases = (OPENAI_BASE,)
    forms = (AnswerForm.BASE64.value, AnswerForm.OPENAI_FLOATS.value)
    ways = [
        dataclasses.replace(facts, form=form, openai_base=base, cuts_with=cuts_with)
        for base, cuts_with, form in itertools.product(bases, fields, forms)
    ]
    if facts.kind == "tei":
        ways.append(dataclasses.replace(facts, form=None, openai_base=OPENAI_BASE))
    return ways


def _note_length(facts: ServerFacts, matrix: Matrix, options: EmbedOptions, warnings: list[str]) -> ServerFacts:
    """Note whether vectors have length 1; what an OpenAI-compatible server leaves undone, the client does."""
    if facts.kind == "tei" or unsound_rows(matrix, normalized=False):
        return facts
    is_unit = not unsound_rows(matrix, normalized=True)
    if options.normalize and not is_unit:
        warnings.append("its vectors are not normalised: the client scales them to length 1")
    if not options.normalize and is_unit:
        warnings.append("its vectors have length 1, though --no-normalize is given: it has no option for others")
    return dataclasses.replace(facts, unit_length=is_unit)


def _check_sound(matrix: Matrix, options: EmbedOptions) -> None:
    if unsound_rows(matrix, normalized=options.normalize):
        what = "not normalised, not finite or constant" if options.normalize else "not finite, zero or constant"
        raise misfit(f"the server's vectors are {what}")


def _cuts_long_texts(route: Route, limit_tokens: int | None) -> Generator[ProbeRequest, Exchange, bool | None]:
    """Whether a server cuts a text longer than it says it takes; None when it does not say, or would take long."""
    if limit_tokens is None or limit_tokens > _CHEAP_TOKENS:
        return None
    body = orjson.dumps(["word " * (2 * limit_tokens)])
    request = ProbeRequest(
        method="POST",
        path=route.path,
        body=(route.prefix, body, route.suffix),
        max_body_bytes=float_answer_cap_bytes(1, UNKNOWN_DIM),
    )
    try:
        answer = yield from ask(request)
    except ProbeFailed as error:
        return None if error.failure.status is None else False
    cuts = answer.status == 200
    answer.release()
    return cuts


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
        max_body_bytes=float_answer_cap_bytes(1, UNKNOWN_DIM),
    )
    try:
        answer = yield from ask(request)
    except ProbeFailed as error:
        if error.failure.status is None:
            raise
        return  # refused with a 5xx, as llama.cpp does
    usage = read_json(answer) if answer.status == 200 else None
    refused = answer.status != 200
    answer.release()
    usage = usage.get("usage") if isinstance(usage, dict) else None
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if not refused and (not isinstance(tokens, int) or tokens < _FEWEST_TOKENS_A_WORD * _LONG_WORDS):
        raise misfit(
            "the server cuts texts that are too long without saying so, which --no-truncate forbids: configure it to "
            "refuse them, or run with --truncate"
        )
