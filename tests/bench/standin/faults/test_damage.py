"""Faults that damage a right answer: cut bodies, wrong vectors, wrong places, another model."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.bench.standin.client import base64_row, base64_rows, embed, embed64, get, native_rows
from tests.bench.standin.target import TEXTS, Target


def test_truncated_json_is_a_complete_message_with_half_a_document(target: Target) -> None:
    target.fault("truncated_json:share=0.5")
    answer = target.ask()
    assert (answer.status_code, int(answer.headers["content-length"])) == (200, len(answer.content))
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.content)


def test_content_type_can_be_wrong_over_a_right_body(target: Target) -> None:
    target.fault({"kind": "content_type", "value": "application/json; charset=utf-16"})
    answer = target.ask()
    assert answer.headers["content-type"] == "application/json; charset=utf-16"
    assert json.loads(answer.content)["object"] == "list"


@pytest.mark.parametrize("delta", [-1, 1])
def test_count_leaves_a_vector_out_or_adds_one(target: Target, delta: int) -> None:
    target.fault(f"count:delta={delta}")
    assert len(base64_rows(target.ask())) == len(TEXTS) + delta
    assert len(native_rows(embed(target.url, TEXTS))) == len(TEXTS) + delta


@pytest.mark.parametrize("dim", [767, 769, 0])
def test_dim_changes_the_length_of_every_vector(target: Target, dim: int) -> None:
    target.fault(f"dim:to={dim}")
    assert base64_rows(target.ask()).shape == (len(TEXTS), dim)
    assert native_rows(embed(target.url, TEXTS)).shape == (len(TEXTS), dim)


@pytest.mark.parametrize(
    ("value", "literal", "number"),
    [
        ("nan", "NaN", math.nan),
        ("inf", "Infinity", math.inf),
        ("-inf", "-Infinity", -math.inf),
        ("1e400", "1e400", math.inf),
    ],
)
def test_value_puts_an_unsound_number_into_one_vector(target: Target, value: str, literal: str, number: float) -> None:
    target.fault({"kind": "value", "value": value, "row": 1, "column": 5})
    rows = base64_rows(target.ask())
    assert np.array_equal(rows[1, 5], np.float32(number), equal_nan=True)
    assert np.isfinite(np.delete(rows, 1, axis=0)).all()
    assert embed(target.url, TEXTS).text.split("],[")[1].split(",")[5] == literal


def test_value_can_be_null_or_a_string(target: Target) -> None:
    target.fault("value:value=null,row=2")
    assert target.ask().json()["data"][2] == {"object": "embedding", "embedding": None, "index": 2}
    assert embed(target.url, TEXTS).json()[2][0] is None
    target.fault("value:value=string,row=0")
    assert embed(target.url, TEXTS).json()[0][0] == "0.25"
    with pytest.raises(ValueError, match="base64"):
        base64_row(target.ask().json()["data"][0]["embedding"])


def test_index_reorder_keeps_each_vector_with_its_index(target: Target) -> None:
    target.fault("index:how=reorder")
    data = target.ask().json()["data"]
    assert [item["index"] for item in data] == [3, 2, 1, 0]
    for item in data:
        assert np.array_equal(base64_row(item["embedding"]), target.sound[item["index"]])


@pytest.mark.parametrize(
    ("how", "indexes"),
    [("duplicate", [0, 1, 2, 0]), ("missing", [None, 1, 2, 3]), ("gap", [0, 1, 2, 4])],
)
def test_index_can_be_doubled_absent_or_out_of_range(target: Target, how: str, indexes: list[int | None]) -> None:
    target.fault(f"index:how={how}")
    assert [item.get("index") for item in target.ask().json()["data"]] == indexes


def test_zero_and_same_give_vectors_without_meaning(target: Target) -> None:
    target.fault("zero")
    assert not base64_rows(target.ask()).any()
    target.fault("same")
    assert np.array_equal(base64_rows(target.ask()), np.repeat(target.sound[:1], len(TEXTS), axis=0))


def test_previous_answers_with_the_vectors_of_the_request_before(target: Target) -> None:
    target.fault("previous:after=1")
    before = base64_rows(embed64(target.url, ["w", "x", "y", "z"], dimensions=768))
    assert np.array_equal(base64_rows(target.ask()), before)


def test_other_model_gives_sound_unit_vectors_of_another_space(target: Target) -> None:
    target.fault("other_model")
    rows = base64_rows(target.ask())
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    assert np.abs(np.einsum("ij,ij->i", rows, target.sound)).max() < 0.2


def test_switch_model_changes_info_and_vectors_live_and_clearing_switches_back(target: Target) -> None:
    target.fault("switch_model:model_id=other/model,after=1")
    assert np.array_equal(base64_rows(target.ask()), target.sound)
    changed = target.ask()
    assert changed.json()["model"] == "other/model"
    assert not np.array_equal(base64_rows(changed), target.sound)
    assert get(target.url, "/info").json()["model_id"] == "other/model"
    target.fleet.control(target.port, clear_faults=True)
    assert get(target.url, "/info").json()["model_id"] == "google/embeddinggemma-300m"
    assert np.array_equal(base64_rows(target.ask()), target.sound)
