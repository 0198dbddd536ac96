"""TLS in front of a real server: certificates are verified, and vectors come through."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.standin import StandinConfig, StandinFleet
from engine.errors import ConfigError, ServersUnavailable
from gpu_clients.http import tls
from gpu_clients.servers.doctor import examine
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.harness import Harness
from tests.gpu_clients.http.sockets import client, exchange


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


@pytest.mark.seconds
def test_https_is_verified_and_works_like_http(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with StandinFleet(StandinConfig(backend="sim")) as fleet, tls_front(fleet.ports[0], *certificate) as port:
        url = f"https://localhost:{port}"
        tls.trust_of.cache_clear()
        with client(url) as http:
            failure = exchange(http).failure
            assert failure is not None and "TLS" in failure.detail, "nobody vouches for the certificate"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        tls.trust_of.cache_clear()
        texts = [f"secret text {number}" for number in range(300)]
        settings = ClientSettings(urls=(url,), concurrency=2)
        outcome = Harness((url,), texts, settings=settings, fleet=examine(settings)).run()
        tls.trust_of.cache_clear()
    outcome.check_exact("google/embeddinggemma-300m")
    assert not outcome.told("server_out")


@pytest.mark.seconds
def test_a_file_of_authorities_vouches_for_a_server_beside_the_systems(certificate: tuple[Path, Path]) -> None:
    with StandinFleet(StandinConfig(backend="sim")) as fleet, tls_front(fleet.ports[0], *certificate) as port:
        url = f"https://localhost:{port}"
        assert examine(ClientSettings(urls=(url,), ca_file=str(certificate[0]))).dim == 768
        with pytest.raises(ServersUnavailable, match="TLS"):
            examine(ClientSettings(urls=(url,)))


def test_a_file_of_authorities_without_a_certificate_is_refused_by_name(tmp_path: Path) -> None:
    empty = tmp_path / "none.pem"
    empty.write_text("nothing")
    for path in (empty, tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=path.name):
            examine(ClientSettings(urls=("https://localhost:1",), ca_file=str(path)))
