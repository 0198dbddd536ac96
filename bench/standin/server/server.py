"""One stand-in server: a port, its connections, permits, counters and faults; which routes it has is not known here."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson

from bench.standin.api import messages
from bench.standin.api.encoding import Rows
from bench.standin.api.messages import ApiError
from bench.standin.api.metrics import Metrics
from bench.standin.backends.base import Backend
from bench.standin.config import Dialect, StandinConfig
from bench.standin.faults import misbehaviour
from bench.standin.faults.script import Fault, parse_fault
from bench.standin.faults.selection import FaultSet
from bench.standin.http.connection import Connection, Request, Response
from bench.standin.http.listener import Listener
from bench.standin.http.loop import Loop
from bench.standin.server.permits import Permits

_ANY_NUMBER = 1 << 30


@dataclass(slots=True)
class Counters:
    """What one server has counted, for the control route."""

    connections_opened: int = 0
    requests: int = 0
    embed_requests: int = 0
    inputs: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    answered_429: int = 0
    batch_size_max: int = 0
    texts: Counter[int] = field(default_factory=Counter)


class Server:
    """One port with its connections, permits, counters and faults, but without routes.

    Fulfils `bench.standin.faults.misbehaviour.FaultyServer`.

    Attributes:
        permits: What is admitted at a time.
        counters: What the control route reports.
        healthy: What `/health` says.
        dtype: Number type that `/info` reports.
        prompts, default_prompt: The texts that may be put before an input, by name, and the one that is without a name.
        model_json: The model's id as a JSON string.
        previous_rows: The vectors of the last answer, while there are faults.
    """

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
        is_vllm = config.dialect is Dialect.VLLM  # which takes whatever comes, and lets it wait
        self.permits = Permits(_ANY_NUMBER if is_vllm else config.max_concurrent_requests)
        self.counters = Counters()
        self.connections: set[Connection] = set()
        self.dtype = dtype
        self.max_input_length = max_input_length
        self.max_client_batch_size = _ANY_NUMBER if is_vllm else config.max_client_batch_size
        self.healthy = True
        self.previous_rows: Rows | None = None
        self._exit_process = exit_process
        self._listener = Listener(loop, config.host, self._accepted)
        self._serve: Callable[[Connection, Request], None] | None = None
        self.prompts = dict(config.prompts)
        named = config.default_prompt_name
        self.default_prompt = self.prompts[named] if named is not None else config.default_prompt or ""
        self._own_model_id = backend.model_id
        self.model_json = orjson.dumps(backend.model_id)
        for spec in config.faults:
            self.add_fault(parse_fault(spec))

    # -- the port --------------------------------------------------------------------------------------

    def open(self, port: int, serve: Callable[[Connection, Request], None]) -> None:
        """Listen on `port`; `serve` gets every request and answers it.

        Raises:
            OSError: the port is taken or not ours.
        """
        self._serve = serve
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

    def exit_process(self, code: int, down_s: float) -> None:
        """End the process, or refuse for `down_s` seconds where other servers live in it."""
        self._exit_process(code, self, down_s)

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
        assert self._serve is not None, "open() comes first"
        connection = Connection(self.loop, sock, self.config.payload_limit_bytes, self._serve, self.connections.discard)
        self.connections.add(connection)
        for fault in self.faults.due_for_connection(self.loop.now()) if self.faults else ():
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
            self.set_slow_factor(fault["factor"])
        elif fault.kind == "switch_model":
            self.switch_model(fault["model_id"])
        else:
            # not within the control request that asked for it, so that its answer still leaves
            self.loop.call_later(0.0, lambda: self.refuse_for(fault["down_s"]))

    def clear_faults(self) -> None:
        """End all faults; speed, model and port are again as configured."""
        self.faults.clear()
        self.set_slow_factor(self.config.slow_factor)
        self.switch_model(self._own_model_id)
        self._listener.reopen()

    def set_slow_factor(self, factor: float) -> None:
        """Take `factor` times as long from now on."""
        self.backend.set_slow_factor(factor)

    def switch_model(self, model_id: str) -> None:
        """Become a server of another model: `/info` and vectors."""
        if model_id != self.backend.model_id:
            self.backend.switch_model(model_id)
            self.model_json = orjson.dumps(model_id)

    # -- answering -------------------------------------------------------------------------------------

    def answer(self, connection: Connection, response: Response, fired: Sequence[Fault] = ()) -> None:
        """Count an answer and send it, the way `fired` wants it."""
        self.counters.statuses[response.status] += 1
        if fired:
            misbehaviour.send(self.loop, connection, response, fired)
        else:
            connection.answer(response)

    def refuse(
        self,
        connection: Connection,
        error: ApiError,
        *,
        openai: bool,
        err: str | None,
        fired: Sequence[Fault] = (),
    ) -> None:
        """Answer with an error in the shape of the route; `err` is the label of te_request_failure."""
        if err is not None:
            self.metrics.failed(err)
        self.answer(connection, messages.error_response(error, openai=openai), fired)

    def count_overload(self) -> None:
        """Count an answer 429."""
        self.counters.answered_429 += 1
