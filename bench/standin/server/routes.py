"""The routes of a stand-in server: which handler answers which path and method."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import orjson

from bench.standin.api import messages, schema
from bench.standin.api.messages import ApiError
from bench.standin.api.schema import Struct
from bench.standin.config import Dialect
from bench.standin.faults import misbehaviour
from bench.standin.faults.script import Fault
from bench.standin.http.connection import Connection, Request, Response
from bench.standin.server import control
from bench.standin.server.embedding import Exchange
from bench.standin.server.purposes import purpose_of
from bench.standin.server.server import Server
from engine.errors import ConfigError

_OPEN_ROUTES = frozenset({"/health", "/ping", "/metrics", "/docs", "/docs/", "/api-doc/openapi.json", "/_control"})
"""Paths that want no api key."""


_PREFLIGHT = b"access-control-allow-methods: GET,POST\r\naccess-control-allow-headers: content-type\r\n"
_WRONG_MODEL: dict[str, tuple[Struct, str]] = {
    "/embed_sparse": (schema.EMBED_SPARSE, "Model is not an embedding model with SPLADE pooling"),
    "/predict": (schema.PREDICT, "Model is not a classifier model"),
    "/rerank": (schema.RERANK, "model is not a re-ranker model"),
}
_DOCS = b"<!DOCTYPE html>\n<html><head><title>Swagger UI</title></head><body>A stand-in.</body></html>\n"


def _allow(methods: Iterable[bytes] | None) -> bytes:
    """The `allow` header of a route; a GET answers HEAD as well."""
    names = [name + b",HEAD" if name == b"GET" else name for name in sorted(methods or ())]
    return b"allow: " + b",".join(names) + b"\r\n" if names else b""


class Routes:
    """Answers every request to a server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._fired: list[Fault] = []  # those that hit the request at hand
        key = server.config.api_key
        self._bearer = None if key is None else b"Bearer " + key.encode()
        self._routes: dict[str, dict[bytes, Callable[[Connection, Request], None]]] = {
            "/embed": {b"POST": self._embed},
            "/embeddings": {b"POST": self._embed},
            "/v1/embeddings": {b"POST": self._embed},
            "/": {b"POST": self._embed, b"GET": self._health},
            "/invocations": {b"POST": self._embed},
            "/embed_all": {b"POST": self._embed},
            "/similarity": {b"POST": self._embed},
            "/vertex": {b"POST": self._embed},
            "/embed_sparse": {b"POST": self._wrong_model},
            "/predict": {b"POST": self._wrong_model},
            "/rerank": {b"POST": self._wrong_model},
            "/docs": {b"GET": self._to_docs},
            "/docs/": {b"GET": self._docs},
            "/api-doc/openapi.json": {b"GET": self._openapi},
            "/tokenize": {b"POST": self._tokenize},
            "/decode": {b"POST": self._decode},
            "/info": {b"GET": self._info},
            "/health": {b"GET": self._health},
            "/ping": {b"GET": self._health},
            "/metrics": {b"GET": self._metrics},
            "/_control": {b"GET": self._get_control, b"POST": self._post_control},
        }

    def serve(self, connection: Connection, request: Request) -> None:
        """Answer a request, now or later."""
        server = self._server
        path = request.path.partition("?")[0]
        if path != "/_control":
            server.counters.requests += 1
        methods = self._routes.get(path)
        if request.method == b"OPTIONS":  # what browsers ask before they post, on any path and without a key
            self._answer(connection, messages.empty(200, _PREFLIGHT + _allow(methods)))
            return
        if methods is None:
            self._answer(connection, messages.empty(404))
            return
        handler = methods.get(b"GET" if request.method == b"HEAD" else request.method)
        allow = b"" if handler is not None else _allow(methods)
        if path not in _OPEN_ROUTES and not self._may_enter(path, request):
            self._answer(connection, messages.empty(401, allow))
            return
        if handler is None:
            self._answer(connection, messages.empty(405, allow))
            return
        if server.faults and handler != self._embed and path != "/_control":
            fired = server.faults.due_for_request(path, embedding=False, texts=(), now_s=server.loop.now())
            if fired:
                misbehaviour.act(
                    server,
                    connection,
                    fired,
                    openai=False,
                    proceed=lambda: self._handle(handler, connection, request, fired),
                    taken=lambda: None,
                )
                return
        self._handle(handler, connection, request, [])

    def _may_enter(self, path: str, request: Request) -> bool:
        if self._bearer is None or (path == "/" and request.method == b"GET"):
            return True
        return request.headers.get(b"authorization") == self._bearer

    def _handle(
        self,
        handler: Callable[[Connection, Request], None],
        connection: Connection,
        request: Request,
        fired: list[Fault],
    ) -> None:
        try:
            self._fired = fired
            handler(connection, request)
        except messages.Refused as refused:
            if refused.err is not None:
                self._server.metrics.failed(refused.err)
            self._answer(connection, refused.response)
        finally:
            self._fired = []

    def _info_fields(self) -> dict[str, Any]:
        """Return what `/info` says."""
        server, config = self._server, self._server.config
        fields: dict[str, Any] = {
            "model_id": server.backend.model_id,
            "model_sha": config.model_sha,
            "model_dtype": server.dtype,
            "served_model_name": server.backend.model_id,
            "model_type": {"embedding": {"pooling": config.pooling}},
            "max_concurrent_requests": server.permits.total,
            "max_input_length": server.max_input_length,
            "max_batch_tokens": config.max_batch_tokens,
            "max_batch_requests": config.max_batch_requests,
            "max_client_batch_size": server.max_client_batch_size,
            "auto_truncate": config.truncates_by_default,
            "tokenization_workers": config.tokenization_workers,
            "version": config.dialect.version,
            "sha": None,
            "docker_label": None,
        }
        if config.dialect is Dialect.V1_8:
            del fields["served_model_name"]  # came with 1.9
        return fields

    def _answer(self, connection: Connection, response: Response) -> None:
        self._server.answer(connection, response, self._fired)

    def _embed(self, connection: Connection, request: Request) -> None:
        Exchange(self._server, connection, request, purpose_of(request.path.partition("?")[0])).begin()

    def _info(self, connection: Connection, _request: Request) -> None:
        self._json(connection, self._info_fields())

    def _health(self, connection: Connection, _request: Request) -> None:
        server = self._server
        if not server.healthy:
            # after a failed batch the real server runs one token through the GPU and so tells the truth
            dead = server.faults.active("dead_gpu", server.loop.now())
            server.healthy = dead is None or dead["health"] == "green"
        if server.healthy:
            response = messages.empty(200)
        else:
            unhealthy = ApiError(status=503, kind="Unhealthy", message="unhealthy")
            response = messages.error_response(unhealthy, openai=False)
        # the question goes through the GPU's own queue: a busy server answers after the running batch
        fired, free_at_s = self._fired, server.backend.free_at_s()
        if free_at_s > server.loop.now():
            server.loop.call_at(free_at_s, lambda: server.answer(connection, response, fired))
        else:
            server.answer(connection, response, fired)

    def _metrics(self, connection: Connection, _request: Request) -> None:
        page = self._server.metrics.page(self._server.backend.metrics())
        self._answer(connection, Response(status=200, blocks=[page], content_type=b"text/plain; charset=utf-8"))

    def _tokenize(self, connection: Connection, request: Request) -> None:
        document = messages.fields_of(request, schema.TOKENIZE)
        inputs = document["inputs"]
        texts: list[str] = [inputs] if type(inputs) is str else inputs
        self._check_batch(len(texts), messages.NO_TEXTS)
        prompt = self._prompt_of(document.get("prompt_name"))
        if not all(texts):
            raise messages.Refused(messages.error_response(messages.EMPTY_INPUT, openai=False), "tokenization")
        special = document.get("add_special_tokens", True)
        backend = self._server.backend
        rows = [backend.tokenize(prompt + text, add_special_tokens=special) for text in texts]
        self._json(connection, [[asdict(token) for token in row] for row in rows])

    def _decode(self, connection: Connection, request: Request) -> None:
        document = messages.fields_of(request, schema.DECODE)
        ids = document["ids"]
        rows = [ids] if schema.is_ids(ids) else ids
        self._check_batch(len(rows), messages.EMPTY_IDS)
        if not all(rows):
            raise messages.Refused(messages.error_response(messages.EMPTY_IDS, openai=False), "tokenization")
        skip = document.get("skip_special_tokens", True)
        self._json(connection, [self._server.backend.decode(row, skip_special_tokens=skip) for row in rows])

    def _prompt_of(self, name: str | None) -> str:
        """Return the text that is put before every input.

        Raises:
            Refused: the name is not among the prompts.
        """
        if name is None:
            return self._server.default_prompt
        prompt = self._server.prompts.get(name)
        if prompt is None:
            error = messages.unknown_prompt(name, sorted(self._server.prompts), self._server.config.dialect)
            raise messages.Refused(messages.error_response(error, openai=False), "tokenization")
        return prompt

    def _check_batch(self, n_inputs: int, none: ApiError) -> None:
        if n_inputs == 0:
            raise messages.Refused(messages.error_response(none, openai=False), "validation")
        if n_inputs > self._server.max_client_batch_size:
            error = messages.batch_too_big(n_inputs, self._server.max_client_batch_size, self._server.config.dialect)
            raise messages.Refused(messages.error_response(error, openai=False), "batch_size")

    def _wrong_model(self, connection: Connection, request: Request) -> None:
        expected, what = _WRONG_MODEL[request.path.partition("?")[0]]
        messages.fields_of(request, expected)
        error = ApiError(status=424, kind="Backend", message=f"Backend error: {what}")
        self._server.refuse(connection, error, openai=False, err="model_type", fired=self._fired)

    def _to_docs(self, connection: Connection, _request: Request) -> None:
        self._answer(connection, messages.empty(303, b"location: /docs/\r\n"))

    def _docs(self, connection: Connection, _request: Request) -> None:
        self._answer(connection, Response(status=200, blocks=[_DOCS], content_type=b"text/html"))

    def _openapi(self, connection: Connection, _request: Request) -> None:
        paths: dict[str, dict[str, Any]] = {
            path: {name.decode().lower(): {} for name in methods} for path, methods in self._routes.items()
        }
        info = {"title": "Stand-in embedding server", "version": self._server.config.dialect.version}
        self._json(connection, {"openapi": "3.0.3", "info": info, "paths": paths})

    def _json(self, connection: Connection, document: object) -> None:
        self._answer(connection, Response(status=200, blocks=[orjson.dumps(document)]))

    # -- control ---------------------------------------------------------------------------------------

    def _get_control(self, connection: Connection, _request: Request) -> None:
        connection.answer(Response(status=200, blocks=[orjson.dumps(control.report(self._server))]))

    def _post_control(self, connection: Connection, request: Request) -> None:
        try:
            control.apply_orders(self._server, messages.json_object(request))
        except (ConfigError, TypeError, ValueError) as error:
            connection.answer(Response(status=400, blocks=[orjson.dumps({"error": str(error)})]))
        else:
            self._get_control(connection, request)
