"""The start-up doctor: what it learns, what it warns of, what it refuses and in which words."""

from __future__ import annotations

import dataclasses
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler

import pytest

from bench.standin import Dialect, GpuConfig, StandinConfig, StandinFleet
from commands.doctor.report import as_text
from engine.errors import ConfigError, ServersUnavailable
from gpu_clients.http.address import Address
from gpu_clients.server_facts import ServerFacts, version_numbers
from gpu_clients.servers.doctor import examine
from gpu_clients.servers.routes import choose_route
from gpu_clients.settings import ClientSettings
from tests.gpu_clients.servers.served import served

SIM = StandinConfig(backend="sim")


@contextmanager
def other_service(status: int, content_type: str, body: bytes) -> Iterator[str]:
    """Some other HTTP/1.0 service behind the URL, as Python's own server speaks it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with served(Handler) as url:
        yield url


@pytest.mark.seconds
def test_it_learns_what_the_servers_are() -> None:
    with StandinFleet(dataclasses.replace(SIM, ports=(0, 0), max_concurrent_requests=100)) as fleet:
        found = examine(ClientSettings(urls=fleet.urls, prompt="title: none | text: "))
    assert found.dim == 768
    assert found.batch_size == 32
    assert found.max_concurrency == 3
    assert found.fingerprint.as_dict() == {
        "model_id": "google/embeddinggemma-300m",
        "model_sha": "0000000000000000000000000000000000000001",
        "dtype": "float32",
        "pooling": "mean",
        "prompt": "title: none | text: ",
        "server_prompt": "",
        "dim": 768,
        "normalize": True,
        "server_version": "1.9.3",
    }
    assert all(server.reachable for server in found.servers)
    assert [server.facts.dialect for server in found.servers if server.facts] == ["1.9", "1.9"]


@pytest.mark.seconds
def test_a_clients_settings_survive_their_way_as_json() -> None:
    with StandinFleet(dataclasses.replace(SIM, ports=(0, 0))) as fleet:
        settings = ClientSettings(urls=fleet.urls, api_keys=(None, "k"), target_p95_s=2.0)
        client = examine(settings).client_settings(settings, 1)
    assert ClientSettings.from_dict(client.as_dict()) == client
    assert client.index == 1
    assert client.dim == 768


@pytest.mark.seconds
def test_the_batch_size_is_lowered_to_what_the_servers_admit() -> None:
    config = dataclasses.replace(SIM, max_client_batch_size=64, max_concurrent_requests=16)
    with StandinFleet(config) as fleet:
        found = examine(ClientSettings(urls=fleet.urls, batch_size=128))
    assert found.batch_size == 16
    assert any("lowered" in warning and "--max-client-batch-size" in warning for warning in found.warnings)
    assert any("HTTP 429 for ever" in warning for warning in found.warnings)


@pytest.mark.seconds
def test_a_concurrency_that_can_never_be_admitted_is_refused() -> None:
    refused = pytest.raises(ConfigError, match=r"--concurrency 4 .* admits 100 .* at most 3")
    with StandinFleet(dataclasses.replace(SIM, max_concurrent_requests=100)) as fleet, refused:
        examine(ClientSettings(urls=fleet.urls, concurrency=4))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_id": "intfloat/e5-base"}, "model_id 'intfloat/e5-base' is not 'google/embeddinggemma-300m'"),
        ({"dtype": "float16"}, "dtype 'float16' is not 'float32'"),
        ({"pooling": "cls"}, "pooling 'cls' is not 'mean'"),
        ({"max_input_length": 512}, "max_input_length 512 is not 2048"),
        ({"dialect": Dialect.V1_8}, "version '1.8.3' is not '1.9.3'"),
        ({"model_sha": "abc"}, "model_sha 'abc' is not"),
        ({"dim": 384}, "dimension 384 is not 768"),
    ],
)
def test_servers_that_differ_are_refused_and_the_fields_named(change: dict[str, object], word: str) -> None:
    changed = dataclasses.replace(SIM, **change)  # type: ignore[arg-type]
    refused = pytest.raises(ConfigError, match="one vector space")
    with StandinFleet(SIM) as one, StandinFleet(changed) as two, refused as caught:
        examine(ClientSettings(urls=one.urls + two.urls))
    assert word in str(caught.value)
    assert two.urls[0] in str(caught.value) and one.urls[0] in str(caught.value)


def test_a_server_with_the_right_name_and_the_wrong_vectors_is_refused() -> None:
    config = dataclasses.replace(SIM, ports=(0, 0), faults=("other_model:on=1",))
    with StandinFleet(config) as fleet, pytest.raises(ConfigError, match="canary"):
        examine(ClientSettings(urls=fleet.urls))


def test_a_server_that_does_not_answer_is_listed_and_the_run_may_start() -> None:
    with StandinFleet(SIM) as fleet:
        found = examine(ClientSettings(urls=(*fleet.urls, "http://127.0.0.1:1")))
    assert [server.reachable for server in found.servers] == [True, False]
    assert any("http://127.0.0.1:1 does not answer" in warning for warning in found.warnings)


def test_when_no_server_answers_it_says_which_and_why() -> None:
    with pytest.raises(ServersUnavailable, match=r"no embedding server answers.*127.0.0.1:1.*ECONNREFUSED"):
        examine(ClientSettings(urls=("http://127.0.0.1:1", "http://127.0.0.1:1/other")))


@pytest.mark.seconds
def test_a_server_that_hangs_is_given_up_after_a_while() -> None:
    with StandinFleet(dataclasses.replace(SIM, ports=(0, 0), faults=("black_hole:route=*,on=1",))) as fleet:
        for timeout_s in (0.3, 3.0, 30.0):  # on a busy test machine the other one may need longer than usual
            with suppress(ServersUnavailable):
                found = examine(ClientSettings(urls=fleet.urls), timeout_s=timeout_s)
                if found.servers[0].reachable:
                    break
    assert [server.reachable for server in found.servers] == [True, False]


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (200, "text/html", b"<html><body>It works!</body></html>"),
        (404, "text/plain", b"not found"),
        (200, "application/json", b'{"hello": "world"}'),
        (301, "text/plain", b"moved"),
        (401, "text/plain", b""),
    ],
)
def test_another_service_behind_the_url_is_one_sentence(status: int, content_type: str, body: bytes) -> None:
    refused = pytest.raises(ConfigError, match="cannot be used")
    with other_service(status, content_type, body) as url, refused as caught:
        examine(ClientSettings(urls=(url,)))
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


def test_something_that_is_not_http_is_one_sentence() -> None:
    class Greeter(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Greeter) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(ConfigError, match="not an HTTP"):
                examine(ClientSettings(urls=(f"http://127.0.0.1:{server.server_address[1]}",)))
        finally:
            server.shutdown()
            thread.join()


def test_a_wrong_key_is_refused_and_never_named() -> None:
    with StandinFleet(dataclasses.replace(SIM, api_key="right-m4rker")) as fleet:
        for keys in ((), ("wrong-m4rker",)):
            with pytest.raises(ConfigError, match="another API key") as caught:
                examine(ClientSettings(urls=fleet.urls, api_keys=keys))
            assert "m4rker" not in str(caught.value)
        assert examine(ClientSettings(urls=fleet.urls, api_keys=("right-m4rker",))).dim == 768


@pytest.mark.seconds
@pytest.mark.parametrize("prompt", ["title: none | text: ", "q", "\u00e9: ", " "])
def test_a_servers_own_prompt_is_found_whatever_its_length_and_stands_in_the_fingerprint(prompt: str) -> None:
    with StandinFleet(dataclasses.replace(SIM, default_prompt=prompt)) as fleet:
        found = examine(ClientSettings(urls=fleet.urls))
        with pytest.raises(ConfigError, match="puts a prompt of its own"):
            examine(ClientSettings(urls=fleet.urls, prompt="x"))
    assert found.fingerprint.server_prompt == prompt
    assert f"puts {prompt!r} before every text" in as_text(found)


def test_servers_of_which_one_has_a_prompt_of_its_own_are_refused_by_that_name() -> None:
    with (
        StandinFleet(SIM) as plain,
        StandinFleet(dataclasses.replace(SIM, default_prompt="q")) as prompted,
        pytest.raises(ConfigError, match="default_prompt 'q' is not ''"),
    ):
        examine(ClientSettings(urls=(*plain.urls, *prompted.urls)))


def test_a_real_tokenizer_shows_a_prompt_as_it_is_written() -> None:
    config = StandinConfig(tokenizer="minilm", default_prompt="title: none | text: ", max_input_length=256)
    with StandinFleet(config) as fleet:
        found = examine(ClientSettings(urls=fleet.urls))
    facts = found.servers[0].facts
    assert facts is not None
    assert (facts.default_prompt, facts.special_tokens) == ("title: none | text: ", 2)


@pytest.mark.seconds
def test_a_prompt_on_both_sides_is_refused() -> None:
    with StandinFleet(dataclasses.replace(SIM, default_prompt="title: none | text: ")) as fleet:
        with pytest.raises(ConfigError, match="second one"):
            examine(ClientSettings(urls=fleet.urls, prompt="title: none | text: "))
        assert examine(ClientSettings(urls=fleet.urls)).dim == 768


def test_old_versions_and_slow_number_types_are_warned_of() -> None:
    config = dataclasses.replace(SIM, dialect=Dialect.V1_8, model_id="BAAI/bge-base-en-v1.5", dtype="float32")
    with StandinFleet(config) as fleet:
        warnings = " ".join(examine(ClientSettings(urls=fleet.urls)).warnings)
    assert "1.8.3" in warnings
    assert "float16" in warnings


@pytest.mark.seconds
def test_more_tokenizer_threads_than_this_machine_has_cores_are_warned_of() -> None:
    config = dataclasses.replace(SIM, ports=(0, 0), tokenization_workers=48)
    with StandinFleet(config) as fleet:
        found = examine(ClientSettings(urls=fleet.urls))
    assert any("96 tokenizer threads" in warning for warning in found.warnings)


@pytest.mark.seconds
@pytest.mark.parametrize("padded", [True, False])
def test_whether_servers_pad_is_measured(padded: bool) -> None:
    gpu = GpuConfig(tokens_per_s=40_000.0, padded=padded)
    with StandinFleet(dataclasses.replace(SIM, ports=(0, 0), gpu=gpu)) as fleet:
        settings = ClientSettings(urls=fleet.urls)
        answers = (examine(settings, with_padding=True).pads for _ in range(5))
        # a busy test machine may leave it open, and never turns one answer into the other
        assert next(answer for answer in answers if answer is not None) is padded


@pytest.mark.seconds
def test_a_slow_server_is_not_kept_busy_with_that_question() -> None:
    gpu = GpuConfig(tokens_per_s=2_000.0)
    with StandinFleet(dataclasses.replace(SIM, gpu=gpu)) as fleet:
        assert examine(ClientSettings(urls=fleet.urls), with_padding=True).pads is None
        assert fleet.reports()[0]["batch_size_max"] == 3, "canaries only"


def test_servers_too_quick_to_measure_leave_it_open_whether_they_pad() -> None:
    with StandinFleet(StandinConfig(backend="canned")) as fleet:
        settings = ClientSettings(urls=fleet.urls)
        assert examine(settings, with_padding=True).pads is None
        assert examine(settings).pads is None, "not asked for"


@pytest.mark.parametrize("dialect", [Dialect.V1_8, Dialect.V1_9])
@pytest.mark.parametrize("truncate", [True, False])
def test_the_route_follows_what_is_wanted(dialect: Dialect, truncate: bool) -> None:
    with StandinFleet(dataclasses.replace(SIM, dialect=dialect)) as fleet:
        found = examine(ClientSettings(urls=fleet.urls, truncate=truncate))
    examination = found.servers[0].examination
    assert examination is not None
    cuts_by_itself = dialect is Dialect.V1_9
    assert examination.route.path == ("/v1/embeddings" if cuts_by_itself is truncate else "/embed")


def test_a_busy_server_is_waited_for() -> None:
    with StandinFleet(dataclasses.replace(SIM, faults=("status:code=429,first=2",))) as fleet:
        assert examine(ClientSettings(urls=fleet.urls)).dim == 768


@pytest.mark.parametrize("fault", ["zero", "same", "value:value=nan"])
def test_a_server_whose_vectors_are_unsound_is_refused(fault: str) -> None:
    config = dataclasses.replace(SIM, faults=(fault,))
    with StandinFleet(config) as fleet, pytest.raises(ConfigError, match="vector"):
        examine(ClientSettings(urls=fleet.urls))


@pytest.mark.parametrize(
    "url",
    ["localhost:8080", "ftp://localhost/", "http://", "http://user:pa55@localhost/", "http://localhost/?key=pa55",
     "http://localhost:notaport/", "http://localhost:99999/"],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_one_sentence_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Address.parse(url)
    assert "pa55" not in str(caught.value)


def test_addresses_are_read() -> None:
    assert Address.parse("http://[::1]:8080/v1/embeddings").authority == "[::1]:8080"
    assert Address.parse("https://host/base/embed").base == "/base"
    assert Address.parse("https://host").port == 443
    assert Address.parse("http://host/embedding").base == "/embedding"


def test_one_server_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        examine(ClientSettings(urls=("http://127.0.0.1:9/embed", "http://127.0.0.1:9")))


@pytest.mark.parametrize(
    "bad",
    [{"urls": ()}, {"index": 1}, {"batch_size": 0}, {"concurrency": 0}, {"retry_share": 1.5}, {"server_kind": "x"},
     {"target_p95_s": 0.0}, {"canary_every_s": 0.0}, {"api_keys": ("a", "b")}],
)  # fmt: skip
def test_settings_out_of_range_name_the_field(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        ClientSettings(**{"urls": ("http://x",), **bad})  # type: ignore[arg-type]


def test_versions_are_read_as_numbers() -> None:
    assert version_numbers("1.10.0") > version_numbers("v1.9.3") == (1, 9, 3)
    assert version_numbers("1.9.0-rc1")[:2] == (1, 9)
    assert version_numbers(None) == version_numbers("main") == ()


def test_requests_are_written_as_the_routes_want_them() -> None:
    settings = ClientSettings(urls=("http://x",), dimensions=256)
    openai = choose_route(ServerFacts(kind="openai", model_id="m"), settings.options)
    assert openai.prefix + b"[]" + openai.suffix == (
        b'{"input":[],"model":"m","encoding_format":"base64","dimensions":256}'
    )
    native = choose_route(ServerFacts(kind="tei", model_id="m", form=None), settings.options)
    assert native.prefix + b"[]" + native.suffix == b'{"inputs":[],"truncate":true,"normalize":true,"dimensions":256}'
