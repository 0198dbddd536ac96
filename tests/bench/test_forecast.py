"""The arithmetic of `engine plan`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bench import forecast as fc
from engine.memory.ids import IdType
from writers.shards.schema import ShardSchema

DIM = 48


def test_the_forecast_is_that_of_the_job_this_project_replaces() -> None:
    """400 million documents at 2,600 a second are 42.7 hours, four GPUs of 0.30 an hour."""
    work = fc.Workload(
        documents=400_000_000,
        docs_per_second=2600.0,
        tokens_per_document=37.0,
        bytes_per_row=2600.0,
        shard_bytes=256 << 20,
        shard_seconds=60.0,
        gpus=4,
    )

    found = fc.forecast(work, gpu_hour_price=0.30, api_price_per_mtok=0.02)

    assert found.hours == pytest.approx(42.7, abs=0.05)
    assert found.gpu_cost == pytest.approx(42.735 * 4 * 0.30, rel=0.001)
    assert found.tokens == 14_800_000_000
    assert found.api_cost == pytest.approx(296.0)
    assert found.cold_bytes == 1_040_000_000_000
    assert found.shards == 3875  # by bytes: 60 s bring 387 MiB
    assert found.files == 969
    slow = dataclasses.replace(work, docs_per_second=260.0)
    assert fc.forecast(slow, gpu_hour_price=None, api_price_per_mtok=None).shards == 25_642  # by time


def test_truncation_and_tokens_follow_from_the_texts_that_were_counted() -> None:
    """A line through characters and tokens; without a tokenizer a ratio."""
    characters = np.arange(10, 1010, 10)
    counted = [(100, 27), (500, 127), (900, 227)]  # 2 and a quarter of the characters

    found = fc.estimate_tokens(characters, counted, 4.0, 102)

    assert found.lengths.percentiles["max"] == 252
    assert found.truncated_share == pytest.approx(0.6)
    assert found.mean_embedded < found.lengths.mean
    plain = fc.estimate_tokens(characters, None, 5.0, None)
    assert (plain.counted, plain.truncated_share, plain.lengths.percentiles["max"]) == (False, None, 200)


def test_bytes_of_a_row_are_those_of_a_real_file() -> None:
    """Random float32 hardly compress, float16 take half."""
    vectors = fc.plain_vectors(256, 64)
    sizes = {
        kind: fc.bytes_per_row(
            ShardSchema(id_type=IdType.INT64, columns=(), dim=64, vector_type=kind, truncated=False), vectors
        )
        for kind in ("float32", "float16")
    }

    assert 0.8 * 256 < sizes["float32"] < 1.2 * 256
    assert sizes["float16"] < 0.7 * sizes["float32"]
