"""What stands behind a URL: TEI by its `/info`, any other embedding server by the models it lists, or by `--model`.

Servers that speak `/v1/embeddings` agree on little else. What they list, and what they answer on routes that a run
does not need (redirects, 401, a page for people), is taken as a hint: only the embeddings have to be right.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from gpu_clients.errors import classify
from gpu_clients.http.connection import Exchange
from gpu_clients.server_facts import OPENAI_BASE, EmbedOptions, ServerFacts
from gpu_clients.servers.probe_request import WANTS_KEY, ProbeFailed, ProbeRequest, ask, misfit, read_json, redirected

BASES = (OPENAI_BASE, "")
"""Where OpenAI-compatible servers have their routes: nearly all under /v1, Infinity without it."""
_NAMES = ("id", "name", "model")
_LENGTHS = (
    "max_model_len", "max_input_length", "max_context_length", "context_length", "context_window", "max_input_tokens",
    "n_ctx", "n_ctx_train",
)  # fmt: skip
_NO_EMBEDDINGS = ("llm", "vlm", "chat", "completion", "language", "image", "audio", "rerank")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """A model that a server lists.

    Attributes:
        name: How it is asked for.
        max_input_length: Tokens of one text, if it says so.
        root: Which weights it stands for, if it says so; names of one root are one model.
        maker: Which software serves it, if it says so.
        embeds: Whether it may be an embedding model.
    """

    name: str
    max_input_length: int | None = None
    root: str | None = None
    maker: str | None = None
    embeds: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What stands behind a URL.

    Attributes:
        facts: What it says of itself.
        warnings: Sentences for the user.
    """

    facts: ServerFacts
    warnings: tuple[str, ...] = ()


def identify(
    server_kind: str, options: EmbedOptions, *, fresh: bool = False
) -> Generator[ProbeRequest, Exchange, Identity]:
    """Ask `/info`, then for the models.

    Args:
        fresh: Whether each request goes over a connection of its own.

    Raises:
        ProbeFailed: it is no embedding server, or the model to ask for is not known.
    """
    refusals: list[ProbeFailed] = []
    if server_kind != "openai":
        parsed = yield from _optional("/info", refusals, fresh=fresh)
        facts = read_info(parsed)
        if facts is not None:
            return Identity(facts=facts)
        if server_kind == "tei":
            raise _clearest(refusals) or misfit("the server does not answer /info as TEI does")
    for base in BASES:
        listed = read_models((yield from _optional(f"{base}/models", refusals, fresh=fresh)))
        if listed:
            software = None if fresh else (yield from _software())
            return _choose(listed, base, options, software)
    if options.model is not None:
        return Identity(facts=ServerFacts(kind="openai", model_id=options.model, openai_base=None))
    if server_kind == "openai":
        raise _clearest(refusals) or misfit("it does not list its models at /v1/models: name the model with --model")
    raise _clearest(refusals) or misfit("neither /info nor /v1/models is answered as an embedding server does")


def _optional(path: str, refusals: list[ProbeFailed], *, fresh: bool) -> Generator[ProbeRequest, Exchange, Any]:
    """The JSON of a route that a server need not have; None without one, and then why, if that says something."""
    answer = yield from ask(ProbeRequest(method="GET", path=path, fresh=fresh), any_status=True)
    status = answer.status
    parsed = read_json(answer) if status == 200 else None
    failure = classify(status, answer.body) if status != 200 else None
    answer.release()
    if status in (401, 403):
        refusals.append(misfit(WANTS_KEY))
    elif 300 <= status < 400:
        refusals.append(redirected(status))
    elif failure is not None and status >= 500:
        refusals.append(ProbeFailed(failure, misconfigured=False))
    return parsed


def _software() -> Generator[ProbeRequest, Exchange, str | None]:
    """`vllm 0.11.0` for vLLM, which alone answers `/version` with nothing but its version."""
    try:
        parsed = yield from _optional("/version", [], fresh=False)
    except ProbeFailed:
        return None
    version = parsed.get("version") if isinstance(parsed, dict) and len(parsed) == 1 else None
    return f"vllm {version}" if isinstance(version, str) and version else None


def _clearest(refusals: list[ProbeFailed]) -> ProbeFailed | None:
    """A server that is only starting is waited for, whatever else it says."""
    return next((refusal for refusal in refusals if not refusal.misconfigured), refusals[0] if refusals else None)


def _choose(listed: list[ListedModel], base: str, options: EmbedOptions, software: str | None) -> Identity:
    """The model to ask for: the one that is wanted, or the only one there is.

    Raises:
        ProbeFailed: there are several, and none is wanted.
    """
    names = ", ".join(model.name for model in listed[:5]) + (", ..." if len(listed) > 5 else "")
    wanted, warnings = options.model, []
    chosen: ListedModel | None
    if wanted is not None:
        exact = [model for model in listed if model.name == wanted]
        alike = [model for model in listed if _plain(model.name) == _plain(wanted)]
        chosen = next(iter(exact + alike), None)
        if chosen is None:
            warnings.append(f"it does not list a model {wanted!r} (but {names}); whether it serves it, only it knows")
    else:
        able = [model for model in listed if model.embeds] or listed
        if len(able) > 1 and (able[0].root is None or len({model.root for model in able}) > 1):
            raise misfit(f"the server lists several models ({names}): name one with --model")
        chosen = able[0]
    limit = chosen.max_input_length if chosen else None
    if software is None and chosen is not None and chosen.maker == "vllm":
        software = "vllm"
    facts = ServerFacts(
        kind="openai",
        model_id=wanted or (chosen.name if chosen else ""),
        openai_base=base,
        max_input_length=limit,
        cuts_with="truncate_prompt_tokens" if software is not None else None,
        software=software,
    )
    return Identity(facts=facts, warnings=tuple(warnings))


def _plain(name: str) -> str:
    """A model's name without what servers put around it."""
    return name.lower().removeprefix("models/").removesuffix(":latest")


def read_models(parsed: Any) -> list[ListedModel]:
    """The models of a listing: OpenAI's `{"data": [...]}`, a bare list, or `{"models": [...]}`."""
    entries = parsed
    if isinstance(parsed, dict):
        entries = parsed.get("data") or parsed.get("models")
    models = [_read_model(entry) for entry in entries] if isinstance(entries, list) else []
    return [model for model in models if model is not None]


def _read_model(entry: Any) -> ListedModel | None:
    if isinstance(entry, str) and entry:
        return ListedModel(name=entry)
    if not isinstance(entry, dict):
        return None
    name = next((entry[key] for key in _NAMES if isinstance(entry.get(key), str) and entry[key]), None)
    if name is None:
        return None
    meta = entry.get("meta")
    places = [entry, meta if isinstance(meta, dict) else {}]
    lengths = [place[key] for place in places for key in _LENGTHS if type(place.get(key)) is int and place[key] > 0]
    abilities = entry.get("capabilities")
    embeds = str(entry.get("type") or "").lower() not in _NO_EMBEDDINGS
    if isinstance(abilities, list) and abilities:
        embeds = embeds and any("embed" in str(ability).lower() for ability in abilities)
    root, maker = entry.get("root"), entry.get("owned_by")
    return ListedModel(
        name=name,
        max_input_length=min(lengths, default=None),
        root=root if isinstance(root, str) and root else None,
        maker=maker.lower() if isinstance(maker, str) else None,
        embeds=embeds,
    )


def read_info(parsed: Any) -> ServerFacts | None:
    """The facts in an answer of `/info`; None when it is not TEI's.

    Raises:
        ProbeFailed: it is TEI, but does not serve an embedding model.
    """
    if not isinstance(parsed, dict) or "model_id" not in parsed or "max_concurrent_requests" not in parsed:
        return None
    model_type = parsed.get("model_type")
    embedding = model_type.get("embedding") if isinstance(model_type, dict) else None
    if isinstance(model_type, dict) and not isinstance(embedding, dict):
        raise misfit(
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
