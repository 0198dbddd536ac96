"""A stand-in process: builds the servers of a configuration and runs them until it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from bench.standin.api import messages
from bench.standin.api.metrics import Metrics
from bench.standin.backends import canned, minilm, sim
from bench.standin.backends.base import Backend, BackendDefaults
from bench.standin.backends.canned import CannedBackend
from bench.standin.backends.gpu_model import GpuModel
from bench.standin.backends.minilm import MiniLmBackend, MiniLmEngine
from bench.standin.backends.minilm_model import model_folder
from bench.standin.backends.minilm_tokenizer import MiniLmTokenizer
from bench.standin.backends.sim import SimBackend
from bench.standin.config import Dialect, StandinConfig
from bench.standin.http.connection import Connection, Request, Response
from bench.standin.http.listener import Listener
from bench.standin.http.loop import Loop
from bench.standin.server import control
from bench.standin.server.routes import Routes
from bench.standin.server.server import Server
from bench.standin.server.vllm import VllmRoutes
from engine.errors import ConfigError

_PARENT_CHECK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Where the servers of a process listen; `control_port` answers whatever faults the others have."""

    ports: tuple[int, ...]
    control_port: int


def serve(config: StandinConfig, on_ready: Callable[[Ready], None] | None = None) -> None:
    """Run the servers of `config` until SIGTERM or SIGINT (or, with `lifeline`, until the parent is gone).

    Must be called on the main thread. `on_ready` is called once, when every port accepts connections.

    Raises:
        ConfigError: a port is taken, or a fault or the model cannot be used.
    """
    loop = Loop()
    process = _Process(loop, config)
    try:
        ready = process.open()
        former = [signal.signal(one, lambda *_: loop.stop()) for one in (signal.SIGTERM, signal.SIGINT)]
        if config.lifeline:
            _watch_parent(loop)
        if on_ready is not None:
            on_ready(ready)
        loop.run()
        for one, handler in zip((signal.SIGTERM, signal.SIGINT), former, strict=True):
            signal.signal(one, handler)
    finally:
        process.close()
        loop.close()


class _Process:
    """The servers of one process and its control port."""

    def __init__(self, loop: Loop, config: StandinConfig) -> None:
        self._loop = loop
        self._config = config
        self._factory = _ServerFactory(loop, config)
        self._control_connections: set[Connection] = set()
        self._control = Listener(loop, config.host, self._accept_control)
        self.servers = [
            self._factory.server(position, exit_process=self._exit) for position in range(len(config.ports))
        ]

    def open(self) -> Ready:
        """Listen everywhere."""
        routes = VllmRoutes if self._config.dialect is Dialect.VLLM else Routes
        for server, port in zip(self.servers, self._config.ports, strict=True):
            try:
                server.open(port, routes(server).serve)
            except OSError as error:
                raise ConfigError(
                    f"cannot listen on {self._config.host}:{port} ({error.strerror}); choose another port, or 0."
                ) from error
        self._control.open(0)
        return Ready(ports=tuple(server.port for server in self.servers), control_port=self._control.port)

    def close(self) -> None:
        """Close everything."""
        for server in self.servers:
            server.close()
        for connection in list(self._control_connections):
            connection.close()
        self._control.close()
        self._factory.close()

    def _exit(self, code: int, server: Server, down_s: float) -> None:
        if len(self.servers) == 1:
            os._exit(code)  # as an abort would: no answer, no clean-up
        server.refuse_for(down_s)

    def _accept_control(self, sock: socket.socket) -> None:
        limit_bytes = self._config.payload_limit_bytes
        self._control_connections.add(
            Connection(self._loop, sock, limit_bytes, self._serve_control, self._control_connections.discard)
        )

    def _serve_control(self, connection: Connection, request: Request) -> None:
        try:
            orders = messages.json_object(request)
            port = orders.pop("port", None)
            chosen = [server for server in self.servers if port in (None, server.port)]
            if not chosen:
                raise ConfigError(f"port {port} is not served here.")
            for server in chosen:
                control.apply_orders(server, orders)
        except messages.Refused as refused:
            connection.answer(refused.response)
        except (ConfigError, TypeError, ValueError) as error:
            connection.answer(Response(status=400, blocks=[orjson.dumps({"error": str(error)})]))
        else:
            connection.answer(
                Response(status=200, blocks=[orjson.dumps([control.report(server) for server in chosen])])
            )


class _ServerFactory:
    """Builds the servers of a process, and holds what they share."""

    def __init__(self, loop: Loop, config: StandinConfig) -> None:
        self._loop = loop
        self._config = config
        self._defaults = _DEFAULTS[config.backend]
        self._engine: MiniLmEngine | None = None
        if config.backend == "minilm":
            self._engine = MiniLmEngine(loop, config.threads)

    def server(self, position: int, *, exit_process: Callable[[int, Server, float], None]) -> Server:
        """Return the server at `position` of the ports, not listening yet."""
        config, defaults = self._config, self._defaults
        metrics = Metrics()
        max_input_length = config.max_input_length or defaults.max_input_length
        if max_input_length > config.max_batch_tokens and not config.truncates_by_default:
            raise ConfigError(
                f"max_input_length {max_input_length} is above max_batch_tokens {config.max_batch_tokens}: "
                "raise max_batch_tokens, or turn auto_truncate on."
            )
        max_input_length = min(max_input_length, config.max_batch_tokens)
        return Server(
            self._loop,
            config,
            position,
            self._backend(position, metrics, max_input_length),
            metrics,
            dtype=config.dtype or defaults.dtype,
            max_input_length=max_input_length,
            exit_process=exit_process,
        )

    def close(self) -> None:
        """Give back what the servers share."""
        if self._engine is not None:
            self._engine.close()

    def _backend(self, position: int, metrics: Metrics, max_input_length: int) -> Backend:
        config, defaults = self._config, self._defaults
        model_id, dim = config.model_id or defaults.model_id, config.dim or defaults.dim
        if config.backend == "canned":
            real = MiniLmTokenizer(model_folder()) if config.tokenizer == "minilm" else None
            return CannedBackend(model_id=model_id, dim=dim, max_input_length=max_input_length, tokenizer=real)
        if self._engine is not None:
            return MiniLmBackend(
                self._loop, self._engine, metrics, model_id=model_id, max_input_length=max_input_length
            )
        gpu = GpuModel(
            config.gpu,
            max_batch_tokens=config.max_batch_tokens,
            max_batch_requests=config.max_batch_requests,
            speed=config.gpu_speed_of(position),
            slow_factor=config.slow_factor,
        )
        return SimBackend(self._loop, gpu, metrics, model_id=model_id, dim=dim, max_input_length=max_input_length)


_DEFAULTS: dict[str, BackendDefaults] = {"canned": canned.DEFAULTS, "sim": sim.DEFAULTS, "minilm": minilm.DEFAULTS}


def _watch_parent(loop: Loop) -> None:
    """Stop when the pipe on stdin ends, or when the parent is gone although somebody else still holds the pipe."""
    parent = os.getppid()

    def watch() -> None:
        # a blocking read in a thread: epoll refuses plain files, which stdin may be
        while os.read(0, 4096):
            pass
        loop.stop()

    def check() -> None:
        if os.getppid() != parent:
            loop.stop()
        loop.call_later(_PARENT_CHECK_S, check)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    check()
