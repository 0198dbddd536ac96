"""The stand-in for vLLM: its routes, its fields, its refusals, and the bytes that it answers with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bench.standin import Dialect, StandinConfig, StandinFleet
from bench.standin.backends.vectors import text_rows
from tests.bench.standin.client import FAST_GPU, base64_rows, embed64, get, post
from tests.conftest import outlives_tests

MODEL = "google/embeddinggemma-300m"
TEXTS = ["one", "another text", "a third"]


@pytest.fixture(scope="module")
def vllm() -> Iterator[str]:
    """The URL of one that takes texts of 64 tokens."""
    config = StandinConfig(backend="sim", dialect=Dialect.VLLM, max_input_length=64, gpu=FAST_GPU)
    with StandinFleet(config) as fleet, outlives_tests(fleet.pid):
        yield fleet.urls[0]


def test_it_says_what_it_is_and_has_no_route_of_tei(vllm: str) -> None:
    """Version, and how long a text may be."""
    assert get(vllm, "/version").json() == {"version": "0.11.0"}
    (model,) = get(vllm, "/v1/models").json()["data"]
    assert (model["id"], model["owned_by"], model["max_model_len"]) == (MODEL, "vllm", 64)
    assert [get(vllm, "/info").status_code, post(vllm, "/embed", {"inputs": TEXTS}).status_code] == [404, 404]


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "<f4"), ("float16", "<f2")])
def test_bytes_are_the_matrix_alone(vllm: str, dtype: str, kind: str) -> None:
    """Row by row, without headers of its own; the same numbers as base64."""
    fields: dict[str, Any] = {"encoding_format": "bytes_only", "embed_dtype": dtype, "endianness": "little"}
    answer = post(vllm, "/v1/embeddings", {"model": MODEL, "input": TEXTS, **fields})

    assert answer.headers["content-type"] == "application/octet-stream"
    assert not [name for name in answer.headers if name.startswith("x-")]
    rows = np.frombuffer(answer.content, dtype=kind).reshape(len(TEXTS), -1)
    np.testing.assert_array_equal(rows, text_rows(MODEL, TEXTS, 768).astype(kind))
    np.testing.assert_array_equal(rows, base64_rows(embed64(vllm, TEXTS)).astype(kind))


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"input": ["word " * 400]}, 400, "maximum context length is 64 tokens"),
        ({"input": TEXTS, "model": "other"}, 404, "does not exist"),
        ({"input": TEXTS, "normalize": True}, 400, "normalize"),
        ({"input": TEXTS, "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": TEXTS, "embed_dtype": "int4"}, 400, "embed_dtype"),
        ({"input": TEXTS, "truncate_prompt_tokens": -2}, 400, "truncate_prompt_tokens"),
        ({"texts": TEXTS}, 400, "input"),
    ],
)
def test_refusals_have_its_shape(vllm: str, fields: dict[str, Any], status: int, words: str) -> None:
    """An object `error` with a message, a type and a code."""
    answer = post(vllm, "/v1/embeddings", fields)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, status)
    assert words in error["message"]


def test_it_cuts_when_it_is_told_to_and_takes_any_number_of_texts(vllm: str) -> None:
    """Its queue is as long as it has to be."""
    cut = post(vllm, "/v1/embeddings", {"input": ["word " * 400], "truncate_prompt_tokens": -1})
    many = embed64(vllm, [f"text {number}" for number in range(600)])

    assert cut.status_code == 200
    assert cut.json()["usage"]["prompt_tokens"] == 64
    assert len(base64_rows(many)) == 600
