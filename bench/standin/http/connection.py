"""One HTTP/1.1 connection on the loop: parsing, in-order answers, partial writes, resets and half answers.

Requests of one connection are handed out one at a time, in order. The answer is a list of byte blocks that goes
to the kernel in one `sendmsg`, so a prepared body is never copied in user space.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from engine.errors import ConfigError

try:
    import httptools
except ModuleNotFoundError as missing:
    raise ConfigError(
        "The stand-in servers need httptools, which is not installed: pip install httptools."
    ) from missing

from bench.standin.http.loop import READ, WRITE, Loop

Block = bytes | memoryview

#: Room for a whole answer of 32 x 768 base64 vectors (131 KB), so that it leaves in one system call.
_SEND_BUFFER_BYTES: Final = 1 << 19
_RECEIVE_BYTES: Final = 1 << 18
#: Requests that a client may pipeline before it is cut off.
_MOST_PENDING: Final = 64
#: How long a refused upload is still read, so that the client sees the answer and not a reset.
_LINGER_S: Final = 5.0
#: What is left of a refused upload at most for the connection to stay in use.
_SMALL_REST_BYTES: Final = 1 << 16
_CORS: Final = (
    b"vary: origin, access-control-request-method, access-control-request-headers\r\naccess-control-allow-origin: *\r\n"
)

_received = bytearray(_RECEIVE_BYTES)
_received_view = memoryview(_received)

#: Those that Python has called otherwise in some versions; these are the words of the real server's HTTP library.
_PHRASES: Final = {
    413: "Payload Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Entity",
}
STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {_PHRASES.get(status.value, status.phrase)}\r\n".encode()
    for status in HTTPStatus
}


class _Date:
    """The date header, made anew once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
        return self._line


_date = _Date()


class Request:
    """One parsed request; `too_large` means that the body passed the limit and was thrown away."""

    __slots__ = ("body", "headers", "is_old", "keep_alive", "method", "path", "received_s", "too_large")

    def __init__(self) -> None:
        self.method = b""
        self.path = ""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.keep_alive = True
        self.is_old = False  # HTTP/1.0
        self.too_large = False
        self.received_s = 0.0


@dataclass(slots=True)
class Response:
    """One answer; `content_length=None` sends the true length."""

    status: int
    blocks: list[Block] = field(default_factory=list)
    content_type: bytes | None = b"application/json"
    headers: bytes = b""  # complete lines, each with its CRLF
    content_length: int | None = None
    close: bool = False
    cors: bool = True

    def body(self) -> bytes:
        """Return the body as one block."""
        return b"".join(self.blocks)

    def head(self, *, is_old: bool = False) -> bytes:
        """Return status line and headers, ending with the empty line; `is_old` is for HTTP/1.0."""
        length = sum(map(len, self.blocks)) if self.content_length is None else self.content_length
        line = STATUS_LINES.get(self.status) or b"HTTP/1.1 %d Unknown\r\n" % self.status
        kind = b"" if self.content_type is None else b"content-type: " + self.content_type + b"\r\n"
        stay = b"connection: close\r\n" if self.close else b""
        if is_old:
            line = b"HTTP/1.0" + line[8:]
            stay = b"" if self.close else b"connection: keep-alive\r\n"
        cors = _CORS if self.cors else b""
        return b"%b%b%b%b%bcontent-length: %d\r\n%b\r\n" % (
            line, kind, self.headers, cors, stay, length, _date.line(),
        )  # fmt: skip


class Connection:
    """A client's connection; `serve` is called with each request once the former one is answered."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_close_when_sent",
        "_closed",
        "_drain_only",
        "_limit_bytes",
        "_loop",
        "_on_closed",
        "_out",
        "_parser",
        "_pending",
        "_request",
        "_serve",
        "_sock",
        "_source",
        "active",
        "answers",
        "on_gone",
    )

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        limit_bytes: int,
        serve: Callable[[Connection, Request], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._loop = loop
        self._sock = sock
        self._limit_bytes = limit_bytes
        self._serve = serve
        self._on_closed = on_closed
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._pending: deque[Request] = deque()
        self._out: deque[Block] = deque()
        self._source: Iterator[Block] | None = None
        self._closed = False
        self._drain_only = False
        self._close_when_sent = False
        self.active: Request | None = None
        self.answers = 0
        self.on_gone: Callable[[], None] | None = None
        loop.add(sock.fileno(), READ, self._on_event)

    # -- what the server calls -------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Return whether the connection is gone."""
        return self._closed

    def answer(self, response: Response) -> None:
        """Send `response` for the active request and go on with the next one."""
        request = self.active
        if request is None or self._closed:
            return
        if not request.keep_alive:
            response.close = True
        blocks: list[Block] = [response.head(is_old=request.is_old)]
        if request.method != b"HEAD":
            blocks += response.blocks
        self.send(blocks)
        self.finish(close=response.close)

    def send(self, blocks: list[Block]) -> None:
        """Send raw blocks; what the kernel does not take now follows when it can."""
        if self._closed:
            return
        if self._out:
            self._out.extend(blocks)
            return
        try:
            sent = self._sock.sendmsg(blocks)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        for position, block in enumerate(blocks):
            if sent < len(block):
                self._out.append(memoryview(block)[sent:])
                self._out.extend(blocks[position + 1 :])
                self._loop.change(self._sock.fileno(), READ | WRITE)
                return
            sent -= len(block)

    def stream(self, source: Iterator[Block]) -> None:
        """Send what `source` gives for as long as the client takes it, then end the active request."""
        self._source = source
        self._loop.change(self._sock.fileno(), READ | WRITE)

    def finish(self, *, close: bool) -> None:
        """End the active request; `close` ends the connection once everything is sent."""
        is_too_much = self.active is not None and self.active.too_large and not self._rest_is_small(self.active)
        self.active = None
        self.on_gone = None
        self.answers += 1
        if is_too_much:
            self._drain_only = True
            self._loop.call_later(_LINGER_S, self.close)
        elif close:
            self._drain_only = self._close_when_sent = True
            if not self._out:
                self.close()
        elif self._pending:
            self._begin(self._pending.popleft())

    def _rest_is_small(self, request: Request) -> bool:
        """Whether so little of a refused body is still to come that it is read and thrown away."""
        length = request.headers.get(b"content-length", b"")
        return length.isdigit() and int(length) - self._body_bytes <= _SMALL_REST_BYTES

    def close(self) -> None:
        """Close at once; the kernel still delivers what it already has (FIN)."""
        if self._closed:
            return
        self._closed = True
        self._loop.drop(self._sock.fileno())
        self._sock.close()
        self._out.clear()
        self._source = None
        gone, self.on_gone = self.on_gone, None
        self.active = None
        if gone is not None:
            gone()
        self._on_closed(self)

    def reset(self) -> None:
        """Close with a TCP reset."""
        if not self._closed:
            # linger on, 0 s: close() sends RST and drops what is still in the send buffer
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()

    def stop_reading(self) -> None:
        """Leave everything the client sends in the kernel's buffer, for ever (a black hole)."""
        if not self._closed:
            self._loop.change(self._sock.fileno(), 0)

    # -- socket events ---------------------------------------------------------------------------------

    def _on_event(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & ~WRITE and not self._closed:
            self._receive()

    def _receive(self) -> None:
        try:
            n_bytes = self._sock.recv_into(_received)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            n_bytes = 0
        if not n_bytes:
            self.close()
            return
        if self._drain_only:
            return
        try:
            self._parser.feed_data(_received_view[:n_bytes])
        except httptools.HttpParserUpgrade:
            self.close()
        except httptools.HttpParserError:
            self.active = self.active or Request()
            self.answer(Response(status=400, content_type=None, close=True, cors=False))

    def _flush(self) -> None:
        while not self._closed:
            if not self._out:
                block = next(self._source, None) if self._source is not None else None
                if block is None:
                    break
                self._out.append(block)
            try:
                sent = self._sock.send(self._out[0])
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            if sent < len(self._out[0]):
                self._out[0] = memoryview(self._out[0])[sent:]
                return
            self._out.popleft()
        if self._closed:
            return
        if self._close_when_sent:
            self.close()
            return
        self._loop.change(self._sock.fileno(), READ)
        if self._source is not None:
            self._source = None
            self.finish(close=False)

    # -- parser events ---------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._request = Request()
        self._body.clear()
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._request.path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        request = self._request
        request.method = self._parser.get_method()
        request.keep_alive = self._parser.should_keep_alive()
        request.is_old = self._parser.get_http_version() == "1.0"
        if request.headers.get(b"expect", b"").lower() == b"100-continue":
            self.send([b"HTTP/1.1 100 Continue\r\n\r\n"])

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes <= self._limit_bytes:
            self._body.append(body)
        elif not self._request.too_large:
            self._request.too_large = True
            self._body.clear()
            self._hand_out(self._request)

    def on_message_complete(self) -> None:
        request = self._request
        if request.too_large:
            return
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._hand_out(request)

    def _hand_out(self, request: Request) -> None:
        request.received_s = self._loop.now()
        if self._drain_only or self._closed:
            return
        if self.active is None and not self._pending:
            self._begin(request)
        elif len(self._pending) >= _MOST_PENDING:
            self.close()
        else:
            self._pending.append(request)

    def _begin(self, request: Request) -> None:
        self.active = request
        self._serve(self, request)
