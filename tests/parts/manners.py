"""A server that speaks `/v1/embeddings` in one of many manners, as the documentation of several products has them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from bench.standin.backends.vectors import text_rows
from tests.gpu_clients.servers.served import served

MODEL = "acme/embed-small"
DIM = 768


@dataclass(kw_only=True)
class Manners:
    """How a server behaves.

    Attributes:
        base: Where its routes are.
        listing: What it answers to `/models`; None for 404.
        version: What it answers to `/version`; None for 404.
        info: Status and body of `/info`.
        wants: Headers that every request must have, else 401.
        serves: Names of models that it knows; None when it takes any.
        knows_base64: Whether it heeds `encoding_format`.
        fields: Fields that a request may have, else 400; None when it ignores what it does not know.
        index: Which vectors say their place: `all`, `none`, or `all but 0` as protobuf writes it.
        length: Length of its vectors.
        most_words: Words after which it cuts, or refuses, a text.
        cuts_with: A field that makes it cut instead of refusing.
        refuses: Whether it refuses; otherwise it cuts, and counts what is left.
        refuses_with: Status of a refusal.
        refusal: What it says then.
        words_refused: Texts with such a word are answered with an error in an answer of status 200.
        usage: Whether it counts tokens.
        asked: Bodies of the embedding requests it had.
        vectors_of: Whose vectors it gives, whatever it calls itself (`bench.standin.backends.vectors`).
        dim: Numbers in a vector.
    """

    base: str = "/v1"
    listing: Any = field(default_factory=lambda: {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
    version: str | None = None
    info: tuple[int, bytes] = (404, b'{"detail": "Not Found"}')
    wants: dict[str, str] = field(default_factory=dict)
    serves: tuple[str, ...] | None = None
    knows_base64: bool = True
    fields: tuple[str, ...] | None = None
    index: str = "all"
    length: float = 1.0
    most_words: int = 512
    cuts_with: str | None = None
    refuses: bool = True
    refuses_with: int = 400
    refusal: str = "This model's maximum context length is 512 tokens"
    words_refused: str | None = None
    usage: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    vectors_of: str = MODEL
    dim: int = DIM


def listing(*names: str, **more: Any) -> dict[str, Any]:
    """A listing as OpenAI has it."""
    return {"object": "list", "data": [{"id": name, "object": "model", **more} for name in names]}


STRICT = ("model", "input", "encoding_format", "dimensions", "user")
KNOWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vLLM": (
        {
            "listing": listing(MODEL, owned_by="vllm", root=MODEL, max_model_len=512),
            "cuts_with": "truncate_prompt_tokens",
        },
        {},
    ),
    "Infinity": (
        {"base": "", "refuses": False, "listing": listing(MODEL, owned_by="infinity", capabilities=["embed"])},
        {},
    ),
    "llama.cpp": (
        {
            "knows_base64": False,
            "refuses_with": 500,
            "refusal": "input is too large to process. increase the physical batch size",
            "listing": {
                "models": [{"name": "/models/m.gguf"}],
                **listing("/models/m.gguf", owned_by="llamacpp", meta={"n_ctx_train": 512, "n_embd": 768}),
            },
        },
        {},
    ),
    "Ollama": (
        {
            "knows_base64": False,
            "serves": ("nomic-embed-text", "nomic-embed-text:latest"),
            "refusal": "the input length exceeds the context length",
            "listing": listing("llama3:latest", "nomic-embed-text:latest", owned_by="library"),
        },
        {"model": "nomic-embed-text"},
    ),
    "LM Studio": (
        {
            "info": (200, b'{"error":"Unexpected endpoint or method. (GET /info)"}'),
            "knows_base64": False,
            "usage": False,
            "refuses": False,
            "listing": listing("qwen3-8b", "text-embedding-nomic", owned_by="organization_owner"),
        },
        {"model": "text-embedding-nomic"},
    ),
    "LocalAI": (
        {"listing": {"object": "list", "data": None}, "index": "none", "serves": ("bert",), "refuses": False},
        {"model": "bert"},
    ),
    "LiteLLM": (
        {
            "info": (401, b'{"error": {"message": "Authentication Error"}}'),
            "wants": {"Authorization": "Bearer sk-1"},
            "listing": listing("team-embeddings"),
            "serves": ("team-embeddings",),
        },
        {"api_keys": ("sk-1",)},
    ),
    "Gemini": (
        {
            "base": "/v1beta/openai",
            "info": (404, b"<html>404</html>"),
            "fields": STRICT,
            "index": "all but 0",
            "length": 0.62,
            "usage": False,
            "serves": ("gemini-embedding-001",),
            "listing": listing("models/gemini-pro", "models/gemini-embedding-001", owned_by="google"),
            "refusal": "The input token count exceeds the maximum number of tokens allowed 512.",
        },
        {"model": "gemini-embedding-001"},
    ),
    "Azure": (
        {
            "base": "/openai/v1",
            "info": (302, b""),
            "wants": {"api-key": "k1"},
            "fields": STRICT,
            "serves": ("my-deployment",),
            "listing": listing("text-embedding-3-small", "gpt-5"),
        },
        {"model": "my-deployment", "headers": (("api-key", "k1"),)},
    ),
}
"""The table of docs/servers.md: how a product behaves, and what a run on it has to say."""


def vectors(texts: list[str], manners: Manners) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The server's vectors, float32 (texts, dim)."""
    cut = [
        " ".join(text.split()[: manners.most_words]) if len(text.split()) > manners.most_words else text
        for text in texts
    ]
    return (text_rows(manners.vectors_of, cut, manners.dim) * np.float32(manners.length)).astype(np.float32)


def _data(asked: dict[str, Any], manners: Manners) -> list[dict[str, Any]]:
    encoded = manners.knows_base64 and asked.get("encoding_format") == "base64"
    data: list[dict[str, Any]] = []
    for number, row in enumerate(vectors(asked["input"], manners)):
        value = base64.b64encode(row.astype("<f4").tobytes()).decode() if encoded else row.tolist()
        item: dict[str, Any] = {"object": "embedding", "embedding": value}
        if manners.index == "all" or (manners.index == "all but 0" and number):
            item["index"] = number
        data.append(item)
    return data


@contextmanager
def serving(manners: Manners) -> Iterator[str]:
    """Such a server; its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, status: int, value: Any) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # whoever asked was killed, or has had enough
                self.wfile.write(body)

        def _is_let_in(self) -> bool:
            return all(self.headers.get(name) == value for name, value in manners.wants.items())

        def do_GET(self) -> None:
            if self.path == "/info":
                self._answer(*manners.info)
            elif not self._is_let_in():
                self._answer(401, {"error": {"message": "no"}})
            elif self.path == "/version" and manners.version is not None:
                self._answer(200, {"version": manners.version})
            elif self.path == f"{manners.base}/models" and manners.listing is not None:
                self._answer(200, manners.listing)
            else:
                self._answer(404, {"detail": "Not Found"})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._is_let_in():
                self._answer(401, {"error": {"message": "no"}})
            elif self.path != f"{manners.base}/embeddings":
                self._answer(404, {"detail": "Not Found"})
            else:
                manners.asked.append(asked)
                self._answer(*self._embedded(asked))

        def _embedded(self, asked: dict[str, Any]) -> tuple[int, Any]:
            if manners.serves is not None and asked["model"] not in manners.serves:
                return 404, {"error": {"message": f"model {asked['model']!r} not found", "type": "api_error"}}
            if manners.fields is not None and not set(asked) <= set(manners.fields):
                return 400, {"error": {"code": 400, "message": "Invalid JSON payload received. Unknown name"}}
            if manners.words_refused and any(manners.words_refused in text for text in asked["input"]):
                return 200, {"error": {"code": 400, "message": "Input was flagged"}}
            words = [len(text.split()) for text in asked["input"]]
            cuts = manners.cuts_with is not None and manners.cuts_with in asked
            if manners.refuses and not cuts and max(words) > manners.most_words:
                return manners.refuses_with, {"error": {"message": manners.refusal, "type": "BadRequestError"}}
            answer = {"object": "list", "model": MODEL, "data": _data(asked, manners)}
            if manners.usage:
                answer["usage"] = {"prompt_tokens": sum(min(count, manners.most_words) for count in words)}
            return 200, answer

        def log_message(self, *_: object) -> None:
            pass

    with served(Handler, ThreadingHTTPServer) as url:
        yield url
