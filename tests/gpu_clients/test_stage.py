"""The ordinary way of a batch through a client: every document in one row, with its own vector, ids and columns."""

from __future__ import annotations

import pytest

from bench.standin import StandinConfig, StandinFleet
from engine.ids import IdType
from tests.gpu_clients.harness import Harness

MODEL = "google/embeddinggemma-300m"


def _texts(n: int) -> list[str]:
    return [f"text number {number} " + "x" * (number % 50) for number in range(n)]


@pytest.mark.parametrize("id_type", list(IdType))
def test_every_document_comes_out_once_with_its_own_vector(id_type: IdType) -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0, 0))) as fleet:
        columns = [[number, f"c{number}"] for number in range(700)]
        outcome = Harness(fleet.urls, _texts(700), id_type=id_type, columns=columns).run()
    outcome.check_exact(MODEL)
    assert not outcome.quarantined
    assert all(outcome.columns[number] == columns[number] for number in range(700))
    assert outcome.total("taken_rows") == outcome.total("rows") == 700
