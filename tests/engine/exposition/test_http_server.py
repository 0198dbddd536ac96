"""The HTTP server beside a run: strict, bounded, and never the end of its process."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from engine.errors import ConfigError
from engine.exposition.address import Address
from engine.exposition.http_server import MAX_AT_ONCE, Answer, HttpServer, Request

LOCAL = Address("127.0.0.1", 0)


def broken(request: Request) -> Answer:
    """A route that fails."""
    raise ValueError("a secret detail")


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """A server with a small, a large and a broken page."""
    routes = {
        "/": lambda request: Answer(b"hello " + request.accept.encode()),
        "/large": lambda request: Answer(b"x" * 100_000, "text/html; charset=utf-8"),
        "/broken": broken,
    }
    server = HttpServer(LOCAL, routes)
    yield server
    server.close()


def ask(server: HttpServer, method: str, path: str, **headers: str) -> tuple[int, bytes, http.client.HTTPResponse]:
    """Status, body and the rest of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.address.port, timeout=60)
    connection.request(method, path, headers=headers, body=b"body" if method in ("POST", "PUT") else None)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer


def test_a_known_path_is_answered_and_no_script_may_run_in_it(server: HttpServer) -> None:
    status, body, answer = ask(server, "GET", "/?refresh=1", Accept="text/plain")

    assert (status, body) == (200, b"hello text/plain")
    assert str(answer.headers["Content-Security-Policy"]).startswith("default-src 'none'")
    assert "script-src" not in str(answer.headers["Content-Security-Policy"])
    assert answer.headers["Server"].strip() == "engine"


def test_head_has_the_length_and_no_body(server: HttpServer) -> None:
    status, body, answer = ask(server, "HEAD", "/large")

    assert (status, body, answer.headers["Content-Length"]) == (200, b"", "100000")


def test_a_large_answer_is_compressed_for_who_takes_it(server: HttpServer) -> None:
    _, body, answer = ask(server, "GET", "/large", **{"Accept-Encoding": "gzip"})

    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(body) < 1000


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_any_other_method_is_refused(server: HttpServer, method: str) -> None:
    status, _, answer = ask(server, method, "/")

    assert (status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/nothing", "/../etc/passwd", "/metrics/"])
def test_an_unknown_path_is_not_found(server: HttpServer, path: str) -> None:
    assert ask(server, "GET", path)[0] == 404


def test_a_page_that_fails_says_so_without_details_and_the_server_goes_on(server: HttpServer) -> None:
    status, body, _ = ask(server, "GET", "/broken")

    assert status == 500
    assert b"secret" not in body
    assert ask(server, "GET", "/")[0] == 200


@pytest.mark.parametrize(
    "sent", [b"\x00\xff\xfe\r\n\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"GET\r\n\r\n"]
)
def test_nonsense_is_refused_and_the_server_goes_on(server: HttpServer, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.address.port), timeout=60) as connection:
        connection.sendall(sent)
        assert b" 200 " not in connection.recv(1000)

    assert ask(server, "GET", "/")[0] == 200


def test_connections_are_bounded_and_one_that_ends_makes_room() -> None:
    """The one that is too many is closed without an answer."""
    inside, leave = threading.Semaphore(0), threading.Event()

    def slow(request: Request) -> Answer:
        inside.release()
        leave.wait(60)
        return Answer(b"at last")

    server = HttpServer(LOCAL, {"/slow": slow, "/": lambda request: Answer(b"hello")})
    ends: list[int] = []
    threads = [threading.Thread(target=lambda: ends.append(ask(server, "GET", "/slow")[0])) for _ in range(MAX_AT_ONCE)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert inside.acquire(timeout=60)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        ask(server, "GET", "/")
    leave.set()
    for thread in threads:
        thread.join()
    assert ends == [200] * MAX_AT_ONCE
    assert ask(server, "GET", "/slow")[0] == 200
    server.close()


def test_a_port_that_is_taken_is_said() -> None:
    server = HttpServer(LOCAL, {})

    with pytest.raises(ConfigError, match=r"--http 127\.0\.0\.1:\d+ cannot be used \(Address already in use\)"):
        HttpServer(server.address, {})

    server.close()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "x" * 70, "192.0.2.1"])
def test_a_host_that_is_not_this_machine_is_said(host: str) -> None:
    with pytest.raises(ConfigError, match="name a free port of this machine"):
        HttpServer(Address(host, 0), {})


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost"])
def test_every_address_of_the_machine_is_listened_at(host: str) -> None:
    server = HttpServer(Address(host, 0), {"/": lambda request: Answer(b"hello")})
    connection = http.client.HTTPConnection("localhost", server.address.port, timeout=60)
    connection.request("GET", "/")

    assert connection.getresponse().read() == b"hello"

    connection.close()
    server.close()


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(("host", "asked"), [("::1", "::1"), ("::", "::1"), ("::", "127.0.0.1")])
def test_ipv6_works_and_every_address_takes_ipv4_too(host: str, asked: str) -> None:
    server = HttpServer(Address(host, 0), {"/": lambda request: Answer(b"hello")})
    connection = http.client.HTTPConnection(asked, server.address.port, timeout=60)
    connection.request("GET", "/")

    assert connection.getresponse().read() == b"hello"
    assert str(server.address) == f"[{host}]:{server.address.port}"

    connection.close()
    server.close()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:9100", "127.0.0.1", 9100), ("[::1]:0", "::1", 0), ("localhost:65535", "localhost", 65535)],
)
def test_an_address_is_host_and_port(text: str, host: str, port: int) -> None:
    address = Address.parse(text)

    assert (address.host, address.port, str(address)) == (host, port, text)


@pytest.mark.parametrize(
    "text",
    ["9100", ":9100", "127.0.0.1", "::1:9100", "h:65536", "h:-1", "h:x", "h:1e3", "http://h:1", "a@b:1", "", "[]:1"],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected HOST:PORT, such as 127\.0\.0\.1:9100"):
        Address.parse(text)
