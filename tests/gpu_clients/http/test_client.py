"""The HTTP client against real sockets: reuse, races, deadlines, large bodies, early answers."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from bench.standin import StandinConfig, StandinFleet
from engine.errors import ProtocolError
from gpu_clients.errors import FailureKind
from gpu_clients.http.access import Access
from gpu_clients.http.address import Address
from gpu_clients.http.connection import _MOVES, Connection, ConnectionState, Exchange
from tests.gpu_clients.http.sockets import OK, client, exchange, read_request, server


def test_one_connection_serves_many_requests() -> None:
    def script(connection: socket.socket, _: int) -> None:
        while True:
            read_request(connection)
            connection.sendall(OK)

    with server(script) as url, client(url) as http:
        for _ in range(20):
            assert exchange(http).failure is None
        assert http.n_connected == 1


def test_a_request_is_written_as_http_wants_it() -> None:
    seen: list[bytes] = []

    def script(connection: socket.socket, _: int) -> None:
        seen.append(read_request(connection))
        connection.sendall(OK)

    with (
        server(script) as url,
        client(url + "/base/embed", Access(api_key="k%y", headers=(("X-Tenant", "a%b"),))) as http,
    ):
        assert exchange(http, b"[1,2]").failure is None
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /base/x HTTP/1.1"
    assert b"Authorization: Bearer k%y" in lines
    assert b"Content-Type: application/json" in lines
    assert b"Content-Length: 5" in lines
    assert b"X-Tenant: a%b" in lines
    assert b"Accept-Encoding: identity" in lines
    assert b"Host: " + url.removeprefix("http://").encode() in lines
    assert body == b"[1,2]"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://example.org/embed", "example.org"),
        ("http://example.org:80", "example.org"),
        ("https://example.org:443/v1/embeddings", "example.org"),
        ("https://example.org:80", "example.org:80"),
        ("http://example.org:443", "example.org:443"),
        ("http://[::1]/embed", "[::1]"),
        ("http://[::1]:18080", "[::1]:18080"),
    ],
)
def test_the_host_header_leaves_the_schemes_own_port_out(url: str, host: str) -> None:
    assert Address.parse(url).host_header == host


def test_an_authorization_among_the_headers_stands_in_the_place_of_the_keys() -> None:
    lines = Access(api_key="k", headers=(("authorization", "Basic dTpw"),)).head_lines()
    assert lines == "authorization: Basic dTpw\r\n"


def test_a_fresh_request_has_a_connection_of_its_own_that_is_closed_afterwards() -> None:
    """Behind a balancer a kept one would lead to the same backend again."""
    with StandinFleet(StandinConfig(backend="canned")) as fleet, client(fleet.urls[0]) as http:
        assert exchange(http).failure is None
        for fresh in (True, True, False):
            http.start("POST", "/x", [b"1"], deadline_s=time.monotonic() + 60, max_body_bytes=1000, fresh=fresh)
            while not http.finished:
                http.poller.run(1.0)
            http.finished.popleft().release()
        assert http.n_connected == 3
        assert len(http._open) == 1


def test_a_connection_that_was_closed_while_idle_is_replaced_without_a_failure() -> None:
    def script(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(OK)

    with server(script) as url, client(url) as http:
        for _ in range(5):
            assert exchange(http).failure is None
        assert http.n_connected == 5


def test_a_connection_closed_just_as_the_request_leaves_is_tried_once_more() -> None:
    def script(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(OK)
        if number == 0:
            connection.recv(1)  # the next request is on its way when the connection closes

    with server(script) as url, client(url) as http:
        assert exchange(http).failure is None
        second = exchange(http)
        assert second.failure is None
        assert second.resent
        assert (http.n_connected, http.n_resent) == (2, 1)


def test_a_server_that_always_closes_before_its_answer_is_not_asked_for_ever() -> None:
    requests = []

    def script(connection: socket.socket, number: int) -> None:
        requests.append(read_request(connection))
        if number == 0:
            connection.sendall(OK)
            requests.append(read_request(connection))

    with server(script) as url, client(url) as http:
        assert exchange(http).failure is None
        failure = exchange(http).failure
        assert failure is not None and failure.kind is FailureKind.LOST
    assert len(requests) == 3, "the second one twice, and no more"


def test_a_connection_lost_in_the_middle_of_an_answer_is_a_failure() -> None:
    def script(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(OK[:-1])

    with server(script) as url, client(url) as http:
        failure = exchange(http).failure
        assert failure is not None and failure.kind is FailureKind.LOST
        assert "middle" in failure.detail


@pytest.mark.parametrize("size", [0, 1, 65_536, 8_000_000])
def test_bodies_of_any_size_arrive_whole(size: int) -> None:
    seen: list[int] = []

    def script(connection: socket.socket, _: int) -> None:
        request = read_request(connection)
        seen.append(len(request.partition(b"\r\n\r\n")[2]))
        connection.sendall(OK)

    with server(script) as url, client(url) as http:
        assert exchange(http, b"x" * size).failure is None
    assert seen == [size]


def test_an_answer_that_comes_before_the_request_has_left_is_taken_and_the_connection_dropped() -> None:
    def script(connection: socket.socket, _: int) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig")
        while connection.recv(1 << 20):
            pass

    with server(script) as url, client(url) as http:
        done = exchange(http, b"x" * 30_000_000, release=False)
        assert (done.status, bytes(done.body)) == (413, b"big")
        done.release()
        assert http.in_flight == 0


@pytest.mark.parametrize("say", [b"", b"HTTP/1.1 200 OK\r\n", OK[:-1]])
def test_the_deadline_is_for_the_whole_answer(say: bytes) -> None:
    def script(connection: socket.socket, _: int) -> None:
        read_request(connection)
        connection.sendall(say)
        connection.recv(1)

    with server(script) as url, client(url) as http:
        failure = exchange(http, timeout_s=0.1).failure
        assert failure is not None and failure.kind is FailureKind.TIMEOUT


def test_nobody_listening_is_a_refusal_that_names_the_address() -> None:
    with socket.socket() as taken:  # nobody else can listen there, and nobody does
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with client(f"http://127.0.0.1:{port}") as http:
            failure = exchange(http).failure
    assert failure is not None and failure.kind is FailureKind.REFUSED
    assert f"127.0.0.1:{port}" in failure.detail


def test_a_name_that_nobody_knows_is_a_refusal() -> None:
    with client("http://no-such-host.invalid:1") as http:
        failure = exchange(http).failure
    assert failure is not None and failure.kind is FailureKind.REFUSED


def test_a_name_with_several_addresses_is_tried_at_each() -> None:
    with StandinFleet(StandinConfig(backend="canned")) as fleet, client(f"http://localhost:{fleet.ports[0]}") as http:
        # localhost mostly is ::1 and 127.0.0.1; here the first is one that nobody listens on
        http._resolve()
        http._targets.insert(0, (socket.AF_INET, ("127.0.0.2", fleet.ports[0])))
        for _ in range(3):
            assert exchange(http).failure is None


def test_a_request_that_was_cancelled_never_finishes() -> None:
    released = threading.Event()

    def script(connection: socket.socket, _: int) -> None:
        read_request(connection)
        released.wait(60.0)

    with server(script) as url, client(url) as http:
        started = http.start("POST", "/x", [b"[]"], deadline_s=time.monotonic() + 60, max_body_bytes=100)
        for _ in range(5):
            http.poller.run(0.02)
        assert http.in_flight == 1
        assert http.cancel(started)
        assert http.in_flight == 0
        assert not http.cancel(started)
        released.set()
        http.poller.run(0.05)
        assert not http.finished


def test_connections_move_only_as_their_table_says() -> None:
    with client("http://127.0.0.1:9") as http:
        probe = Exchange([b""], None, time.monotonic() + 1, 10)
        for state, allowed in _MOVES.items():
            for wanted in ConnectionState:
                connection = Connection(http, probe, socket.AF_INET)
                connection.state = state
                if wanted in allowed:
                    connection.move(wanted)
                    assert connection.state is wanted
                else:
                    with pytest.raises(ProtocolError):
                        connection.move(wanted)
                connection.sock.close()
