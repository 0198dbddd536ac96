"""From an answer's body to a matrix: exactly the server's numbers, or a refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pybase64
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_clients.http.answers import BadAnswer
from gpu_clients.vectors.decode import AnswerForm, Matrix, VectorDecoder
from gpu_clients.vectors.soundness import repeated_rows, share_one_vector, unsound_rows


def unit_rows(n: int, dim: int, seed: int = 0) -> Matrix:
    """Random unit vectors."""
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    return rows


def items(rows: Matrix, order: list[int] | None = None, *, index_first: bool = False) -> list[dict[str, Any]]:
    """The `data` of an answer."""
    made = []
    for position in order if order is not None else range(len(rows)):
        text = pybase64.b64encode(rows[position].tobytes()).decode()
        item = {"object": "embedding", "embedding": text, "index": position}
        made.append({"index": position, **item} if index_first else item)
    return made


def body(data: list[dict[str, Any]], **more: Any) -> memoryview:
    """An answer of the OpenAI route."""
    usage = {"prompt_tokens": 17, "total_tokens": 17}
    return memoryview(orjson.dumps({"object": "list", "data": data, "model": "m", "usage": usage, **more}))


def decode(decoder: VectorDecoder, answer: memoryview, n: int, dim: int) -> Matrix:
    """Decode into a fresh matrix."""
    out = np.full((n, dim), 7.0, dtype=np.float32)
    decoder.decode_into(answer, out)
    return out


@pytest.mark.parametrize("dim", [768, 384, 1024, 512, 256, 3, 4, 5])
@pytest.mark.parametrize("index_first", [False, True])
def test_base64_gives_the_same_bits_by_parser_and_by_layout(dim: int, index_first: bool) -> None:
    decoder = VectorDecoder(AnswerForm.BASE64, dim)
    for seed, n in enumerate([12, 12, 5, 1, 11, 14, 14, 2]):
        rows = unit_rows(n, dim, seed)
        out = decode(decoder, body(items(rows, index_first=index_first)), n, dim)
        assert out.tobytes() == rows.tobytes()
    assert decoder.n_by_layout == 6, "all but the first and the one that was longer than any before"


def test_rows_are_placed_by_index_and_such_an_answer_is_no_layout() -> None:
    decoder = VectorDecoder(AnswerForm.BASE64, 6)
    rows = unit_rows(4, 6)
    for order in ([2, 0, 3, 1], [0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 2, 3], [0, 1, 2, 3]):
        assert np.array_equal(decode(decoder, body(items(rows, order)), 4, 6), rows)


def test_equal_vectors_in_another_order_do_not_make_a_false_layout() -> None:
    decoder = VectorDecoder(AnswerForm.BASE64, 6)
    same = np.repeat(unit_rows(1, 6), 3, axis=0)
    decode(decoder, body(items(same, [2, 1, 0])), 3, 6)
    rows = unit_rows(3, 6, 5)
    assert np.array_equal(decode(decoder, body(items(rows, [2, 1, 0])), 3, 6), rows)
    assert np.array_equal(decode(decoder, body(items(rows)), 3, 6), rows)


def test_the_tokens_that_the_server_counted_are_returned() -> None:
    decoder = VectorDecoder(AnswerForm.BASE64, 6)
    out = np.empty((2, 6), dtype=np.float32)
    for _ in range(2):
        assert decoder.decode_into(body(items(unit_rows(2, 6))), out) == 17
    assert decoder.decode_into(body(items(unit_rows(2, 6)), usage=None), out) is None


def damaged(kind: str) -> memoryview:
    """An answer of 4 rows of 6 numbers with one thing wrong."""
    data = items(unit_rows(4, 6))
    more: dict[str, Any] = {}
    if kind == "one less":
        data.pop()
    elif kind == "one more":
        data.append({**data[0], "index": 4})
    elif kind == "index twice":
        data[3]["index"] = 0
    elif kind == "index missing":
        del data[3]["index"]
    elif kind == "index not a number":
        data[3]["index"] = "3"
    elif kind == "index true":
        data[1]["index"] = True
    elif kind == "index beyond":
        data[3]["index"] = 4
    elif kind == "short":
        data[3]["embedding"] = data[3]["embedding"][:-4]
    elif kind == "long":
        data[3]["embedding"] += "AAAA"
    elif kind == "not base64":
        data[2]["embedding"] = "!" + data[2]["embedding"][1:]
    elif kind == "padding inside":
        data[1]["embedding"] = data[1]["embedding"][:-1] + "="
    elif kind == "line break inside":
        data[1]["embedding"] = data[1]["embedding"][:-1] + "\n"
    elif kind == "null":
        data[0]["embedding"] = None
    elif kind == "floats":
        data[0]["embedding"] = [0.1] * 6
    elif kind == "no data":
        more["data"] = None
    elif kind == "no object":
        return memoryview(b"[1,2,3]")
    elif kind == "cut":
        return body(data)[:-20]
    elif kind == "bytes behind":
        return memoryview(bytes(body(data)) + b"x")
    elif kind == "nan":
        return memoryview(bytes(body(data)).replace(b"17", b"NaN", 1))
    elif kind == "html":
        return memoryview(b"<html></html>")
    elif kind == "not utf-8":
        return memoryview(bytes(body(data)).replace(b'"m"', b'"\xff"'))
    return memoryview(orjson.dumps({**orjson.loads(body(data)), **more})) if more else body(data)


KINDS = [
    *("one less", "one more", "index twice", "index missing", "index not a number", "index true", "index beyond"),
    *("short", "long", "not base64", "padding inside", "line break inside", "null", "floats", "no data", "no object"),
    *("cut", "bytes behind", "nan", "html", "not utf-8"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_layout", [False, True])
def test_a_damaged_answer_is_refused_also_when_the_layout_is_known(kind: str, by_layout: bool) -> None:
    decoder = VectorDecoder(AnswerForm.BASE64, 6)
    if by_layout:
        decode(decoder, body(items(unit_rows(8, 6, 3))), 8, 6)
    with pytest.raises(BadAnswer):
        decode(decoder, damaged(kind), 4, 6)


@pytest.mark.seconds
@settings(max_examples=300, deadline=None)
@given(at=st.integers(min_value=0), value=st.integers(min_value=0, max_value=255))
def test_a_byte_changed_anywhere_is_refused_or_means_the_same(at: int, value: int) -> None:
    """The way by layout accepts nothing that the strict parser refuses, and never gives other numbers."""
    rows = unit_rows(5, 6)
    whole = bytearray(body(items(rows)))
    whole[at % len(whole)] = value
    by_layout, by_parser = VectorDecoder(AnswerForm.BASE64, 6), VectorDecoder(AnswerForm.BASE64, 6)
    decode(by_layout, body(items(unit_rows(6, 6, 9))), 6, 6)
    try:
        expected: Matrix | None = decode(by_parser, memoryview(whole), 5, 6)
    except BadAnswer:
        expected = None
    try:
        found: Matrix | None = decode(by_layout, memoryview(whole), 5, 6)
    except BadAnswer:
        found = None

    assert (found is None) == (expected is None)
    assert found is None or expected is None or found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("form", [AnswerForm.OPENAI_FLOATS, AnswerForm.NATIVE_FLOATS])
def test_json_numbers_give_the_same_bits(form: AnswerForm) -> None:
    rows = unit_rows(5, 9)
    lists = orjson.loads(orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY))
    openai = body([{"embedding": row, "index": position} for position, row in enumerate(lists)])
    answer = memoryview(orjson.dumps(lists)) if form is AnswerForm.NATIVE_FLOATS else openai

    assert decode(VectorDecoder(form, 9), answer, 5, 9).tobytes() == rows.tobytes()


@pytest.mark.parametrize("text", [b"null", b"1e39", b"-1e39"])
def test_numbers_that_are_none_become_rows_that_are_unsound(text: bytes) -> None:
    answer = b"[[0.6,0.8],[0.6,%b],[0.8,0.6]]" % text
    out = decode(VectorDecoder(AnswerForm.NATIVE_FLOATS, 2), memoryview(answer), 3, 2)

    assert unsound_rows(out, normalized=True) == [1]
    assert unsound_rows(out, normalized=False) == [1]


@pytest.mark.parametrize(
    "answer",
    [
        b'[[0.6,"0.8"]]',
        b"[[0.6,true]]",
        b"[[0.6,[0.8]]]",
        b"[[0.6,NaN]]",
        b"[[0.6,Infinity]]",
        b"[[0.6]]",
        b"[[0.6,0.8,0.0]]",
        b"[0.6,0.8]",
        b"[]",
        b"{}",
        b"[[0.6,0.8],[0.6,0.8]]",
    ],
)
def test_json_that_is_no_matrix_of_numbers_is_refused(answer: bytes) -> None:
    with pytest.raises(BadAnswer):
        decode(VectorDecoder(AnswerForm.NATIVE_FLOATS, 2), memoryview(answer), 1, 2)


def test_a_number_too_large_even_for_a_double_is_refused_or_unsound() -> None:
    try:
        out = decode(VectorDecoder(AnswerForm.NATIVE_FLOATS, 2), memoryview(b"[[0.6,1e400]]"), 1, 2)
    except BadAnswer:
        return
    assert unsound_rows(out, normalized=True) == [0]


@pytest.mark.parametrize(
    ("row", "normalized_too"),
    [
        ([np.nan, 0.0, 0.0], True),
        ([np.inf, 0.0, 0.0], True),
        ([0.0, 0.0, 0.0], True),
        ([0.57735026, 0.57735026, 0.57735026], True),
        ([2.0, 0.0, 1.0], False),
        ([0.9, 0.0, 0.1], False),
    ],
)
def test_rows_that_are_no_embeddings_are_named(row: list[float], normalized_too: bool) -> None:
    matrix = unit_rows(4, 3)
    matrix[2] = row

    assert unsound_rows(matrix, normalized=True) == [2]
    assert unsound_rows(matrix, normalized=False) == ([2] if normalized_too else [])


def test_repeated_rows_are_seen_and_judged_by_their_texts() -> None:
    matrix = unit_rows(6, 8)
    assert repeated_rows(matrix) == []
    matrix[4] = matrix[1]
    assert repeated_rows(matrix) == [4]
    assert not share_one_vector(matrix, ["a", "Hello", "b", "c", "hello", "d"]), "an uncased model may do that"
    matrix[:] = matrix[0]
    assert share_one_vector(matrix, list("abcdef"))
    assert not share_one_vector(matrix, ["same"] * 6)
