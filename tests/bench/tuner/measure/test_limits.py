"""Which points the servers admit."""

from __future__ import annotations

import pytest

from bench.tuner.measure.limits import admitted
from bench.tuner.measure.visit import Point
from engine.errors import ConfigError
from gpu_clients.server_facts import ServerFacts
from tests.bench.tuner.tuned_file import fleet


def facts(**limits: int | None) -> ServerFacts:
    """A server with these limits."""
    return ServerFacts(kind="tei", model_id="m", **limits)  # type: ignore[arg-type]


def test_permits_belong_to_texts_and_a_client_leaves_a_margin() -> None:
    """512 permits are 15 requests of 32, not 16."""
    found = admitted(
        fleet("http://a:1", facts=facts(max_concurrent_requests=512, max_client_batch_size=32)), (8, 16, 32, 64), None
    )

    assert found.ceilings == {8: 60, 16: 30, 32: 15}
    assert found.by_permits == {8, 16, 32}
    assert any("batch size 64 left out" in note for note in found.notes)


def test_a_smaller_ceiling_of_the_user_counts_and_servers_without_limits_get_one() -> None:
    """An OpenAI-compatible server says nothing."""
    admitted_by_tei = admitted(fleet("http://a:1", facts=facts(max_concurrent_requests=512)), (32,), 4)
    unknown = admitted(fleet("http://a:1", facts=facts()), (32,), None)

    assert admitted_by_tei.ceilings == {32: 4}
    assert not admitted_by_tei.by_permits
    assert unknown.ceilings == {32: 64}


def test_batch_sizes_that_can_never_be_answered_are_left_out() -> None:
    """A request with more texts than permits gets 429 for ever."""
    found = admitted(fleet("http://a:1", facts=facts(max_concurrent_requests=16)), (8, 64), None)

    assert set(found.ceilings) == {8}
    assert any("HTTP 429 for ever" in note for note in found.notes)
    with pytest.raises(ConfigError, match="no batch size of 64 is admitted"):
        admitted(fleet("http://a:1", facts=facts(max_concurrent_requests=16)), (64,), None)


def test_points_sort_by_batch_size_and_then_concurrency() -> None:
    """As the table shows them."""
    assert sorted([Point(16, 2), Point(8, 30), Point(16, 1)]) == [Point(8, 30), Point(16, 1), Point(16, 2)]
