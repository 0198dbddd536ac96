"""A proxy before an object store that does wrong on demand: errors, cuts, delays, lies; requests pass through else."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>on demand</Message></Error>"
CODES = {500: b"InternalError", 503: b"SlowDown", 429: b"TooManyRequests", 403: b"AccessDenied", 409: b"Conflict"}


@dataclass(kw_only=True)
class Fault:
    """Something that goes wrong with some requests.

    Attributes:
        kind: `error` (not passed on), `error_after` (passed on, then an error), `drop` (the connection is cut, not
            passed on), `drop_after` (passed on, then cut), `delay`, `flip` (a byte of the body is another), `cut`
            (half of the answer's body, then the connection is cut), `size` (the answer tells another size), `etag`
            (another ETag), `hidden` (404).
        method, path: Which requests; the path is a regular expression.
        first_byte: Only requests for a range that begins there; None for all.
        times: How often, from the first that matches.
        status: Of an error.
        seconds: Of a delay.
    """

    kind: str
    method: str = "PUT"
    path: str = r"\.parquet$"
    first_byte: range | None = None
    times: int = 1
    status: int = 500
    seconds: float = 0.0
    hits: int = 0


@dataclass(kw_only=True)
class _State:
    port: int
    faults: list[Fault] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    on_request: Callable[[str, str, int], None] | None = None

    def fault_for(self, method: str, path: str, first_byte: int) -> Fault | None:
        with self.lock:
            self.seen[method] += 1
            for fault in self.faults:
                plain = path.partition("?")[0]
                if fault.first_byte is not None and first_byte not in fault.first_byte:
                    continue
                if fault.method == method and re.search(fault.path, plain) and fault.hits < fault.times:
                    fault.hits += 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: _State

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        range_header = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        first_byte = int(range_header[1]) if range_header else -1
        if self.state.on_request is not None:
            self.state.on_request(self.command, self.path, first_byte)
        fault = self.state.fault_for(self.command, self.path, first_byte)
        kind = fault.kind if fault is not None else ""
        if fault is not None and kind == "error":
            return self._error(fault.status)
        if kind == "hidden":
            return self._error(404)
        if kind == "drop":
            return self._drop()
        if fault is not None and kind == "delay":
            time.sleep(fault.seconds)
        if kind == "flip" and body:
            body = body[:-1] + bytes([body[-1] ^ 1]) if len(body) < 100 else _flipped(body)
        status, headers, data = self._ask(body)
        if fault is not None and kind == "error_after":
            return self._error(fault.status)
        if kind == "drop_after":
            return self._drop()
        self._answer(status, headers, data, kind)
        return None

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        server = http.client.HTTPConnection("127.0.0.1", self.state.port, timeout=60)
        try:
            server.request(self.command, self.path, body, dict(self.headers.items()))
            answer = server.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            server.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, kind: str) -> None:
        self.send_response(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            if name.lower() in ("content-length", "connection", "transfer-encoding", "date", "server"):
                continue
            self.send_header(name, '"0123456789abcdef0123456789abcdef"' if kind == "etag" and name == "ETag" else value)
        self.send_header("Content-Length", str(int(length) + 1) if kind == "size" else length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if kind == "cut" else data)
        if kind == "cut":
            self._drop()

    def _error(self, status: int) -> None:
        data = b"" if self.command == "HEAD" else ERROR % CODES.get(status, b"Error")
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _drop(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


class FaultProxy:
    """A proxy on 127.0.0.1 before a server on another port.

    Attributes:
        faults: What goes wrong from now on.
        seen: Requests so far by method.
    """

    def __init__(self, port: int) -> None:
        self._state = _State(port=port)
        handler = type("Handler", (_Handler,), {"state": self._state})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="proxy", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """For `--cold-endpoint`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def faults(self) -> list[Fault]:
        """What goes wrong from now on."""
        return self._state.faults

    @property
    def seen(self) -> Counter[str]:
        """Requests so far by method."""
        return self._state.seen

    def watch(self, on_request: Callable[[str, str, int], None]) -> None:
        """Be told of every request before it is passed on: method, path, first byte of a range or -1."""
        self._state.on_request = on_request

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
