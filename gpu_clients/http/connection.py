"""One connection to a server: its states, its socket, the exchange that it works on."""

from __future__ import annotations

import enum
import errno
import socket
import time
from typing import Protocol

from engine.errors import ProtocolError
from gpu_clients.errors import Failure, FailureKind
from gpu_clients.http.access import Access
from gpu_clients.http.address import Address
from gpu_clients.http.answers import AnswerReader, BadAnswer
from gpu_clients.http.polling import READ, WRITE, Poller

CONNECT_TIMEOUT_S = 5.0
_RECEIVE_BUFFER_BYTES = 1 << 20
"""Asked for; the kernel gives what it allows. An answer of 128 x 768 is half a megabyte."""

Buffer = bytes | bytearray | memoryview
Target = tuple[object, ...]
"""A socket address as `getaddrinfo` gives it."""


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
        fresh: Whether its connection is its own, and closed afterwards.
        n_refused: Addresses of the server that took no connection for it.
        connection: Who holds the answer.
    """

    __slots__ = (
        "body", "bytes_in", "bytes_out", "connection", "deadline_s", "failure", "finished_s", "fresh", "headers",
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
        self.fresh = False
        self.n_refused = 0
        self.connection: Connection | None = None

    def release(self) -> None:
        """Give the connection and its buffer back; `body` must not be looked at any more."""
        connection, self.connection = self.connection, None
        self.body = memoryview(b"")
        self.parts = []
        if connection is not None:
            connection.recycle()


class ConnectionOwner(Protocol):
    """Whom a connection belongs to, and whom it tells what becomes of its exchanges.

    Attributes:
        address: Where the server is.
        access: What the server wants to see.
        poller: Who watches the socket.
    """

    address: Address
    access: Access
    poller: Poller

    def try_next_target(self, exchange: Exchange) -> bool:
        """An address of the server took no connection: use the next one; False when there is none."""

    def reconnect(self, exchange: Exchange) -> None:
        """Begin anew with another connection."""

    def resend(self, exchange: Exchange) -> None:
        """Send again what a stale connection swallowed."""

    def has_answer(self, exchange: Exchange, reader: AnswerReader, connection: Connection) -> None:
        """An exchange has its answer; the connection waits for its release."""

    def has_finished(self, exchange: Exchange) -> None:
        """An exchange came to an end without one."""

    def has_idle(self, connection: Connection) -> None:
        """A connection can take the next request."""

    def has_closed(self, connection: Connection) -> None:
        """A connection is gone."""


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
        "_connect_deadline_s", "_exchange", "_may_reuse", "_out", "_owner", "_poller", "_reader", "_served",
        "_waits_to_write", "fd", "host", "sock", "state",
    )  # fmt: skip

    def __init__(self, owner: ConnectionOwner, exchange: Exchange, family: int) -> None:
        self._owner = owner
        self._poller = owner.poller
        self._exchange: Exchange | None = exchange
        self._reader = AnswerReader()
        self._out: list[Buffer] = []
        self._served = 0
        self._may_reuse = False
        self._waits_to_write = True
        self._connect_deadline_s = min(exchange.deadline_s, time.monotonic() + CONNECT_TIMEOUT_S)
        self.state = ConnectionState.CONNECTING
        self.host = owner.address.host
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
            self._owner.has_idle(self)
        else:
            self.close()

    def close(self) -> None:
        """Close at once."""
        if self.state is not ConnectionState.CLOSED:
            self.move(ConnectionState.CLOSED)
            self._poller.forget(self.fd)
            self.sock.close()
            self._owner.has_closed(self)

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
        if exchange is not None and self._owner.try_next_target(exchange):
            self._exchange = None
            self.close()
            self._owner.reconnect(exchange)
            return
        self._fail(FailureKind.REFUSED, f"cannot connect to {self._owner.address.authority}: {why}")

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
        self._may_reuse = reader.keeps_alive and not early and not exchange.fresh
        self._served += 1
        self._owner.has_answer(exchange, reader, self)

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
            self._owner.resend(exchange)
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
            self._owner.has_finished(exchange)
