"""One stand-in server: a port, its permits, its counters and its routes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import orjson

from bench.standin.api import control
from bench.standin.api import tei as tei_api
from bench.standin.api.control import Counters
from bench.standin.api.embedding import Exchange
from bench.standin.api.metrics import Metrics
from bench.standin.api.permits import Permits
from bench.standin.backends.base import ApiError, Backend
from bench.standin.backends.vectors import Rows
from bench.standin.config import Dialect, StandinConfig
from bench.standin.faults import misbehaviour
from bench.standin.faults.script import Fault, FaultSet, parse_fault
from bench.standin.http.connection import Connection, Request, Response
from bench.standin.http.listener import Listener
from bench.standin.http.loop import Loop
from engine.errors import ConfigError


class Server:
    """Everything behind one port."""

    def __init__(
        self,
        loop: Loop,
        config: StandinConfig,
        position: int,
        backend: Backend,
        metrics: Metrics,
        *,
        dtype: str,
        max_input_length: int,
        exit_process: Callable[[int, Server, float], None],
    ) -> None:
        self.loop = loop
        self.config = config
        self.position = position
        self.backend = backend
        self.metrics = metrics
        self.faults = FaultSet()
        self.permits = Permits(config.max_concurrent_requests)
        self.counters = Counters()
        self.connections: set[Connection] = set()
        self.max_input_length = max_input_length
        self.max_client_batch_size = config.max_client_batch_size
        self.healthy = True
        self.exit_process = exit_process
        self._dtype = dtype
        self.previous_rows: Rows | None = None
        self._listener = Listener(loop, config.host, self._accepted)
        self._fired: list[Fault] = []
        self._bearer = None if config.api_key is None else b"Bearer " + config.api_key.encode()
        prompts = dict(config.prompts)
        self.prompts = prompts
        named = config.default_prompt_name
        self.default_prompt = prompts[named] if named is not None else config.default_prompt or ""
        self._own_model_id = backend.model_id
        self.model_json = orjson.dumps(backend.model_id)
        self._routes: dict[str, dict[bytes, Callable[[Connection, Request], None]]] = {
            "/embed": {b"POST": self._embed},
            "/embeddings": {b"POST": self._embed},
            "/v1/embeddings": {b"POST": self._embed},
            "/": {b"POST": self._embed, b"GET": self._health},
            "/embed_sparse": {b"POST": self._wrong_model},
            "/predict": {b"POST": self._wrong_model},
            "/rerank": {b"POST": self._wrong_model},
            "/tokenize": {b"POST": self._tokenize},
            "/decode": {b"POST": self._decode},
            "/info": {b"GET": self._info},
            "/health": {b"GET": self._health},
            "/ping": {b"GET": self._health},
            "/metrics": {b"GET": self._metrics},
            "/_control": {b"GET": self._get_control, b"POST": self._post_control},
        }
        for spec in config.faults:
            self.add_fault(parse_fault(spec))

    # -- the port --------------------------------------------------------------------------------------

    def open(self, port: int) -> None:
        """Listen on `port`.

        Raises:
            OSError: the port is taken or not ours.
        """
        self._listener.open(port)

    @property
    def port(self) -> int:
        """Return the port, also while it refuses."""
        return self._listener.port

    @property
    def port_is_open(self) -> bool:
        """Return whether connections are accepted."""
        return self._listener.listening

    def refuse_for(self, down_s: float) -> None:
        """Reset every connection and refuse new ones for `down_s` seconds."""
        self._listener.refuse_for(down_s)
        self.reset_connections()

    def reset_connections(self) -> None:
        """Reset every connection."""
        for connection in list(self.connections):
            connection.reset()

    def close(self) -> None:
        """Close the port and its connections."""
        self._listener.close()
        for connection in list(self.connections):
            connection.close()

    def _accepted(self, sock: socket.socket) -> None:
        self.counters.connections_opened += 1
        connection = Connection(self.loop, sock, self.config.payload_limit_bytes, self._serve, self.connections.discard)
        self.connections.add(connection)
        for fault in self.faults.strike_connection(self.loop.now()) if self.faults else ():
            if fault.kind == "black_hole":
                connection.stop_reading()
            else:
                connection.reset()

    # -- faults ----------------------------------------------------------------------------------------

    def add_fault(self, fault: Fault) -> None:
        """Put `fault` in force, if it is for this server."""
        if not fault.is_for(self.position):
            return
        self.faults.add(fault, self.loop.now())
        if not fault.at_once:
            return
        if fault.kind == "slow":
            self.backend.set_slow_factor(fault["factor"])
        elif fault.kind == "switch_model":
            self.switch_model(fault["model_id"])
        else:
            # not within the control request that asked for it, so that its answer still leaves
            self.loop.call_later(0.0, lambda: self.refuse_for(fault["down_s"]))

    def clear_faults(self) -> None:
        """End all faults; speed, model and port are again as configured."""
        self.faults.clear()
        self.backend.set_slow_factor(self.config.slow_factor)
        self.switch_model(self._own_model_id)
        self._listener.reopen()

    def switch_model(self, model_id: str) -> None:
        """Become a server of another model: `/info` and vectors."""
        if model_id != self.backend.model_id:
            self.backend.switch_model(model_id)
            self.model_json = orjson.dumps(model_id)

    # -- answering -------------------------------------------------------------------------------------

    def answer(self, connection: Connection, response: Response) -> None:
        """Count and send an answer."""
        self.counters.statuses[response.status] += 1
        if self._fired:
            misbehaviour.send(self, connection, response, self._fired)
        else:
            connection.answer(response)

    def refuse(self, connection: Connection, error: ApiError, *, openai: bool, err: str | None) -> None:
        """Answer with an error in the shape of the route."""
        if err is not None:
            self.metrics.failed(err)
        self.answer(connection, tei_api.error_response(error, openai=openai))

    def _serve(self, connection: Connection, request: Request) -> None:
        path = request.path.partition("?")[0]
        if path != "/_control":
            self.counters.requests += 1
        methods = self._routes.get(path)
        if methods is None:
            self.answer(connection, tei_api.empty(404))
            return
        if path not in _OPEN_ROUTES and not self._may_enter(path, request):
            self.answer(connection, tei_api.empty(401))
            return
        handler = methods.get(b"GET" if request.method == b"HEAD" else request.method)
        if handler is None:
            allow = b"allow: " + b",".join(sorted(methods)) + b"\r\n"
            self.answer(connection, tei_api.empty(405, allow))
            return
        if self.faults and handler != self._embed and path != "/_control":
            fired = self.faults.strike(path, embedding=False, texts=(), now_s=self.loop.now())
            if fired:
                misbehaviour.before(
                    self,
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
        except tei_api.Refused as refused:
            if refused.err is not None:
                self.metrics.failed(refused.err)
            self.answer(connection, refused.response)
        finally:
            self._fired = []

    def send_damaged(self, connection: Connection, response: Response, fired: list[Fault]) -> None:
        """Count an answer and send it the way `fired` wants it."""
        self.counters.statuses[response.status] += 1
        misbehaviour.send(self, connection, response, fired)

    # -- routes ----------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Return what `/info` says."""
        config = self.config
        fields: dict[str, Any] = {
            "model_id": self.backend.model_id,
            "model_sha": config.model_sha,
            "model_dtype": self._dtype,
            "served_model_name": self.backend.model_id,
            "model_type": {"embedding": {"pooling": config.pooling}},
            "max_concurrent_requests": self.permits.total,
            "max_input_length": self.max_input_length,
            "max_batch_tokens": config.max_batch_tokens,
            "max_batch_requests": config.max_batch_requests,
            "max_client_batch_size": self.max_client_batch_size,
            "auto_truncate": config.truncates_by_default,
            "tokenization_workers": config.tokenization_workers,
            "version": config.dialect.version,
            "sha": None,
            "docker_label": None,
        }
        if config.dialect is Dialect.V1_8:
            del fields["served_model_name"]  # came with 1.9
        return fields

    def _embed(self, connection: Connection, request: Request) -> None:
        Exchange(self, connection, request, openai="embeddings" in request.path).begin()

    def _info(self, connection: Connection, _request: Request) -> None:
        self._json(connection, self.info())

    def _health(self, connection: Connection, _request: Request) -> None:
        if not self.healthy:
            # after a failed batch the real server runs one token through the GPU and so tells the truth
            dead = self.faults.active("dead_gpu", self.loop.now())
            self.healthy = dead is None or dead["health"] == "green"
        if self.healthy:
            response = tei_api.empty(200)
        else:
            unhealthy = ApiError(status=503, kind="Unhealthy", message="unhealthy")
            response = tei_api.error_response(unhealthy, openai=False)
        # the question goes through the GPU's own queue: a busy server answers after the running batch
        fired, free_at_s = self._fired, self.backend.free_at_s()
        if free_at_s > self.loop.now():
            self.loop.call_at(free_at_s, lambda: self.send_damaged(connection, response, fired))
        else:
            self.send_damaged(connection, response, fired)

    def _metrics(self, connection: Connection, _request: Request) -> None:
        page = self.metrics.page(self.backend.metrics())
        self.answer(connection, Response(status=200, blocks=[page], content_type=b"text/plain; charset=utf-8"))

    def _tokenize(self, connection: Connection, request: Request) -> None:
        document = tei_api.json_object(request)
        inputs, _single = tei_api.inputs_of(document, "inputs")
        prompt = self.prompt_of(tei_api.optional(document, "prompt_name", str))
        special = tei_api.optional(document, "add_special_tokens", bool) is not False
        self._check_batch(len(inputs))
        texts = [
            prompt + (one if isinstance(one, str) else self.backend.decode(one, skip_special_tokens=True))
            for one in inputs
        ]
        rows = [self.backend.tokenize(text, add_special_tokens=special) for text in texts]
        self._json(connection, [[asdict(token) for token in row] for row in rows])

    def _decode(self, connection: Connection, request: Request) -> None:
        document = tei_api.json_object(request)
        ids = document.get("ids")
        rows = [ids] if tei_api.is_ids(ids) else ids
        if not rows or not isinstance(rows, list) or not all(tei_api.is_ids(row) for row in rows):
            raise tei_api.Refused(
                tei_api.plain(422, "Failed to deserialize the JSON body into the target type: ids: invalid type")
            )
        self._check_batch(len(rows))
        skip = tei_api.optional(document, "skip_special_tokens", bool) is not False
        self._json(connection, [self.backend.decode(row, skip_special_tokens=skip) for row in rows])

    def prompt_of(self, name: str | None) -> str:
        """Return the text that is put before every input.

        Raises:
            Refused: the name is not among the prompts.
        """
        if name is None:
            return self.default_prompt
        prompt = self.prompts.get(name)
        if prompt is None:
            error = tei_api.unknown_prompt(name, sorted(self.prompts), self.config.dialect)
            raise tei_api.Refused(tei_api.error_response(error, openai=False), "validation")
        return prompt

    def _check_batch(self, n_inputs: int) -> None:
        if n_inputs == 0:
            raise tei_api.Refused(tei_api.error_response(tei_api.EMPTY_BATCH, openai=False), "validation")
        if n_inputs > self.max_client_batch_size:
            error = tei_api.batch_too_big(n_inputs, self.max_client_batch_size, self.config.dialect)
            raise tei_api.Refused(tei_api.error_response(error, openai=False), "batch_size")

    def _wrong_model(self, connection: Connection, request: Request) -> None:
        purpose = request.path.partition("?")[0].strip("/")
        error = ApiError(status=424, kind="Backend", message=f"Backend error: not a model for {purpose}")
        self.refuse(connection, error, openai=False, err="model_type")

    def _json(self, connection: Connection, document: object) -> None:
        self.answer(connection, Response(status=200, blocks=[orjson.dumps(document)]))

    # -- control ---------------------------------------------------------------------------------------

    def _get_control(self, connection: Connection, _request: Request) -> None:
        connection.answer(Response(status=200, blocks=[orjson.dumps(control.report(self))]))

    def _post_control(self, connection: Connection, request: Request) -> None:
        try:
            control.obey(self, tei_api.json_object(request))
        except (ConfigError, TypeError, ValueError) as error:
            connection.answer(Response(status=400, blocks=[orjson.dumps({"error": str(error)})]))
        else:
            self._get_control(connection, request)


_OPEN_ROUTES = frozenset({"/health", "/ping", "/metrics", "/_control"})
