"""Seconds that were told late are put where they were spent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.recording.lumps import spread_back, without_lumps
from bench.recording.recording import Recording

SECONDS = st.lists(st.sampled_from([0.0, 0.3, 1.0, 4.0]), min_size=1, max_size=30)


def test_a_lump_fills_the_samples_before_it() -> None:
    found = spread_back(np.array([0.5, 0.0, 0.2, 0.0, 3.5, 0.1]), np.ones(6))

    assert found.tolist() == pytest.approx([0.5, 0.7, 1.0, 1.0, 1.0, 0.1])


@pytest.mark.seconds
@given(SECONDS)
def test_nothing_is_lost_and_only_the_first_sample_may_hold_more_than_its_time(values: list[float]) -> None:
    found = spread_back(np.array(values), np.ones(len(values)))

    assert found.sum() == pytest.approx(sum(values))
    assert (found[1:] <= 1.0 + 1e-9).all()


def test_only_counts_of_one_watch_are_touched() -> None:
    values = np.array([0.0, 0.0, 3.0], np.float32)
    columns = {"writer.write_s": values, "server-0.latency_s": values.copy()}
    found = without_lumps(Recording(at=np.arange(1.0, 4.0), seconds=np.ones(3), columns=columns, servers=["a"]))

    assert found.columns["writer.write_s"].tolist() == [1.0, 1.0, 1.0]
    assert found.columns["server-0.latency_s"].tolist() == [0.0, 0.0, 3.0]
    assert columns["writer.write_s"].tolist() == [0.0, 0.0, 3.0]
