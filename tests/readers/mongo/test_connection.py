"""What is said when MongoDB cannot be reached, and that no password is ever in it."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymongo
import pytest
from pymongo.errors import AutoReconnect, CursorNotFound, OperationFailure

from bench.parts.local_mongod import LocalMongod
from engine.errors import ConfigError, EngineError, SourceError
from readers.mongo.connection import hosts_of, open_client, open_collection, ping
from readers.mongo.errors import Outage, describe, is_away
from readers.mongo.marker import Marker, probe_write_right
from tests.readers.harness import DONE

SECRET = "hunter2secret"


def ping_at(uri: str, *, selection_ms: int = 60_000) -> EngineError:
    with open_client(uri, selection_ms=selection_ms) as client, pytest.raises(EngineError) as caught:
        ping(client, uri)
    assert SECRET not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "uri",
    [
        "http://localhost",
        "mongodb://",
        f"mongodb://user:{SECRET}@/?replicaSet=x",
        f"mongodb://user:{SECRET}%@localhost",
        f"mongodb://user:{SECRET}/x@localhost:abc",
        f"mongodb://user:{SECRET}@localhost:99999999",
        f"mongodb://user:{SECRET}@localhost/?tls=true&tlsCAFile=/no/such/file",
        f"mongodb+srv://user:{SECRET}@localhost:27017",
    ],
)
def test_a_uri_that_cannot_be_used_is_refused_in_one_sentence(uri: str) -> None:
    with pytest.raises(ConfigError, match="--mongo-uri") as caught:
        open_client(uri)
    assert SECRET not in str(caught.value)


@pytest.mark.seconds
def test_nobody_at_that_address_is_said_with_its_hosts() -> None:
    with socket.socket() as taken:  # nobody else can listen there, and nobody does
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        error = ping_at(f"mongodb://user:{SECRET}@127.0.0.1:{port}/?replicaSet=rs0", selection_ms=500)
    assert isinstance(error, SourceError)
    assert f"127.0.0.1:{port}" in str(error)
    assert "check that it runs" in str(error)


def test_hosts_are_named_without_user_and_password() -> None:
    assert hosts_of(f"mongodb://u:{SECRET}@a:1,b:2/db?x=y") == "a:1,b:2"
    assert hosts_of("mongodb://localhost") == "localhost"


@pytest.fixture(scope="module")
def locked_mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A mongod that wants credentials: user `reader` (may read) and `writer`, both with the secret password."""
    key = tmp_path_factory.mktemp("auth") / "key"
    key.write_text("c2VjcmV0IGtleSBmb3IgdGVzdHM=")
    key.chmod(0o400)
    with LocalMongod(arguments=("--auth", "--keyFile", str(key))) as server:
        with pymongo.MongoClient[dict[str, object]](server.uri) as client:
            client.admin.command("createUser", "writer", pwd=SECRET, roles=[{"role": "root", "db": "admin"}])
        address = f"127.0.0.1:{server.port}/?replicaSet=rs0&authSource=admin"
        with pymongo.MongoClient[dict[str, object]](f"mongodb://writer:{SECRET}@{address}") as client:
            client.admin.command("createUser", "reader", pwd=SECRET, roles=[{"role": "read", "db": "shop"}])
            client.shop.things.insert_one({})
        yield address


@pytest.mark.seconds
def test_a_wrong_password_is_a_matter_of_configuration(locked_mongod: str) -> None:
    error = ping_at(f"mongodb://writer:{SECRET}wrong@{locked_mongod}")
    assert isinstance(error, ConfigError)
    assert "refuses the credentials" in str(error)


def test_missing_rights_are_a_matter_of_configuration(locked_mongod: str) -> None:
    uri = f"mongodb://reader:{SECRET}@{locked_mongod}"
    with pytest.raises(ConfigError, match="refuses the credentials or their rights") as caught:
        probe_write_right(uri, "shop", "things", DONE)
    assert SECRET not in str(caught.value)
    marker = Marker(uri, "shop", "things", DONE)
    try:
        with pytest.raises(ConfigError, match="refuses the credentials or their rights"):
            marker.mark([1], ours_before=False)
    finally:
        marker.close()
    probe_write_right(f"mongodb://writer:{SECRET}@{locked_mongod}", "shop", "things", DONE)


@contextmanager
def tls_server(folder: Path) -> Iterator[int]:
    """Something that speaks TLS with a certificate that nobody signed."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    end, _ = server.accept()
                except OSError:
                    return
                try:
                    context.wrap_socket(end, server_side=True).close()
                except OSError:
                    end.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def test_a_certificate_that_does_not_verify_is_a_matter_of_configuration(tmp_path: Path) -> None:
    with tls_server(tmp_path) as port:
        for selection_ms in (500, 5_000, 50_000):  # on a slow machine a handshake does not fit into a short time
            error = ping_at(f"mongodb://user:{SECRET}@127.0.0.1:{port}/?tls=true", selection_ms=selection_ms)
            if isinstance(error, ConfigError):
                break
    assert isinstance(error, ConfigError)
    assert "certificate" in str(error)


@pytest.mark.parametrize(("database", "collection"), [("", "c"), ("a b", "c"), ("d", ""), ("d", "a..b"), ("d", "$x")])
def test_names_that_mongodb_does_not_allow_are_refused(database: str, collection: str) -> None:
    with open_client("mongodb://localhost") as client, pytest.raises(ConfigError, match="not a name that MongoDB"):
        open_collection(client, database, collection)


def test_errors_are_sorted_by_type_and_code() -> None:
    assert is_away(AutoReconnect("x"))
    assert is_away(CursorNotFound("x", 43))
    assert is_away(OperationFailure("x", 11602))
    assert is_away(OperationFailure("x", 1, {"errorLabels": ["SystemOverloadedError"]}))
    assert not is_away(OperationFailure("x", 2))
    assert not is_away(OperationFailure("x", 18))


def test_descriptions_are_one_short_line_without_the_user_part() -> None:
    told = describe(AutoReconnect(f"cannot reach mongodb://u:{SECRET}@h/\n" + "x" * 1000))
    assert SECRET not in told
    assert len(told) <= 300
    assert "\n" not in told


def test_pauses_grow_to_a_cap_and_begin_anew_after_a_success() -> None:
    outage = Outage(60.0, "reading")
    pauses = [outage.pause_s(AutoReconnect("x")) for _ in range(12)]
    assert pauses[0] < 0.2
    assert 2.5 <= max(pauses) <= 5.0
    assert outage.going_on
    outage.over()
    assert not outage.going_on
    assert outage.pause_s(AutoReconnect("x")) < 0.2
    assert outage.last_error == "x"
