"""HTTP/1.1 over non-blocking sockets, in one thread: as little work per request as can be.

A request leaves in one `sendmsg` from the memory where it lies (a slot of the document ring), an answer is received
into a buffer that its connection keeps, and is handed out as a view into it. Nothing of the environment applies:
no proxies, no `.netrc`, no redirects, no decompression (none is asked for, and an encoded body is refused).

Every exchange has one deadline for all of it and a cap on the answer's bytes, so a server that drips, never ends its
headers or sends gigabytes costs a bounded time and a bounded memory. A kept-alive connection that turns out to be
closed before the first byte of the answer is the server's idle timeout, not a failure: the request goes out again on
a fresh connection at once. (Embedding is pure, so a request that did arrive does no harm.)
"""

from __future__ import annotations

import enum
import errno
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from engine.errors import ConfigError, ProtocolError
from gpu_clients.answers import AnswerReader, BadAnswer
from gpu_clients.errors import Failure, FailureKind

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
EXCLUSIVE = select.EPOLLEXCLUSIVE
"""Of several processes that wait for the same descriptor, wake one."""
CONNECT_TIMEOUT_S = 5.0
_RECEIVE_BUFFER_BYTES = 1 << 20
"""Asked for; the kernel gives what it allows. An answer of 128 x 768 is half a megabyte."""

Buffer = bytes | bytearray | memoryview
Target = tuple[object, ...]
"""A socket address as `getaddrinfo` gives it."""
_ROUTES = ("/v1/embeddings", "/embeddings", "/embed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is.

    Attributes:
        url: As the user wrote it.
        host: Name or address.
        port: TCP port.
        tls: Whether the URL says https.
        base: Path in front of the server's routes, without a slash at its end; mostly empty.
    """

    url: str
    host: str
    port: int
    tls: bool
    base: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a base URL, or one that ends in an embedding route.

        Raises:
            ConfigError: not an http or https URL, or one with credentials or a query in it.
        """
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"server URL {url!r} cannot be read: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"server URL {url!r} is not of the form http://host:port[/embed]")
        if parts.username is not None or parts.query or parts.fragment:
            raise ConfigError(
                f"server URL of {parts.hostname} holds credentials, a query or a fragment: "
                "put a key into the environment instead (see --help)"
            )
        path = parts.path.rstrip("/")
        for route in _ROUTES:
            if path.endswith(route):
                path = path[: -len(route)]
                break
        tls = parts.scheme == "https"
        return cls(url=url.strip(), host=parts.hostname, port=port or (443 if tls else 80), tls=tls, base=path)

    @property
    def authority(self) -> str:
        """`host:port` for the Host header and for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Poller:
    """Readiness of descriptors: one callback each, level-triggered."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler(events)` whenever one of `events` holds."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        """Wait for other events."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching; harmless when not watched."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def watches(self, fd: int) -> bool:
        """Whether `fd` is watched."""
        return fd in self._handlers

    def run(self, timeout_s: float) -> None:
        """Wait for at most `timeout_s` and serve what is ready."""
        for fd, events in self._epoll.poll(timeout_s):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)

    def close(self) -> None:
        """Close the poller, not what it watched."""
        self._epoll.close()


class Exchange:
    """One request and its answer.

    Attributes:
        tag: The caller's own mark.
        status: Status of the answer, 0 before.
        headers: Names in lower case; the last one counts.
        body: The answer's body, a view into the connection's buffer, valid until `release`.
        failure: Why there is no answer, or None.
        started_s, finished_s: Monotonic seconds.
        bytes_out, bytes_in: Size of the request body and of the answer's body.
        resent: Whether a stale kept-alive connection made it go out twice.
        n_refused: Addresses of the server that took no connection for it.
        connection: Who holds the answer.
    """

    __slots__ = (
        "body", "bytes_in", "bytes_out", "connection", "deadline_s", "failure", "finished_s", "headers",
        "max_body_bytes", "n_refused", "parts", "resent", "started_s", "status", "tag",
    )  # fmt: skip

    def __init__(self, parts: list[Buffer], tag: object, deadline_s: float, max_body_bytes: int) -> None:
        self.parts = parts
        self.tag = tag
        self.deadline_s = deadline_s
        self.max_body_bytes = max_body_bytes
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body: memoryview = memoryview(b"")
        self.failure: Failure | None = None
        self.started_s = time.monotonic()
        self.finished_s = 0.0
        self.bytes_out = 0
        self.bytes_in = 0
        self.resent = False
        self.n_refused = 0
        self.connection: Connection | None = None

    def release(self) -> None:
        """Give the connection and its buffer back; `body` must not be looked at any more."""
        connection, self.connection = self.connection, None
        self.body = memoryview(b"")
        self.parts = []
        if connection is not None:
            connection.recycle()


class ConnectionState(enum.Enum):
    """What a connection is doing."""

    CONNECTING = "connecting"
    HANDSHAKE = "handshake"
    IDLE = "idle"
    SENDING = "sending"
    RECEIVING = "receiving"
    ANSWERED = "answered"  # the answer has not been released yet
    CLOSED = "closed"


_MOVES: dict[ConnectionState, frozenset[ConnectionState]] = {
    ConnectionState.CONNECTING: frozenset({ConnectionState.HANDSHAKE, ConnectionState.SENDING, ConnectionState.CLOSED}),
    ConnectionState.HANDSHAKE: frozenset({ConnectionState.SENDING, ConnectionState.CLOSED}),
    ConnectionState.IDLE: frozenset({ConnectionState.SENDING, ConnectionState.CLOSED}),
    ConnectionState.SENDING: frozenset({ConnectionState.RECEIVING, ConnectionState.CLOSED}),
    ConnectionState.RECEIVING: frozenset({ConnectionState.ANSWERED, ConnectionState.CLOSED}),
    ConnectionState.ANSWERED: frozenset({ConnectionState.IDLE, ConnectionState.CLOSED}),
    ConnectionState.CLOSED: frozenset(),
}


class Connection:
    """One connection, one exchange at a time."""

    __slots__ = (
        "_client", "_connect_deadline_s", "_exchange", "_may_reuse", "_out", "_poller", "_reader", "_served",
        "_waits_to_write", "fd", "host", "sock", "state",
    )  # fmt: skip

    def __init__(self, client: HttpClient, exchange: Exchange, family: int) -> None:
        self._client = client
        self._poller = client.poller
        self._exchange: Exchange | None = exchange
        self._reader = AnswerReader()
        self._out: list[Buffer] = []
        self._served = 0
        self._may_reuse = False
        self._waits_to_write = True
        self._connect_deadline_s = min(exchange.deadline_s, time.monotonic() + CONNECT_TIMEOUT_S)
        self.state = ConnectionState.CONNECTING
        self.host = client.address.host
        self.sock: socket.socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.fd = self.sock.fileno()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)

    def move(self, state: ConnectionState) -> None:
        """Go into another state.

        Raises:
            ProtocolError: the table does not allow it.
        """
        if state not in _MOVES[self.state]:
            raise ProtocolError(f"connection cannot go from {self.state.name} to {state.name}")
        self.state = state

    # -- what the client calls -------------------------------------------------------------------------

    def connect(self, target: Target) -> None:
        """Begin to connect; the request follows by itself."""
        self._poller.watch(self.fd, READ | WRITE, self._on_event)
        code = self.sock.connect_ex(target)
        if code not in (0, errno.EINPROGRESS):
            self.refused(errno.errorcode.get(code, str(code)))

    def start(self, exchange: Exchange) -> None:
        """Send a further request on this idle connection."""
        self._exchange = exchange
        self._send_first()

    def check_deadline(self, now_s: float) -> None:
        """Fail the exchange when its time is over."""
        exchange = self._exchange
        if exchange is None or self.state is ConnectionState.ANSWERED:
            return
        if self.state in (ConnectionState.CONNECTING, ConnectionState.HANDSHAKE):
            if now_s >= self._connect_deadline_s:
                self.refused("no answer in time")
        elif now_s >= exchange.deadline_s:
            waited_s = now_s - exchange.started_s
            self._fail(FailureKind.TIMEOUT, f"no complete answer within {waited_s:.1f} s")

    def serves(self, exchange: Exchange) -> bool:
        """Whether it is busy with this exchange."""
        return self._exchange is exchange

    def recycle(self) -> None:
        """Take the next request, now that the last answer has been looked at."""
        self._reader.release()
        self._exchange = None
        if self.state is ConnectionState.CLOSED:
            return
        if self._may_reuse:
            self.move(ConnectionState.IDLE)
            self._client.has_idle(self)
        else:
            self.close()

    def close(self) -> None:
        """Close at once."""
        if self.state is not ConnectionState.CLOSED:
            self.move(ConnectionState.CLOSED)
            self._poller.forget(self.fd)
            self.sock.close()
            self._client.has_closed(self)

    # -- what a connection with TLS does otherwise -----------------------------------------------------

    def established(self) -> None:
        """The transport is connected: go on with the request."""
        self._send_first()

    def transmit(self, parts: list[Buffer]) -> int:
        """Hand bytes to the transport; 0 when it takes none now."""
        try:
            return self.sock.sendmsg(parts)
        except BlockingIOError:
            return 0

    def fill(self, room: memoryview) -> int | None:
        """Receive into `room`; None when nothing waits, 0 at the end of the connection."""
        try:
            return self.sock.recv_into(room)
        except BlockingIOError:
            return None

    def handshake(self) -> None:
        """Go on with the handshake; plain connections have none."""

    def wait_for(self, *, writing: bool) -> None:
        """Be told when the socket can be read, and also when it can be written; no system call without a change."""
        if writing is not self._waits_to_write:
            self._waits_to_write = writing
            self._poller.change(self.fd, READ | WRITE if writing else READ)

    def refused(self, why: str) -> None:
        """There is no connection to this address of the server: try the name's next one, if it has more."""
        exchange = self._exchange
        if exchange is not None and self._client.try_next_target(exchange):
            self._exchange = None
            self.close()
            self._client.reconnect(exchange)
            return
        self._fail(FailureKind.REFUSED, f"cannot connect to {self._client.address.authority}: {why}")

    # -- socket events ---------------------------------------------------------------------------------

    def _on_event(self, events: int) -> None:
        state = self.state
        if state is ConnectionState.RECEIVING:
            self._receive()
        elif state is ConnectionState.SENDING:
            if events & ~WRITE:
                self._receive()  # an early answer (413, say) or the end of the connection
            if self.state is ConnectionState.SENDING and events & WRITE:
                self._send()
        elif state is ConnectionState.CONNECTING:
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.refused(errno.errorcode.get(code, str(code)))
            else:
                self.established()
        elif state is ConnectionState.HANDSHAKE:
            self.handshake()
        elif state is not ConnectionState.ANSWERED:
            self.close()  # the server closed an idle connection, or spoke without being asked
        else:
            self._may_reuse = False
            self._poller.forget(self.fd)

    def _send_first(self) -> None:
        assert self._exchange is not None
        self._reader.start(self._exchange.max_body_bytes)
        self._out = self._exchange.parts
        self.move(ConnectionState.SENDING)
        self._send()

    def _send(self) -> None:
        try:
            sent = self.transmit(self._out)
        except OSError as error:
            self._lost(error)
            return
        for position, part in enumerate(self._out):
            if sent < len(part):
                self._out = [memoryview(part)[sent:], *self._out[position + 1 :]]
                self.wait_for(writing=True)
                return
            sent -= len(part)
        self._out = []
        self.move(ConnectionState.RECEIVING)
        self.wait_for(writing=False)

    def _receive(self) -> None:
        reader = self._reader
        try:
            while True:
                room = reader.room()
                n_bytes = self.fill(room)
                if n_bytes is None:
                    return
                if not n_bytes:
                    self._ended()
                    return
                if reader.take(n_bytes):
                    self._answered()
                    return
        except BadAnswer as error:
            self._fail(error.kind, str(error))
        except OSError as error:
            self._lost(error)

    def _answered(self) -> None:
        exchange, reader = self._exchange, self._reader
        assert exchange is not None
        early = self.state is ConnectionState.SENDING
        if early:
            self.move(ConnectionState.RECEIVING)
        self.move(ConnectionState.ANSWERED)
        self._may_reuse = reader.keeps_alive and not early
        self._served += 1
        self._client.has_answer(exchange, reader, self)

    def _ended(self) -> None:
        if self._reader.end():
            self._answered()
        else:
            self._lost(None)

    def _lost(self, error: OSError | None) -> None:
        exchange = self._exchange
        assert exchange is not None
        what = "was closed" if error is None else f"was lost ({errno.errorcode.get(error.errno or 0, error)})"
        if self._served and not self._reader.began and not exchange.resent:
            self._exchange = None
            self.close()
            self._client.resend(exchange)
        elif self._reader.began:
            self._fail(FailureKind.LOST, f"the connection {what} in the middle of an answer")
        else:
            self._fail(FailureKind.LOST, f"the connection {what} before an answer")

    def _fail(self, kind: FailureKind, detail: str) -> None:
        exchange, self._exchange = self._exchange, None
        self._reader.release()
        self.close()
        if exchange is not None:
            if exchange.resent and kind is FailureKind.REFUSED:
                kind = FailureKind.LOST  # it was lost first; that nobody listens any more is the consequence
            exchange.failure = Failure(kind=kind, detail=detail)
            self._client.has_finished(exchange)


class HttpClient:
    """Connections to one server, as many as there are requests in flight.

    Attributes:
        address: Where the server is.
        poller: Who watches the sockets; may be shared by several clients.
        finished: Exchanges that came to an end, for the owner to take.
        n_connected: Connections opened so far.
        n_resent: Requests that went out again because a kept-alive connection was stale.
    """

    def __init__(self, address: Address, poller: Poller, *, api_key: str | None = None) -> None:
        self.address = address
        self.poller = poller
        self._connection_type = Connection
        if address.tls:
            from gpu_clients.tls import TlsConnection  # noqa: PLC0415 - `ssl` costs every client's start 10 ms

            self._connection_type = TlsConnection
        self.finished: deque[Exchange] = deque()
        self.n_connected = 0
        self.n_resent = 0
        self._authorization = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._targets: list[tuple[int, Target]] = []
        self._target = 0

    def start(
        self,
        method: str,
        path: str,
        body: Sequence[Buffer] = (),
        *,
        deadline_s: float,
        max_body_bytes: int,
        tag: object = None,
    ) -> Exchange:
        """Begin a request; its exchange appears in `finished` once it came to an end.

        Args:
            method: `GET` or `POST`.
            path: Path on the server, behind the address's base.
            body: Parts of a JSON body; must stay as they are until the exchange is finished.
            deadline_s: Monotonic time by which the whole answer must be there.
            max_body_bytes: Cap on the answer's body.
            tag: The caller's own mark.
        """
        n_bytes = sum(map(len, body))
        head = self._heads.get((method, path)) or self._make_head(method, path)
        exchange = Exchange([head % n_bytes, *body], tag, deadline_s, max_body_bytes)
        exchange.bytes_out = n_bytes
        if self._idle:
            self._idle.pop().start(exchange)
        else:
            self._connect(exchange)
        return exchange

    @property
    def in_flight(self) -> int:
        """Exchanges that are not finished, or finished and not released."""
        return len(self._open) - len(self._idle)

    def check_deadlines(self) -> None:
        """Fail what is overdue; to be called every so often."""
        now_s = time.monotonic()
        for connection in tuple(self._open):
            connection.check_deadline(now_s)

    def cancel(self, exchange: Exchange) -> bool:
        """Close the connection of an exchange; False when it had come to its end already and was taken."""
        if exchange in self.finished:
            self.finished.remove(exchange)
            exchange.release()
            return True
        for connection in self._open:
            if connection.serves(exchange):
                connection.close()
                return True
        return False

    def abandon(self) -> None:
        """Close every connection; exchanges in flight are forgotten, the server drops what it has not begun."""
        for connection in tuple(self._open):
            connection.close()
        self.finished.clear()

    def _make_head(self, method: str, path: str) -> bytes:
        head = (
            f"{method} {self.address.base}{path} HTTP/1.1\r\nHost: {self.address.authority}\r\n{self._authorization}"
            "Accept: application/json\r\nContent-Type: application/json\r\nContent-Length: "
        )
        made = self._heads[method, path] = head.replace("%", "%%").encode("ascii") + b"%d\r\n\r\n"
        return made

    def _connect(self, exchange: Exchange) -> None:
        try:
            if not self._targets:
                self._resolve()
            family, target = self._targets[self._target % len(self._targets)]
            connection = self._connection_type(self, exchange, family)
        except OSError as error:
            detail = f"cannot reach {self.address.authority}: {error.strerror or error}"
            exchange.failure = Failure(kind=FailureKind.REFUSED, detail=detail)
            self.has_finished(exchange)
            return
        self.n_connected += 1
        self._open.add(connection)
        connection.connect(target)

    def _resolve(self) -> None:
        found = socket.getaddrinfo(self.address.host, self.address.port, type=socket.SOCK_STREAM)
        self._targets = [(family, target) for family, _, _, _, target in found]

    # -- what connections call -------------------------------------------------------------------------

    def try_next_target(self, exchange: Exchange) -> bool:
        """Take the name's next address from now on (not all of them need be served); False when it has no other."""
        self._target += 1
        exchange.n_refused += 1
        return exchange.n_refused < len(self._targets)

    def reconnect(self, exchange: Exchange) -> None:
        """Try the next address."""
        self._connect(exchange)

    def has_answer(self, exchange: Exchange, reader: AnswerReader, connection: Connection) -> None:
        """An exchange has its answer; the connection waits for its release."""
        exchange.status = reader.status
        exchange.headers = reader.headers
        exchange.body = reader.body()
        exchange.bytes_in = len(exchange.body)
        exchange.connection = connection
        self.has_finished(exchange)

    def has_finished(self, exchange: Exchange) -> None:
        """An exchange came to an end."""
        exchange.finished_s = time.monotonic()
        self.finished.append(exchange)

    def has_idle(self, connection: Connection) -> None:
        """A connection can take the next request."""
        self._idle.append(connection)

    def has_closed(self, connection: Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def resend(self, exchange: Exchange) -> None:
        """Send again what a stale connection swallowed, on a fresh one."""
        exchange.resent = True
        self.n_resent += 1
        self._connect(exchange)
