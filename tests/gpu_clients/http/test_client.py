"""The HTTP client against real sockets: reuse, races, deadlines, large bodies, early answers, TLS."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench.standin import StandinConfig, StandinFleet
from engine.errors import ProtocolError
from gpu_clients.errors import FailureKind, Remedy, classify
from gpu_clients.http.client import Address, HttpClient, Poller
from gpu_clients.http.connection import _MOVES, Connection, ConnectionState, Exchange
from gpu_clients.servers.doctor import examine
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
Script = Callable[[socket.socket, int], None]


@contextmanager
def server(script: Script) -> Iterator[str]:
    """A server that runs `script(connection, number)` for each connection, one after the other."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(60.0)

    def serve() -> None:
        number = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(60.0)
                with suppress(OSError):
                    script(connection, number)
            number += 1

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(100.0)


def read_request(connection: socket.socket) -> bytes:
    """One whole request."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("the client left")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(
        next(line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    )
    while len(body) < length:
        body += connection.recv(1 << 20)
    return head + b"\r\n\r\n" + body


@contextmanager
def client(url: str, **options: str) -> Iterator[HttpClient]:
    """A client with a poller of its own."""
    poller = Poller()
    http = HttpClient(Address.parse(url), poller, **options)
    try:
        yield http
    finally:
        http.abandon()
        poller.close()


def exchange(http: HttpClient, body: bytes = b"[]", *, timeout_s: float = 60.0, release: bool = True) -> Exchange:
    """One request to its end."""
    http.start(
        "POST", "/x", [b"", memoryview(body), b""], deadline_s=time.monotonic() + timeout_s, max_body_bytes=10_000
    )
    while not http.finished:
        http.poller.run(0.02)
        http.check_deadlines()
    done = http.finished.popleft()
    status = done.status
    if release:
        done.release()
    assert done.status == status
    return done


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

    with server(script) as url, client(url + "/base/embed", api_key="k%y") as http:
        assert exchange(http, b"[1,2]").failure is None
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /base/x HTTP/1.1"
    assert b"Authorization: Bearer k%y" in lines
    assert b"Content-Type: application/json" in lines
    assert b"Content-Length: 5" in lines
    assert not any(line.lower().startswith(b"accept-encoding") for line in lines)
    assert body == b"[1,2]"


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


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"error":"`inputs` cannot be empty","error_type":"Empty"}', FailureKind.EMPTY),
        (400, b"Failed to parse the request body as JSON", FailureKind.REJECTED),
        (
            413,
            b'{"error":"x must have less than 512 tokens. Given: 9","error_type":"Validation"}',
            FailureKind.TOO_LONG,
        ),
        (413, b'{"message":"batch size 64 > maximum","code":413,"type":"Validation"}', FailureKind.REJECTED),
        (413, b"Failed to buffer the request body: length limit exceeded", FailureKind.PAYLOAD),
        (422, b'{"message":"x","code":422,"type":"tokenizer"}', FailureKind.TOKENIZER),
        (422, b"Failed to deserialize", FailureKind.REJECTED),
        (424, b'{"error":"CUDA_ERROR_OUT_OF_MEMORY","error_type":"Backend"}', FailureKind.BACKEND),
        (429, b'{"error":"Model is overloaded","error_type":"Overloaded"}', FailureKind.OVERLOADED),
        (429, b"<html>slow down</html>", FailureKind.OVERLOADED),
        (500, b'{"error":{"message":"boom","type":"InternalServerError"}}', FailureKind.BACKEND),
        (503, b"", FailureKind.UNAVAILABLE),
        (502, b"<html>", FailureKind.UNAVAILABLE),
        (599, b"", FailureKind.UNAVAILABLE),
        (401, b"", FailureKind.UNAUTHORIZED),
        (307, b"", FailureKind.WRONG_SERVICE),
        (404, b"\xff\xfe", FailureKind.WRONG_SERVICE),
        (400, b"[1]", FailureKind.REJECTED),
        (400, b'{"error":{"message":"maximum context length","type":"BadRequestError"}}', FailureKind.REJECTED),
    ],
)
def test_errors_of_both_dialects_are_told_apart_by_status_and_type(status: int, body: bytes, kind: FailureKind) -> None:
    failure = classify(status, body)

    assert failure.kind is kind
    assert failure.detail.startswith(f"HTTP {status}")


def test_every_kind_of_failure_has_a_remedy() -> None:
    for kind in FailureKind:
        assert isinstance(classify(500, b"").__class__(kind=kind, detail="").remedy, Remedy)


@contextmanager
def tls_front(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """Ends TLS and passes everything on to `port`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    stopping = threading.Event()

    def pass_on(outer: socket.socket) -> None:
        try:
            with (
                context.wrap_socket(outer, server_side=True) as inside,
                socket.create_connection(("127.0.0.1", port)) as inner,
            ):
                inside.settimeout(0.01)
                inner.settimeout(0.01)
                while not stopping.is_set():
                    for source, sink in ((inside, inner), (inner, inside)):
                        try:
                            data = source.recv(1 << 16)
                        except TimeoutError:
                            continue
                        if not data:
                            return
                        sink.settimeout(60.0)
                        sink.sendall(data)
                        sink.settimeout(0.01)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                outer, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=pass_on, args=(outer,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stopping.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (acceptor, *threads):
            thread.join(100.0)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost and its key, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    made, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key,
         "-out", made, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


def test_https_is_verified_and_works_like_http(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_clients.http import tls

    with StandinFleet(StandinConfig(backend="sim")) as fleet, tls_front(fleet.ports[0], *certificate) as port:
        url = f"https://localhost:{port}"
        tls._context.cache_clear()
        with client(url) as http:
            failure = exchange(http).failure
            assert failure is not None and "TLS" in failure.detail, "nobody vouches for the certificate"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        tls._context.cache_clear()
        texts = [f"secret text {number}" for number in range(300)]
        settings = ClientSettings(urls=(url,), concurrency=2)
        outcome = Harness((url,), texts, settings=settings, fleet=examine(settings)).run()
        tls._context.cache_clear()
    outcome.check_exact("google/embeddinggemma-300m")
    assert not outcome.told("server_out")
