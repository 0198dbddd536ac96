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

import socket
import time
from collections import deque
from collections.abc import Sequence

from gpu_clients.errors import Failure, FailureKind
from gpu_clients.http.access import NO_ACCESS, Access
from gpu_clients.http.address import Address
from gpu_clients.http.answers import AnswerReader
from gpu_clients.http.connection import Buffer, Connection, Exchange, Target
from gpu_clients.http.polling import Poller


class HttpClient:
    """Connections to one server, as many as there are requests in flight.

    Attributes:
        address: Where the server is.
        access: What it wants to see.
        poller: Who watches the sockets; may be shared by several clients.
        finished: Exchanges that came to an end, for the owner to take.
        n_connected: Connections opened so far.
        n_resent: Requests that went out again because a kept-alive connection was stale.
    """

    def __init__(self, address: Address, poller: Poller, access: Access = NO_ACCESS) -> None:
        self.address = address
        self.access = access
        self.poller = poller
        self._connection_type = Connection
        if address.tls:
            from gpu_clients.http.tls import TlsConnection, trust_of  # noqa: PLC0415 - `ssl` takes 10 ms of every start

            trust_of(access.ca_file)  # a file that cannot be used is refused now, not taken for a server's fault
            self._connection_type = TlsConnection
        self.finished: deque[Exchange] = deque()
        self.n_connected = 0
        self.n_resent = 0
        self._heads: dict[tuple[str, str, bool], bytes] = {}
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
        fresh: bool = False,
    ) -> Exchange:
        """Begin a request; its exchange appears in `finished` once it came to an end.

        Args:
            method: `GET` or `POST`.
            path: Path on the server, behind the address's base.
            body: Parts of a JSON body; must stay as they are until the exchange is finished.
            deadline_s: Monotonic time by which the whole answer must be there.
            max_body_bytes: Cap on the answer's body.
            tag: The caller's own mark.
            fresh: Whether it gets a connection of its own, which is closed afterwards: behind a balancer, kept-alive
                connections may all lead to one and the same backend.
        """
        n_bytes = sum(map(len, body))
        head = self._heads.get((method, path, fresh)) or self._make_head(method, path, fresh=fresh)
        exchange = Exchange([head % n_bytes, *body], tag, deadline_s, max_body_bytes)
        exchange.bytes_out = n_bytes
        exchange.fresh = fresh
        if self._idle and not fresh:
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

    def _make_head(self, method: str, path: str, *, fresh: bool) -> bytes:
        closing = "Connection: close\r\n" if fresh else ""
        head = (
            f"{method} {self.address.base}{path} HTTP/1.1\r\nHost: {self.address.host_header}\r\n"
            f"{self.access.head_lines()}Accept: application/json, application/octet-stream\r\n"
            f"Accept-Encoding: identity\r\n{closing}Content-Type: application/json\r\nContent-Length: "
        )
        made = self._heads[method, path, fresh] = head.replace("%", "%%").encode("ascii") + b"%d\r\n\r\n"
        return made

    def _connect(self, exchange: Exchange) -> None:
        try:
            if not self._targets:
                self._resolve()
            family, target = self._targets[self._target % len(self._targets)]
            connection = self._connection_type(self, exchange, family)
        except (OSError, UnicodeError) as error:  # the latter for a host that is no name at all
            detail = f"cannot reach {self.address.authority}: {getattr(error, 'strerror', None) or error}"
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
