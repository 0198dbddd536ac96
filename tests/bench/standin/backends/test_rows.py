"""What the made-up vectors of each backend depend on."""

from __future__ import annotations

import numpy as np

from bench.standin import StandinConfig, StandinFleet
from tests.bench.standin.client import FAST_GPU, PROMPTS, base64_rows, embed, embed64, get, native_rows


def test_canned_rows_depend_on_their_place_only_and_all_canned_servers_agree() -> None:
    with StandinFleet(StandinConfig(ports=(0, 0)), processes=2) as fleet:
        one, other = (base64_rows(embed64(url, [f"text {n}" for n in range(20)])) for url in fleet.urls)
        few = base64_rows(embed64(fleet.urls[0], ["other", "texts"]))
    assert np.array_equal(one, other)
    assert np.array_equal(few, one[:2])
    assert len({row.tobytes() for row in one}) == 20


def test_sim_rows_depend_on_the_text_after_truncation_and_on_the_model_only() -> None:
    config = StandinConfig(backend="sim", gpu=FAST_GPU, max_input_length=8, prompts=PROMPTS)
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
    with StandinFleet(StandinConfig(backend="sim", gpu=FAST_GPU)) as fleet:
        assert embed(fleet.urls[0], ["good", "", "good"]).status_code == 400
        assert fleet.control(fleet.ports[0])["backend"]["standin_inputs_total"] == 2
