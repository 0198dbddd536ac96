"""Stand-in servers as child processes, for tests, benches and the demo."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import selectors
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from types import TracebackType
from typing import IO, Any, ClassVar

import orjson

from bench.standin.arguments import API_KEY_ENV, to_arguments
from bench.standin.config import StandinConfig
from bench.standin.errors import FleetError
from bench.standin.faults.script import for_positions
from engine.supervision.interpreter import python

_START_S = 60.0
_STOP_S = 30.0
_CONTROL_S = 60.0


class _Child:
    """One server process with its life-line.

    Attributes:
        popen: What starts the process; tests have something that is quicker than a new interpreter.
    """

    popen: ClassVar[type[subprocess.Popen[bytes]]] = subprocess.Popen

    def __init__(self, config: StandinConfig) -> None:
        environment = dict(os.environ)
        environment.pop(API_KEY_ENV, None)
        if config.api_key is not None:
            environment[API_KEY_ENV] = config.api_key
        if config.backend == "minilm":
            # its own threads use the cores; threads inside the kernels would only get in their way
            environment.setdefault("OPENBLAS_NUM_THREADS", "1")
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self.process = self.popen(
            python("bench.standin.__main__", *to_arguments(config)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            # a terminal's Ctrl-C is for the engine; the servers end with their life-line
            start_new_session=True,
        )
        self.ports: tuple[int, ...] = ()
        self.control_port = 0

    def wait_ready(self, deadline_s: float) -> None:
        """Wait for the line with the ports.

        Raises:
            FleetError: the process ended, or the deadline passed.
        """
        line = self._first_line(deadline_s)
        if not line.endswith(b"\n"):
            self._end()
            self._stderr.seek(0)
            said = self._stderr.read().decode("utf-8", "replace").strip()
            raise FleetError(f"A stand-in server did not become ready: {said or 'it said nothing.'}")
        ready = orjson.loads(line)
        self.ports = tuple(ready["ports"])
        self.control_port = ready["control_port"]

    def stop(self) -> int | None:
        """Stop the process; return its exit code."""
        self._end()
        for stream in (self.process.stdin, self.process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        return self.process.returncode

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(_STOP_S)

    def _first_line(self, deadline_s: float) -> bytes:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline_s - time.monotonic())):
                    return line
                piece = os.read(fd, 4096)
                if not piece:
                    return line
                line += piece
        return line


class StandinFleet:
    """Runs the servers of a configuration in child processes; use it as a context manager.

    `processes=1` runs all ports in one process (with `minilm` they share one model); `processes=len(config.ports)`
    gives each port its own, so that it can be killed alone.
    """

    def __init__(self, config: StandinConfig | None = None, *, processes: int = 1) -> None:
        config = config or StandinConfig()
        if not 1 <= processes <= len(config.ports):
            raise FleetError(f"processes is {processes}, expected 1 to {len(config.ports)} (one per port at most).")
        shares = [range(part, len(config.ports), processes) for part in range(processes)]
        self._configs = [_part_of(config, positions) for positions in shares]
        self._order = [position for positions in shares for position in positions]
        self._host = config.host
        self._children: list[_Child] = []

    def start(self) -> StandinFleet:
        """Start the processes and wait until every port accepts connections.

        Raises:
            FleetError: a process ended or did not become ready; its message is quoted.
        """
        deadline_s = time.monotonic() + _START_S
        try:
            for config in self._configs:
                self._children.append(_Child(config))
            for child in self._children:
                child.wait_ready(deadline_s)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> list[int | None]:
        """Stop all processes; return their exit codes (negative: ended by that signal)."""
        return [child.stop() for child in self._children]

    def __enter__(self) -> StandinFleet:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def ports(self) -> tuple[int, ...]:
        """Return the ports in the order of the configuration."""
        found = [port for child in self._children for port in child.ports]
        return tuple(port for _, port in sorted(zip(self._order, found, strict=True)))

    @property
    def urls(self) -> tuple[str, ...]:
        """Return the base URLs in the order of the configuration."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return tuple(f"http://{host}:{port}" for port in self.ports)

    @property
    def pid(self) -> int:
        """Return the process id of the first process."""
        return self._children[0].process.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the process ids."""
        return tuple(child.process.pid for child in self._children)

    def pid_of(self, port: int) -> int:
        """Return the process that serves `port`."""
        return self._child_of(port).process.pid

    def kill(self, port: int) -> None:
        """Kill the process that serves `port` with SIGKILL and wait for its end."""
        child = self._child_of(port)
        child.process.kill()
        child.process.wait(_STOP_S)

    def wait(self, port: int, timeout_s: float = _STOP_S) -> int:
        """Wait for the process that serves `port` to end; return its exit code."""
        try:
            return self._child_of(port).process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise FleetError(f"The server on port {port} still runs after {timeout_s} s.") from error

    def control(self, port: int, **orders: Any) -> dict[str, Any]:
        """Give `orders` to the server on `port` and return its report after them.

        The orders are those of `bench.standin.server.control.apply_orders`; without any it only reports. It works
        while the port refuses or hangs.

        Raises:
            FleetError: the process is gone, or an order cannot be used.
        """
        child = self._child_of(port)
        request = urllib.request.Request(
            f"http://{self._host}:{child.control_port}/",
            data=orjson.dumps({"port": port, **orders}),
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_CONTROL_S) as answer:
                reports: list[dict[str, Any]] = orjson.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise FleetError(f"The server on port {port} refused {orders}: {error.read().decode()}") from error
        except OSError as error:
            raise FleetError(f"The server on port {port} does not answer: {error}") from error
        return reports[0]

    def reports(self) -> list[dict[str, Any]]:
        """Return the report of every server, in the order of `ports`."""
        return [self.control(port) for port in self.ports]

    def _child_of(self, port: int) -> _Child:
        for child in self._children:
            if port in child.ports:
                return child
        raise FleetError(f"No server of this fleet has port {port}, expected one of {self.ports}.")


def _part_of(config: StandinConfig, positions: range) -> StandinConfig:
    """The configuration of the child that serves some of the ports; it ends with its parent."""
    part = config.on_ports(tuple(config.ports[at] for at in positions), tuple(config.speed_of(at) for at in positions))
    faults = [for_positions(spec, positions) for spec in config.faults]
    return dataclasses.replace(part, lifeline=True, faults=tuple(spec for spec in faults if spec is not None))
