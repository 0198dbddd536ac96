"""A short seeded round of the generator of trouble; hours of it are `python -m tests.chaos`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinFleet
from tests.chaos.rounds import SERVERS, Chaos, Finding
from tests.chaos.trouble import draw_round
from tests.conftest import outlives_tests
from tests.crash.job import DIM

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("number", [0, 5, 9, 15])
def test_a_round_of_chaos_ends_exact(tmp_path: Path, mongod: LocalMongod, number: int) -> None:
    """`python -m tests.chaos --seed 1 --first NUMBER --rounds 1` plays it by hand."""
    with StandinFleet(SERVERS) as fleet, outlives_tests(*fleet.pids):
        Chaos(tmp_path, mongod, fleet).play(1, number)


def test_a_round_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    assert draw_round(3, 4) == draw_round(3, 4)
    assert draw_round(3, 4) != draw_round(3, 5) != draw_round(4, 5)


def test_the_oracle_sees_a_vector_that_is_another_text_s(
    tmp_path: Path, mongod: LocalMongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An oracle that never says no would always be content: here it expects other vectors than were written."""
    monkeypatch.setattr("tests.chaos.rounds.text_rows", lambda *_: np.zeros((1, DIM)))
    with (
        StandinFleet(SERVERS) as fleet,
        outlives_tests(*fleet.pids),
        pytest.raises(Finding, match="hold another text's vector"),
    ):
        Chaos(tmp_path, mongod, fleet).play(1, 9)
