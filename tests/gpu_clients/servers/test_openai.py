"""Servers that speak `/v1/embeddings` and are no TEI: found out by themselves, each in its own manner."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bench.standin.backends.vectors import text_rows
from engine.errors import ConfigError
from gpu_clients.servers.doctor import examine
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness

MODEL = "acme/embed-small"


@dataclass(kw_only=True)
class Manners:
    """How a server behaves.

    Attributes:
        base: Where its routes are.
        lists_models: Whether it answers `/models`.
        knows_base64: Whether it heeds `encoding_format`.
        most_words: Words after which it cuts, or refuses, a text.
        refuses: Whether it refuses; otherwise it cuts, and counts what is left.
        refuses_with: Status of a refusal.
        asked: Bodies of the embedding requests it had.
    """

    base: str = "/v1"
    lists_models: bool = True
    knows_base64: bool = True
    most_words: int = 512
    refuses: bool = True
    refuses_with: int = 400
    asked: list[dict[str, Any]] = field(default_factory=list)


KNOWN: dict[str, dict[str, Any]] = {
    "vllm": {"refuses_with": 400},
    "llama.cpp": {"knows_base64": False, "refuses_with": 500},
    "infinity": {"base": "", "refuses": False},
    "ollama": {"knows_base64": False, "refuses": False},
}


@contextmanager
def serving(manners: Manners) -> Iterator[str]:
    """Such a server; its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, status: int, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            if self.path == f"{manners.base}/models" and manners.lists_models:
                self._answer(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
            else:
                self._answer(404, {"detail": "Not Found"})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != f"{manners.base}/embeddings":
                self._answer(404, {"detail": "Not Found"})
                return
            manners.asked.append(asked)
            words = [len(text.split()) for text in asked["input"]]
            if manners.refuses and max(words) > manners.most_words:
                message = f"maximum context length is {manners.most_words} tokens"
                self._answer(manners.refuses_with, {"error": {"message": message, "type": "BadRequestError"}})
                return
            rows = text_rows(MODEL, asked["input"], 768)
            encoded = manners.knows_base64 and asked.get("encoding_format") == "base64"
            data = [
                {
                    "object": "embedding",
                    "index": number,
                    "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode() if encoded else row.tolist(),
                }
                for number, row in enumerate(rows)
            ]
            n_tokens = sum(min(count, manners.most_words) for count in words)
            self._answer(200, {"object": "list", "model": MODEL, "data": data, "usage": {"prompt_tokens": n_tokens}})

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("name", list(KNOWN))
def test_it_is_found_out_what_a_server_is_and_how_it_answers(name: str) -> None:
    how = Manners(**KNOWN[name])
    with serving(how) as url:
        harness = Harness((url,), [f"text {number}" for number in range(200)])
        facts = harness.fleet.servers[0].facts
        outcome = harness.run()
    outcome.check_exact(MODEL)
    assert facts is not None
    assert (facts.kind, facts.model_id, facts.openai_base) == ("openai", MODEL, how.base)
    assert facts.form == ("base64" if how.knows_base64 else "openai floats")
    assert all(asked["model"] == MODEL for asked in how.asked)


@pytest.mark.parametrize("base", ["/v1", ""])
def test_a_server_that_lists_no_models_is_told_which_one(base: str) -> None:
    with serving(Manners(lists_models=False, base=base)) as url:
        found = examine(ClientSettings(urls=(url,), server_kind="openai", model="acme/other"))
        assert found.fingerprint.model_id == "acme/other"
        with pytest.raises(ConfigError, match="--model"):
            examine(ClientSettings(urls=(url,), server_kind="openai"))


def test_a_model_that_the_server_does_not_list_is_refused() -> None:
    with serving(Manners()) as url, pytest.raises(ConfigError, match=f"no model 'other', it lists {MODEL}"):
        examine(ClientSettings(urls=(url,), model="other"))


def test_a_server_that_cuts_texts_silently_is_refused_when_cutting_is_not_wanted() -> None:
    with serving(Manners(refuses=False)) as url:
        with pytest.raises(ConfigError, match=r"cuts texts .* --no-truncate forbids"):
            examine(ClientSettings(urls=(url,), truncate=False))
        warnings = examine(ClientSettings(urls=(url,))).warnings
    assert any("long texts" in warning for warning in warnings)


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_server_that_refuses_long_texts_may_serve_a_run_that_wants_none_cut(status: int) -> None:
    with serving(Manners(refuses_with=status)) as url:
        assert examine(ClientSettings(urls=(url,), truncate=False)).dim == 768


def test_vectors_that_are_not_normalised_cannot_be_had() -> None:
    with serving(Manners()) as url, pytest.raises(ConfigError, match="not normalised"):
        examine(ClientSettings(urls=(url,), normalize=False))
