"""The routes of a stand-in for vLLM: `/version`, `/v1/models`, `/v1/embeddings`, `/health`."""

from __future__ import annotations

from bench.standin.api import messages, vllm
from bench.standin.api.messages import ApiError, EmbedRequest
from bench.standin.http.connection import Connection, Request
from bench.standin.server.embedding import Exchange
from bench.standin.server.purposes import purpose_of
from bench.standin.server.routes import Routes
from bench.standin.server.server import Server


class VllmRoutes(Routes):
    """Answers every request to a server as vLLM does."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        kept = ("/health", "/ping", "/metrics", "/_control")
        self._routes = {path: self._routes[path] for path in kept} | {
            "/version": {b"GET": self._version},
            "/v1/models": {b"GET": self._models},
            "/v1/embeddings": {b"POST": self._embed},
        }

    def _embed(self, connection: Connection, request: Request) -> None:
        VllmExchange(self._server, connection, request, purpose_of("/v1/embeddings")).begin()

    def _version(self, connection: Connection, _request: Request) -> None:
        self._json(connection, {"version": self._server.config.dialect.version})

    def _models(self, connection: Connection, _request: Request) -> None:
        server = self._server
        self._json(connection, vllm.models(server.backend.model_id, server.max_input_length))


class VllmExchange(Exchange):
    """Carries one request to `/v1/embeddings` through the server."""

    __slots__ = ()

    def _parsed(self) -> EmbedRequest:
        return vllm.embed_request(self._request, self._server.backend.model_id)

    def _refuse(self, error: ApiError, err: str) -> None:
        server = self._server
        server.metrics.failed(err)
        said = vllm.too_long(error, server.max_input_length)
        if error is messages.BACKEND_FAILED:
            said = ApiError(status=500, kind="", message="CUDA error: an illegal memory access was encountered")
        server.answer(self._connection, vllm.error_response(said))
