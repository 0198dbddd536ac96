"""An HTTP server in threads of its own, for what people and monitoring look at while a run goes on.

It answers GET and HEAD of a few paths and nothing else, a bounded number at a time, each within a bounded time. Nothing
that is asked of it, and nothing that goes wrong in it, ends or stops the process that it is in.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import ConfigError
from engine.exposition.address import Address

_log = logging.getLogger("engine.http")

MAX_AT_ONCE = 16
"""Connections; one more is closed without an answer."""
TIMEOUT_S = 10.0
"""How long a connection may stand still."""
MOST_S = 60.0
"""How long it may last."""
_GZIP_FROM_BYTES = 2048
_MOST_BODY_BYTES = 64 << 10
_HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a route sees it: the header `Accept`."""

    accept: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: bytes of a media type, with a status."""

    body: bytes
    media_type: str = "text/plain; charset=utf-8"
    status: int = 200


Route = Callable[[Request], Answer]


class HttpServer:
    """A server that listens from its making to its `close`.

    Attributes:
        address: Where; with the port that was found when 0 was asked for.
    """

    def __init__(self, address: Address, routes: Mapping[str, Route]) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be had.
        """
        try:
            family, _, _, _, where = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._server = _Server(family, where, dict(routes))
        except (OSError, UnicodeError) as error:  # a name that no resolver would be asked for is a UnicodeError
            why = error.strerror if isinstance(error, OSError) else "no name of a host"
            raise ConfigError(f"--http {address} cannot be used ({why}): name a free port of this machine") from error
        self.address = Address(address.host, self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; answers under way are left to their threads."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, family: int, where: Any, routes: dict[str, Route]) -> None:
        self.address_family = family
        self.routes = routes
        self._room = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._until_s: dict[Any, float] = {}  # by open connection
        super().__init__(where, _Handler)

    def server_bind(self) -> None:
        """Bind; `::` takes IPv4 as well."""
        if self.address_family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection; without descriptors to spare the next try waits, or it would go round and round."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, when there is room for one."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread to be had
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer."""
        try:
            self._until_s[request] = time.monotonic() + MOST_S
            super().process_request_thread(request, client_address)
        finally:
            self._until_s.pop(request, None)
            self._room.release()

    def service_actions(self) -> None:
        """Called about twice a second: end connections that dribble."""
        now_s = time.monotonic()
        for request, until_s in list(self._until_s.items()):
            if now_s > until_s:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nobody's business."""
        _log.debug("http_failed error=%r", str(sys.exc_info()[1]))


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "engine"
    sys_version = ""
    timeout = TIMEOUT_S

    def parse_request(self) -> bool:
        """Parse, and refuse other methods than GET and HEAD here, whatever their names."""
        if not super().parse_request():
            return False
        self.close_connection = True
        if self.command in ("GET", "HEAD"):
            return True
        self._read_on()
        self._send(Answer(b"only GET and HEAD are answered\n", status=405), {"Allow": "GET, HEAD"})
        return False

    def _read_on(self) -> None:
        """Read what follows: a connection that is closed before that is a reset, and the answer is lost."""
        length = self.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit():
            self.rfile.read(min(int(length), _MOST_BODY_BYTES))

    def do_GET(self) -> None:
        """Answer from the route of the path."""
        route = self.server.routes.get(self.path.partition("?")[0])
        if route is None:
            known = "  ".join(self.server.routes)
            self._send(Answer(f"not found; there are {known}\n".encode(), status=404))
            return
        try:
            answer = route(Request(self.headers.get("Accept", "")))
        except Exception as error:  # noqa: BLE001 - what a page fails with is its reader's trouble, never the run's
            _log.warning("http_not_answered path=%s error=%r", self.path.partition("?")[0], str(error))
            answer = Answer(b"this cannot be told now; the log says why\n", status=500)
        self._send(answer)

    do_HEAD = do_GET

    def _send(self, answer: Answer, headers: Mapping[str, str] | None = None) -> None:
        body = answer.body
        self.send_response(answer.status)
        if len(body) >= _GZIP_FROM_BYTES and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, 1)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", answer.media_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in {**_HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a log is about the run."""
