"""The control route: orders, and what it counts."""

from __future__ import annotations

import pytest

from bench.standin import FleetError, StandinConfig, StandinFleet
from tests.bench.standin.client import embed, get
from tests.bench.standin.target import Target


def test_a_bad_order_changes_nothing(target: Target) -> None:
    for orders in ({"faults": ["status", "nonsense"]}, {"unheard_of": 1}, {"slow_factor": 0}):
        with pytest.raises(FleetError, match="refused"):
            target.fleet.control(target.port, **orders)
    assert target.fleet.control(target.port)["faults"] == []


def test_the_control_route_counts_texts_when_asked() -> None:
    with StandinFleet(StandinConfig(count_texts=True)) as fleet:
        embed(fleet.urls[0], ["a", "b", "a"])
        report = get(fleet.urls[0], "/_control").json()
    assert (report["distinct_texts"], report["most_sent_text"]) == (2, 2)
    assert (report["requests"], report["inputs"], report["statuses"]) == (1, 3, {"200": 1})
