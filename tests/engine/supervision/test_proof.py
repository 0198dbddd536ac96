"""The supervisor's part of a proof: nothing is committed without it, and a refusal is no crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from engine.supervision.generation import Child, Generation
from engine.supervision.proof import MAX_DRIFTS, Proofs, RowsRefused
from tests.engine.supervision.world import N, World


@pytest.mark.crash
def test_a_refusal_costs_the_open_shard_and_counts_as_no_crash(tmp_path: Path) -> None:
    """More of them than restarts are allowed: each ends a generation, nothing of it is committed, the run completes."""
    world = World(tmp_path)
    world.client = {"drifts": 6}

    result = world.run()

    assert (result["exit"], result["refusals"], result["restarts"]) == (0, 6, 0)
    assert (result["read"], result["embedded"]) == (N, N)
    world.assert_exact()


class Orders:
    """A generation of two clients that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def clients(self) -> list[Child]:
        """Both."""
        return [child("client-0"), child("client-1")]

    def command(self, role: str, **command: Any) -> None:
        """Note."""
        self.told.append((role, command))

    def command_clients(self, **command: Any) -> None:
        """Note."""
        self.told.append(("clients", command))


def child(role: str) -> Child:
    """A client without a process."""
    return Child(role=role, process=cast(Any, None), channel=cast(Any, None))


def test_the_writer_is_told_when_the_last_client_has_answered_this_very_question() -> None:
    """An answer to an earlier one, or one given twice, proves nothing."""
    orders, proofs = Orders(), Proofs()
    generation = cast(Generation, orders)
    proofs.ask(generation)
    proofs.receive(generation, child("client-0"), {"number": 1})
    proofs.ask(generation)
    proofs.receive(generation, child("client-1"), {"number": 1})
    proofs.receive(generation, child("client-0"), {"number": 2})
    proofs.receive(generation, child("client-0"), {"number": 2})
    assert ("writer", {"do": "proved"}) not in orders.told

    proofs.receive(generation, child("client-1"), {"number": 2})

    assert orders.told.count(("writer", {"do": "proved"})) == 1


def test_a_server_that_drifts_again_and_again_is_used_no_more() -> None:
    """Else it would refuse for ever; the others are not told anything."""
    proofs = Proofs()
    for number in range(1, MAX_DRIFTS + 1):
        with pytest.raises(RowsRefused, match="http://liar gives wrong vectors; 5 rows"):
            proofs.refuse(child("client-0"), {"server": 1, "url": "http://liar", "rows": 5})
        assert proofs.begin() == {"client-1": [{"do": "suspect", "for_good": number == MAX_DRIFTS}]}
