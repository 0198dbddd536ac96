"""A fleet of servers that are ours: started, waited for, started again when one ends, and ended together.

starting --healthy--> serving --ends--> resting (back-off) --> starting ...
   |                                       '--too often--> given up
   '--ends before it was ever healthy: the fleet cannot start, its last words are quoted
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from bench.fleet.plan import FleetPlan, ServerSpec, server_specs
from bench.fleet.process import ServerProcess
from engine.errors import ServersUnavailable, SinkError

_log = logging.getLogger("engine.servers")

MAX_RESTARTS = 5
"""Times within `WITHIN_S` that one server is started again; then it is given up, and the others go on."""
WITHIN_S = 3600.0
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 60.0
_STEP_S = 0.2
_TELL_EVERY_S = 10.0


class State(enum.Enum):
    """Where a server stands."""

    STARTING = "starting"
    SERVING = "serving"
    RESTING = "resting"
    GIVEN_UP = "given up"


@dataclass(slots=True)
class _Server:
    """One server over all its lives."""

    spec: ServerSpec
    process: ServerProcess | None = None
    state: State = State.STARTING
    began_s: float = 0.0
    due_s: float = 0.0
    was_healthy: bool = False
    restarts: deque[float] = field(default_factory=deque)


class ServerFleet:
    """Runs the servers of a plan; use it as a context manager. Leaving it ends all of them."""

    def __init__(self, plan: FleetPlan, *, first_rest_s: float = _FIRST_REST_S) -> None:
        """
        Raises:
            ConfigError: see `bench.fleet.plan.server_specs`.
            SinkError: the folder of the logs cannot be made.
        """
        self._plan = plan
        self._first_rest_s = first_rest_s
        self._servers = [_Server(spec) for spec in server_specs(plan)]
        self._wake_fd, self._wake_with_fd = -1, -1
        self._watch: threading.Thread | None = None
        self._leaving = threading.Event()
        self._lock = threading.Lock()
        try:
            plan.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(
                f"the folder {plan.logs} for the servers' logs cannot be made ({error.strerror})"
            ) from error

    @property
    def specs(self) -> tuple[ServerSpec, ...]:
        """What is started."""
        return tuple(server.spec for server in self._servers)

    @property
    def urls(self) -> tuple[str, ...]:
        """Base URL of every server, in the order of the ports."""
        return tuple(url for spec in self.specs for url in spec.urls)

    def report(self) -> list[dict[str, Any]]:
        """Every server as JSON values: where it is, its process, its state, its log."""
        with self._lock:
            return [
                {
                    "url": url,
                    "gpu": server.spec.gpu,
                    "pid": server.process.pid if server.process is not None else None,
                    "state": server.state.value,
                    "restarts": len(server.restarts),
                    "log": str(server.spec.log),
                    "flags": server.spec.flags,
                }
                for server in self._servers
                for url in server.spec.urls
            ]

    def start(self, tell: Callable[[str], None] | None = None) -> ServerFleet:
        """Start every server, and wait until each one is healthy.

        Args:
            tell: Is told in words how it goes on; None for the log.

        Raises:
            ServersUnavailable: one ended, or was not healthy in time; its last words are quoted.
        """
        say = tell or (lambda sentence: _log.info("%s", sentence))
        self._wake_fd, self._wake_with_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        began_s = time.monotonic()
        try:
            for server in self._servers:
                place = "" if server.spec.gpu is None else f" on GPU {server.spec.gpu}"
                say(f"starting {', '.join(server.spec.urls)}{place}: {server.spec.flags}")
                self._begin(server)
            self._wait_until_healthy(say, began_s)
        except BaseException:
            self.stop()
            raise
        self._watch = threading.Thread(target=self._keep_alive, name="servers", daemon=True)
        self._watch.start()
        return self

    @contextlib.contextmanager
    def quietly(self) -> Iterator[ServerFleet]:
        """As a context manager, without a word as long as everything goes well."""
        try:
            yield self.start(lambda _: None)
        finally:
            self.stop()

    def stop(self) -> None:
        """End every server, all at once; returns when they are gone."""
        self._leaving.set()
        if self._watch is not None:
            self._wake()
            self._watch.join()
            self._watch = None
        running = [server for server in self._servers if server.process is not None]
        for server in running:
            assert server.process is not None
            server.process.begin_stop()
        for server in running:
            assert server.process is not None
            server.process.stop()
            server.process = None
        for fd in (self._wake_fd, self._wake_with_fd):
            if fd >= 0:
                os.close(fd)
        self._wake_fd = self._wake_with_fd = -1

    def wait_while_serving(self, stop_fd: int) -> bool:
        """Wait until `stop_fd` is readable (True), or until every server has been given up (False)."""
        while True:
            if select.select([stop_fd], [], [], 1.0)[0]:
                return True
            with self._lock:
                if all(server.state is State.GIVEN_UP for server in self._servers):
                    return False

    def __enter__(self) -> ServerFleet:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _begin(self, server: _Server) -> None:
        process = ServerProcess(server.spec)
        with self._lock:
            server.process, server.state, server.began_s = process, State.STARTING, time.monotonic()

    def _wait_until_healthy(self, say: Callable[[str], None], began_s: float) -> None:
        tell_s = began_s + _TELL_EVERY_S
        while waiting := [server for server in self._servers if server.state is State.STARTING]:
            for server in waiting:
                process = server.process
                assert process is not None
                if (code := process.ended()) is not None:
                    raise ServersUnavailable(
                        f"the server on port {server.spec.name} ended with code {code} before it was healthy: "
                        f"{process.last_words() or 'it said nothing'} (log: {server.spec.log})"
                    )
                if process.is_healthy():
                    self._now_serving(server)
                    say(f"{', '.join(server.spec.urls)} is healthy after {time.monotonic() - began_s:.1f} s")
                elif time.monotonic() - began_s > self._plan.start_timeout_s:
                    raise ServersUnavailable(
                        f"the server on port {server.spec.name} is not healthy after {self._plan.start_timeout_s:g} s: "
                        f"{process.last_words() or 'it said nothing'} (log: {server.spec.log}; --start-timeout)"
                    )
            if time.monotonic() > tell_s and (still := [s for s in self._servers if s.state is State.STARTING]):
                tell_s += _TELL_EVERY_S
                names = ", ".join(server.spec.name for server in still)
                assert still[0].process is not None
                words = still[0].process.last_words().rpartition(" | ")[2]
                say(f"still waiting for {names} ({time.monotonic() - began_s:.0f} s){': ' + words if words else ''}")
            self._rest(_STEP_S)

    def _now_serving(self, server: _Server) -> None:
        with self._lock:
            server.state, server.was_healthy = State.SERVING, True

    def _keep_alive(self) -> None:
        """The watch: starts again what has ended, until the fleet is left."""
        while not self._leaving.is_set():
            now_s = time.monotonic()
            for server in self._servers:
                self._advance(server, now_s)
            dues = [server.due_s - now_s for server in self._servers if server.state is State.RESTING]
            starting = any(server.state is State.STARTING for server in self._servers)
            self._rest(_STEP_S if starting else max(0.0, min(dues)) if dues else None)

    def _advance(self, server: _Server, now_s: float) -> None:
        process = server.process
        if server.state is State.RESTING and now_s >= server.due_s:
            with contextlib.suppress(OSError):
                self._begin(server)
        elif process is not None and server.state in (State.STARTING, State.SERVING):
            if (code := process.ended()) is not None:
                self._after_its_end(server, process, code, now_s)
            elif server.state is State.STARTING and process.is_healthy():
                self._now_serving(server)
                _log.warning("server_back url=%s took_s=%.1f", server.spec.urls[0], now_s - server.began_s)
            elif server.state is State.STARTING and now_s - server.began_s > self._plan.start_timeout_s:
                self._after_its_end(server, process, None, now_s)

    def _after_its_end(self, server: _Server, process: ServerProcess, code: int | None, now_s: float) -> None:
        words = process.last_words().rpartition(" | ")[2]
        process.stop()
        while server.restarts and now_s - server.restarts[0] > WITHIN_S:
            server.restarts.popleft()
        given_up = len(server.restarts) >= MAX_RESTARTS
        rest_s = min(_LONGEST_REST_S, self._first_rest_s * 2 ** len(server.restarts))
        how = "was not healthy in time" if code is None else f"ended with code {code}"
        with self._lock:
            server.process = None
            server.state = State.GIVEN_UP if given_up else State.RESTING
            server.due_s = now_s + rest_s
            if not given_up:
                server.restarts.append(now_s)
        url = server.spec.urls[0]
        if given_up:
            _log.error(
                "server_given_up url=%s %s restarts=%d last=%r log=%s", url, how, MAX_RESTARTS, words, server.spec.log
            )
        else:
            _log.warning("server_ended url=%s %s last=%r again_in_s=%.0f", url, how, words, rest_s)

    def _rest(self, timeout_s: float | None) -> None:
        """Sleep until a server ends, the fleet is left, or the time is over."""
        fds = [server.process.fd for server in self._servers if server.process is not None]
        select.select([self._wake_fd, *fds], [], [], timeout_s)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_with_fd, b"x")
