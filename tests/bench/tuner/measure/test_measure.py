"""One visit to an operating point, on modelled servers in virtual time."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bench.measure.load.modelled_load import ModelledLoad
from bench.tuner.measure.measure import measure
from bench.tuner.measure.visit import Rules, Visit
from bench.tuner.texts.corpus import Order
from tests.bench.tuner.modelled import FLEETS, corpus

BATCH, IN_FLIGHT = 16, 4
CYCLE = corpus().cycle(BATCH, 8_192, Order.SORTED, random.Random(1))


def visit(load: ModelledLoad, *, cycles: int) -> Visit:
    """Go round sorted texts so many times."""
    return measure(load, CYCLE, IN_FLIGHT, Rules(max_s=60.0 * cycles, precision=0.03, cycles=cycles))


def test_a_visit_of_several_times_round_counts_every_text_as_often_as_any_other() -> None:
    found = visit(ModelledLoad(FLEETS["four unlike that pad"], seed=1), cycles=3)

    assert found.coverage >= 3.0
    assert len(found.latencies_s) == 3 * len(CYCLE.requests)
    assert found.characters.sum() == pytest.approx(3 * CYCLE.n_characters, rel=0.02)


def test_once_round_all_texts_tells_the_percentile_that_many_times_tell_give_or_take_luck() -> None:
    """It begins and ends amid the longest texts, and what servers that are unlike have left to answer is not alike."""
    load = ModelledLoad(FLEETS["four unlike that pad"], seed=1)
    visit(load, cycles=1)  # what a visit comes from is another point, not an idle fleet
    once = [visit(load, cycles=1).p_s(0.95) for _ in range(12)]
    often = visit(load, cycles=10).p_s(0.95)

    assert np.mean(once) == pytest.approx(often, rel=0.04)
