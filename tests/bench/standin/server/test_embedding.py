"""The embedding routes: both answer shapes, the options of a request, and what is refused in which words."""

from __future__ import annotations

import numpy as np
import pytest
import requests

from bench.standin import StandinFleet
from bench.standin.backends import tokens
from tests.bench.standin.client import TIMEOUT_S, base64_rows, embed, embed64, native_rows, post


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
        "a",
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


def test_in_the_older_dialect_validation_errors_are_413_json(old: StandinFleet) -> None:
    url = old.urls[0]
    for answer in (embed(url, ["x"] * 33), embed(url, "word" * 100)):
        assert (answer.status_code, answer.json()["error_type"]) == (413, "Validation")
    assert embed64(url, ["word" * 100]).json()["code"] == 413
    assert embed(url, "word" * 100, truncate=True).status_code == 200
