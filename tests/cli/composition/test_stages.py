"""The size of the rings follows from the batch, the model and the memory allowed, whatever their numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from commands.composition.stages import plan_rings
from engine.config import LimitsConfig, RunConfig, ServersConfig
from engine.memory.ring import MAX_SLOTS


def fleet(batch_size: int, max_input_length: int | None = 2048) -> Any:
    """What the doctor found, as far as it matters here."""
    facts = SimpleNamespace(max_input_length=max_input_length)
    return SimpleNamespace(batch_size=batch_size, max_concurrency=64, servers=[SimpleNamespace(facts=facts)])


@pytest.mark.parametrize("dim", [24, 768, 4096])
@pytest.mark.parametrize("batch_size", [1, 32, 4096])
@pytest.mark.parametrize("ring_bytes", [16 << 20, 48 << 20, 100 << 30])
def test_rings_have_a_number_of_slots_that_a_queue_can_hold(dim: int, batch_size: int, ring_bytes: int) -> None:
    """Neither too few to work with nor more than a pipe of slot numbers takes."""
    config = RunConfig(
        servers=ServersConfig(batch_size=batch_size, concurrency=1024), limits=LimitsConfig(ring_bytes=ring_bytes)
    )

    rings = plan_rings(config, fleet(batch_size), SimpleNamespace(schema=SimpleNamespace(dim=dim)))  # type: ignore[arg-type]

    assert 8 <= rings.n_documents <= MAX_SLOTS
    assert 16 <= rings.n_vectors <= MAX_SLOTS
    assert rings.document_bytes % 64 == 0
    assert rings.layout.slot_bytes >= batch_size * dim * 4
    usual = max(ring_bytes, 16 * rings.layout.slot_bytes) + max(96 << 20, 8 * rings.document_bytes)
    assert rings.size_bytes <= usual
