"""The HTTP contract of the stand-in servers, over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import orjson
import pytest
import requests

from bench.standin import Dialect, GpuConfig, StandinConfig, StandinFleet
from bench.standin.backends import tokens
from tests.bench.standin_client import (
    TIMEOUT_S,
    bare_socket,
    base64_rows,
    embed,
    embed64,
    get,
    native_rows,
    post,
    read_until,
    request_bytes,
)

_FAST_GPU = GpuConfig(tokens_per_s=1e7, fixed_overhead_s=0.0001)
_PROMPTS = (("document", "title: none | text: "), ("query", "query: "))


@pytest.fixture(scope="module", params=["canned", "sim"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    config = StandinConfig(
        backend=request.param,
        gpu=_FAST_GPU,
        prompts=_PROMPTS,
        payload_limit_bytes=200_000,
        max_input_length=64,
    )
    with StandinFleet(config) as fleet:
        yield fleet.urls[0]


@pytest.fixture(scope="module")
def old() -> Iterator[StandinFleet]:
    """A server of the older dialect with few permits, whose GPU needs a noticeable time."""
    config = StandinConfig(
        backend="sim",
        dialect=Dialect.V1_8,
        max_concurrent_requests=4,
        max_input_length=64,
        gpu=GpuConfig(tokens_per_s=1e6, fixed_overhead_s=0.05),
    )
    with StandinFleet(config) as fleet:
        yield fleet


# -- /info, /health, /metrics, /tokenize, /decode ---------------------------------------------------------


def test_info_has_every_field_of_the_real_server(url: str) -> None:
    info = get(url, "/info").json()
    assert info == {
        "model_id": "google/embeddinggemma-300m",
        "model_sha": "0000000000000000000000000000000000000001",
        "model_dtype": "float32",
        "served_model_name": "google/embeddinggemma-300m",
        "model_type": {"embedding": {"pooling": "mean"}},
        "max_concurrent_requests": 512,
        "max_input_length": 64,
        "max_batch_tokens": 16384,
        "max_batch_requests": None,
        "max_client_batch_size": 32,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": "1.9.3",
        "sha": None,
        "docker_label": None,
    }


def test_the_older_dialect_says_so_in_info(old: StandinFleet) -> None:
    info = get(old.urls[0], "/info").json()
    assert (info["version"], info["auto_truncate"]) == ("1.8.3", False)
    assert "served_model_name" not in info


@pytest.mark.parametrize("route", ["/health", "/", "/ping"])
def test_a_sound_server_is_healthy_on_all_three_routes(url: str, route: str) -> None:
    answer = get(url, route)
    assert (answer.status_code, answer.content) == (200, b"")


def test_metrics_of_a_fresh_server_are_an_empty_page_and_then_count_requests_and_inputs() -> None:
    with StandinFleet(StandinConfig(backend="sim", gpu=_FAST_GPU)) as fleet:
        url = fleet.urls[0]
        assert get(url, "/metrics").content == b""
        embed(url, ["one", "two", "three"])
        embed(url, "alone")
        embed(url, [""])
        page = dict(line.rsplit(" ", 1) for line in get(url, "/metrics").text.splitlines() if not line.startswith("#"))
    assert page['te_request_count{method="batch"}'] == "2"
    assert page['te_request_count{method="single"}'] == "1"
    assert page['te_request_failure{err="validation"}'] == "1"
    assert page["te_embed_success"] == "4"
    assert page["te_request_input_length_count"] == "4"
    assert page["te_queue_size"] == "0"
    n_tokens = sum(tokens.n_tokens(text) for text in ("one", "two", "three", "alone"))
    assert float(page["te_batch_next_tokens_sum"]) == n_tokens
    assert float(page["standin_real_tokens_total"]) == n_tokens
    assert float(page["te_request_duration_count"]) == 2
    assert page['te_embed_inference_duration_bucket{le="+Inf"}'] == "4"


def test_tokenize_shows_pieces_with_their_places_and_counts_like_embed(url: str) -> None:
    text = "ten chars!"
    rows = post(url, "/tokenize", {"inputs": text}).json()
    assert [token["text"] for token in rows[0]] == ["[CLS]", "ten ", "char", "s!", "[SEP]"]
    assert rows[0][1] == {"id": rows[0][1]["id"], "text": "ten ", "special": False, "start": 0, "stop": 4}
    bare = post(url, "/tokenize", {"inputs": [text, text], "add_special_tokens": False}).json()
    assert [len(row) for row in bare] == [3, 3]
    assert len(rows[0]) == int(embed(url, text).headers["x-compute-tokens"])


def test_tokenize_applies_a_named_prompt(url: str) -> None:
    plain, prompted = (
        post(url, "/tokenize", body).json()[0]
        for body in ({"inputs": "word"}, {"inputs": "word", "prompt_name": "query"})
    )
    assert len(prompted) == len(plain) + 2
    assert post(url, "/tokenize", {"inputs": "word", "prompt_name": "nobody"}).status_code == 422


def test_decode_gives_one_text_per_list_of_ids(url: str) -> None:
    assert len(post(url, "/decode", {"ids": [[101, 7, 8, 102], [9]]}).json()) == 2
    with_special = post(url, "/decode", {"ids": [101, 7, 102], "skip_special_tokens": False}).json()
    assert with_special == ["[CLS]0007[SEP]"]
    assert post(url, "/decode", {"ids": "abc"}).status_code == 422


@pytest.mark.parametrize("route", ["/embed_sparse", "/predict", "/rerank"])
def test_routes_of_other_kinds_of_model_answer_424(url: str, route: str) -> None:
    answer = post(url, route, {"inputs": "a"})
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")


def test_a_busy_server_answers_health_after_the_running_batch() -> None:
    gpu = GpuConfig(tokens_per_s=1e6, fixed_overhead_s=0.3)
    with StandinFleet(StandinConfig(backend="sim", gpu=gpu)) as fleet, bare_socket(fleet.ports[0]) as busy:
        busy.sendall(request_bytes("/embed", {"inputs": "a"}))
        _until(lambda: fleet.control(fleet.ports[0])["backend"]["standin_batches_total"] == 1)
        assert get(fleet.urls[0], "/health").status_code == 200
        spent_s = fleet.control(fleet.ports[0])["backend"]["standin_busy_seconds_total"]
    assert spent_s == pytest.approx(0.3, rel=0.01)


def test_unknown_routes_are_404_and_wrong_methods_405(url: str) -> None:
    assert get(url, "/nowhere").status_code == 404
    refused = get(url, "/embed")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


# -- sound answers ----------------------------------------------------------------------------------------


def test_base64_floats_and_the_native_shape_are_the_same_float32_vectors(url: str) -> None:
    texts = ["a cat", "a dog", "something else"]
    native = native_rows(embed(url, texts))
    floats = post(url, "/v1/embeddings", {"input": texts}).json()
    assert native.shape == (3, 768)
    assert np.array_equal(base64_rows(embed64(url, texts)), native)
    assert np.array_equal(np.array([item["embedding"] for item in floats["data"]], np.float32), native)
    assert np.allclose(np.linalg.norm(native, axis=1), 1.0, atol=1e-6)


def test_the_openai_shape_has_index_model_and_usage(url: str) -> None:
    texts = ["four", "eight ch", "x"]
    answer = embed64(url, texts, model="anything", user="me")
    body = answer.json()
    n_tokens = sum(tokens.n_tokens(text) for text in texts)
    assert (body["object"], body["model"]) == ("list", "google/embeddinggemma-300m")
    assert [(item["object"], item["index"]) for item in body["data"]] == [("embedding", index) for index in range(3)]
    assert body["usage"] == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    assert {len(item["embedding"]) for item in body["data"]} == {4096}
    assert post(url, "/embeddings", {"input": texts, "encoding_format": "base64"}).json() == body


def test_success_carries_the_timing_headers_as_integers_and_errors_do_not(url: str) -> None:
    answer = embed(url, ["häuser", "b"])
    for name in ("compute-time", "total-time", "tokenization-time", "queue-time", "inference-time"):
        assert answer.headers["x-" + name].isdigit()
    assert answer.headers["x-compute-type"] == "gpu+optimized"
    assert answer.headers["x-compute-characters"] == "7"
    assert answer.headers["x-compute-tokens"] == str(tokens.n_tokens("häuser") + tokens.n_tokens("b"))
    assert not [name for name in embed(url, []).headers if name.startswith("x-")]


def test_a_single_string_and_a_single_list_of_ids_give_one_row(url: str) -> None:
    assert native_rows(embed(url, "alone")).shape == (1, 768)
    assert native_rows(embed(url, [1, 2, 3])).shape == (1, 768)
    assert native_rows(embed(url, [[1, 2, 3]])).shape == (1, 768)
    assert native_rows(embed(url, ["text", [4, 5]])).shape == (2, 768)


def test_dimensions_cuts_before_it_normalises(url: str) -> None:
    whole = native_rows(embed(url, ["a", "b"]))
    part = native_rows(embed(url, ["a", "b"], dimensions=128))
    expected = whole[:, :128] / np.linalg.norm(whole[:, :128], axis=1, keepdims=True)
    assert np.allclose(part, expected, atol=1e-6)
    assert base64_rows(embed64(url, ["a", "b"], dimensions=128)).shape == (2, 128)


@pytest.mark.parametrize("dimensions", [0, 769])
def test_dimensions_that_the_model_lacks_are_refused(url: str, dimensions: int) -> None:
    answer = embed(url, "a", dimensions=dimensions)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")


def test_normalize_false_gives_the_same_direction_with_another_length(url: str) -> None:
    raw = native_rows(embed(url, ["a"], normalize=False))
    assert np.linalg.norm(raw) == pytest.approx(8.0, abs=1e-4)
    assert np.allclose(raw / 8.0, native_rows(embed(url, ["a"])), atol=1e-6)


def test_unknown_fields_are_ignored(url: str) -> None:
    assert embed(url, "a", unheard_of=1).status_code == 200


# -- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [[], [""], ["fine", ""], [[]]])
def test_empty_inputs_are_400_empty_in_the_shape_of_the_route(url: str, inputs: list[object]) -> None:
    native, openai = embed(url, inputs), post(url, "/v1/embeddings", {"input": inputs})
    assert (native.status_code, native.json()["error_type"]) == (400, "Empty")
    assert "`inputs` cannot be empty" in native.json()["error"]
    assert openai.status_code == 400
    assert openai.json() == {"message": native.json()["error"], "code": 400, "type": "Empty"}


def test_a_batch_above_the_client_limit_is_422_and_says_both_numbers(url: str) -> None:
    answer = embed64(url, ["x"] * 33)
    assert answer.status_code == 422
    assert answer.json() == {
        "message": "batch size 33 > maximum allowed batch size 32",
        "code": 422,
        "type": "Validation",
    }


def test_a_long_input_is_cut_by_default_and_refused_when_truncate_is_false(url: str) -> None:
    long = "word" * 100
    assert embed(url, long).headers["x-compute-tokens"] == "64"
    answer = embed(url, long, truncate=False)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")
    assert "must have less than 64 tokens. Given: 102" in answer.json()["error"]


def test_too_many_characters_are_refused_by_characters(url: str) -> None:
    answer = embed(url, "x" * (250 * 64 + 1), truncate=False)
    assert "must have less than 16000 characters. Given: 16001" in answer.json()["error"]


def test_an_unknown_prompt_name_is_a_validation_error(url: str) -> None:
    answer = embed(url, "a", prompt_name="nobody")
    assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": 5},
        {"inputs": ["a", 5]},
        {"inputs": ["a", None]},
        {"inputs": [["a"]]},
        {"inputs": [-1]},
        {"inputs": [1 << 32]},
        {},
        ["a"],
        {"inputs": "a", "truncate": "yes"},
        {"inputs": "a", "truncation_direction": "up"},
        {"inputs": "a", "dimensions": "many"},
        {"inputs": "a", "normalize": None},
    ],
)
def test_json_of_another_schema_is_422_in_plain_text(url: str, body: object) -> None:
    answer = post(url, "/embed", body)
    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("text/plain")
    assert "Failed to deserialize" in answer.text


def test_an_unknown_encoding_format_is_422_in_plain_text(url: str) -> None:
    answer = post(url, "/v1/embeddings", {"input": "a", "encoding_format": "hex"})
    assert (answer.status_code, "hex" in answer.text) == (422, True)


@pytest.mark.parametrize("body", [b"{", b'{"inputs": "\xff"}', b'{"inputs": "\\ud800"}', b""])
def test_what_is_not_json_is_400_in_plain_text(url: str, body: bytes) -> None:
    answer = requests.post(url + "/embed", data=body, headers={"Content-Type": "application/json"}, timeout=TIMEOUT_S)
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("kind", ["text/plain", ""])
def test_another_content_type_is_415_in_plain_text(url: str, kind: str) -> None:
    answer = requests.post(url + "/embed", data=b'{"inputs":"a"}', headers={"Content-Type": kind}, timeout=TIMEOUT_S)
    assert (answer.status_code, answer.headers["content-type"][:10]) == (415, "text/plain")


def test_a_body_above_the_payload_limit_is_413_in_plain_text(url: str) -> None:
    answer = embed(url, ["x" * 200_001])
    assert answer.status_code == 413
    assert answer.text == "Failed to buffer the request body: length limit exceeded"
    assert answer.headers["content-type"].startswith("text/plain")


def test_an_api_key_guards_everything_but_health_and_metrics() -> None:
    with StandinFleet(StandinConfig(api_key="s3cret")) as fleet:
        url = fleet.urls[0]
        for answer in (get(url, "/info"), embed(url, "a"), get(url, "/info", Authorization="Bearer wrong")):
            assert (answer.status_code, answer.content) == (401, b"")
        for route in ("/health", "/", "/ping", "/metrics"):
            assert get(url, route).status_code == 200
        assert get(url, "/info", Authorization="Bearer s3cret").status_code == 200
        assert post(url, "/embed", {"inputs": "a"}, Authorization="Bearer s3cret").status_code == 200


# -- permits ----------------------------------------------------------------------------------------------


def test_a_request_that_cannot_have_all_its_permits_at_once_is_429_even_on_an_idle_server() -> None:
    with StandinFleet(StandinConfig(max_concurrent_requests=4)) as fleet:
        url, port = fleet.urls[0], fleet.ports[0]
        assert embed(url, ["x"] * 4).status_code == 200
        answer = embed(url, ["x"] * 5)
        assert answer.status_code == 429
        assert answer.json() == {"error": "Model is overloaded", "error_type": "Overloaded"}
        assert "retry-after" not in answer.headers
        assert embed64(url, ["x"] * 5).json() == {
            "message": "Model is overloaded",
            "code": 429,
            "type": "Overloaded",
        }
        report = fleet.control(port)
        assert (report["answered_429"], report["in_flight_inputs"], report["in_flight_inputs_max"]) == (
            2,
            0,
            4,
        )


def test_permits_are_counted_in_inputs_held_while_computing_and_given_back() -> None:
    config = StandinConfig(backend="sim", max_concurrent_requests=10, faults=("delay:s=600,first=1",))
    with StandinFleet(config) as fleet, bare_socket(fleet.ports[0]) as slow:
        url, port = fleet.urls[0], fleet.ports[0]
        slow.sendall(request_bytes("/embed", {"inputs": ["held"] * 8}))
        _until(lambda: fleet.control(port)["in_flight_inputs"] == 8)
        assert embed(url, ["x"] * 3).status_code == 429
        assert embed(url, ["x"] * 2).status_code == 200
        slow.close()
        _until(lambda: fleet.control(port)["in_flight_inputs"] == 0)
        assert embed(url, ["x"] * 10).status_code == 200


def test_in_the_older_dialect_lists_wait_for_permits_and_single_strings_do_not(old: StandinFleet) -> None:
    url, port = old.urls[0], old.ports[0]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(embed(url, ["x", "y", "z"]).status_code)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4
    assert old.control(port)["in_flight_inputs_max"] <= 4
    assert embed(url, ["x"] * 9).status_code == 200
    old.control(port, faults=["delay:s=600,first=1"])
    with bare_socket(port) as slow:
        slow.sendall(request_bytes("/embed", {"inputs": ["x"] * 4}))
        _until(lambda: old.control(port)["in_flight_inputs"] == 4)
        assert embed(url, "alone").status_code == 429
    old.control(port, clear_faults=True)


def test_in_the_older_dialect_validation_errors_are_413_json(old: StandinFleet) -> None:
    url = old.urls[0]
    for answer in (embed(url, ["x"] * 33), embed(url, "word" * 100)):
        assert (answer.status_code, answer.json()["error_type"]) == (413, "Validation")
    assert embed64(url, ["word" * 100]).json()["code"] == 413
    assert embed(url, "word" * 100, truncate=True).status_code == 200


# -- the connection ---------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order_on_one_connection(url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    with bare_socket(port) as sock:
        sock.sendall(b"".join(request_bytes("/tokenize", {"inputs": f"text {n}"}) for n in range(5)) + _LAST)
        said = read_until(sock, b"404 Not Found")
    places = [said.index(f'" {n}"'.encode()) for n in range(5)]
    assert places == sorted(places)


_LAST = b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n"


def test_a_request_in_many_small_pieces_and_chunks_is_understood(url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    head = b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    body = orjson.dumps({"inputs": ["a", "b"]})
    wire = head + b"".join(b"%x\r\n%b\r\n" % (1, body[at : at + 1]) for at in range(len(body))) + b"0\r\n\r\n"
    with bare_socket(port) as sock:
        for at in range(0, len(wire), 7):
            sock.sendall(wire[at : at + 7])
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


def test_connection_close_is_honoured_and_garbage_is_400(url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    with bare_socket(port) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert b"connection: close" in read_until(sock, b"never")
    with bare_socket(port) as sock:
        sock.sendall(b"this is not http\r\n\r\n")
        assert read_until(sock, b"never").startswith(b"HTTP/1.1 400")


def test_expect_100_continue_is_answered_before_the_body(url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    whole = request_bytes("/embed", {"inputs": "a"})
    head, _, body = whole.partition(b"\r\n\r\n")
    with bare_socket(port) as sock:
        sock.sendall(head + b"\r\nexpect: 100-continue\r\n\r\n")
        assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


def test_an_answer_larger_than_the_socket_buffers_arrives_whole() -> None:
    with StandinFleet(StandinConfig(dim=4096, max_client_batch_size=400)) as fleet:
        rows = base64_rows(embed64(fleet.urls[0], ["x"] * 400))
        again = native_rows(embed(fleet.urls[0], ["y"] * 400))
    assert rows.shape == (400, 4096)
    assert np.array_equal(rows, again)


# -- backends ---------------------------------------------------------------------------------------------


def test_canned_rows_depend_on_their_place_only_and_all_canned_servers_agree() -> None:
    with StandinFleet(StandinConfig(ports=(0, 0)), processes=2) as fleet:
        one, other = (base64_rows(embed64(url, [f"text {n}" for n in range(20)])) for url in fleet.urls)
        few = base64_rows(embed64(fleet.urls[0], ["other", "texts"]))
    assert np.array_equal(one, other)
    assert np.array_equal(few, one[:2])
    assert len({row.tobytes() for row in one}) == 20


def test_sim_rows_depend_on_the_text_after_truncation_and_on_the_model_only() -> None:
    config = StandinConfig(backend="sim", gpu=_FAST_GPU, max_input_length=8, prompts=_PROMPTS)
    with StandinFleet(config) as fleet:
        url, port = fleet.urls[0], fleet.ports[0]
        rows = native_rows(embed(url, ["a", "b", "a", "x" * 24, "x" * 24 + "tail"]))
        assert np.array_equal(rows[0], rows[2])
        assert np.array_equal(rows[3], rows[4])
        assert np.array_equal(rows[1], native_rows(embed(url, "b"))[0])
        assert abs(float(rows[0] @ rows[1])) < 0.2
        left = native_rows(embed(url, "head" + "x" * 24, truncation_direction="left"))[0]
        assert np.array_equal(left, rows[3])
        prompted = native_rows(embed(url, "a", prompt_name="query"))[0]
        assert np.array_equal(prompted, native_rows(embed(url, "query: a"))[0])
        fleet.control(port, model_id="another/model")
        assert get(url, "/info").json()["model_id"] == "another/model"
        assert abs(float(native_rows(embed(url, "a"))[0] @ rows[0])) < 0.2


def test_a_bad_input_is_answered_after_the_others_were_computed() -> None:
    with StandinFleet(StandinConfig(backend="sim", gpu=_FAST_GPU)) as fleet:
        assert embed(fleet.urls[0], ["good", "", "good"]).status_code == 400
        assert fleet.control(fleet.ports[0])["backend"]["standin_inputs_total"] == 2


def test_the_control_route_counts_texts_when_asked() -> None:
    with StandinFleet(StandinConfig(count_texts=True)) as fleet:
        embed(fleet.urls[0], ["a", "b", "a"])
        report = get(fleet.urls[0], "/_control").json()
    assert (report["distinct_texts"], report["most_sent_text"]) == (2, 2)
    assert (report["requests"], report["inputs"], report["statuses"]) == (1, 3, {"200": 1})


def _until(holds: object) -> None:
    assert callable(holds)
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, "the awaited condition did not come"
        time.sleep(0.005)
