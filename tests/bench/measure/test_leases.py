"""The simulation of a fleet around the lease machine: exact with every kind of failure, and close to the ideal."""

from __future__ import annotations

import pytest

from bench.measure.leases import main, simulate
from bench.measure.load.lease_fleet import FleetConfig
from bench.measure.load.lease_nodes import Stretches

SMALL = FleetConfig(
    nodes=12,
    documents=3_000_000,
    rate=50.0,
    failure_every=90.0,
    replace_s=60.0,
    cut_off_s=90.0,
    shard_s=20.0,
    shard_rows=10_000,
)


def test_a_fleet_that_fails_in_every_way_loses_and_doubles_nothing() -> None:
    """Kills that are noticed and not, zombies, a driver that is killed: virtual time, so the same every time."""
    found = simulate(SMALL)
    assert (found["lost_documents"], found["doubled_documents"]) == (0, 0)
    assert found["failures"] > 9 and found["zombies"] and found["revoked"] >= 9 and found["drivers_killed"] == 1
    assert found["embedded_again"] > 0
    assert found["ledger"]["bytes_of_leases"] < 1_000 * found["leases"]


def test_without_failures_unlike_nodes_end_together_but_for_the_work_of_some_pieces() -> None:
    """Virtual time again: no figure here hangs on this machine."""
    found = simulate(FleetConfig(nodes=12, documents=6_000_000, failure_every=0.0, driver_kills=0, spread=5.0))
    assert found["lost_percent"] < 5


@pytest.mark.seconds
def test_more_documents_mean_no_more_leases_for_as_many_pieces() -> None:
    """The ledger grows with leases; COMMIT is a matter of shards, as on one machine."""
    few, many = (
        simulate(FleetConfig(nodes=6, documents=documents, failure_every=0.0, driver_kills=0, pieces_a_node=32))
        for documents in (6_000_000, 24_000_000)
    )
    assert many["leases"] <= 6 * 32
    assert many["ledger"]["bytes_of_leases"] < 3 * few["ledger"]["bytes_of_leases"]


def test_figures_of_the_command_line_name_what_was_modelled() -> None:
    """So that a figure can be had again."""
    found = main(["--nodes", "3", "--documents", "1e5", "--lease-s", "10"])
    assert (found["config"]["documents"], found["config"]["lease_s"], found["lost_documents"]) == (100_000, 10.0, 0)


def test_documents_that_are_there_twice_are_counted() -> None:
    """The count of the simulation could not be trusted else."""
    stretches = Stretches()
    stretches.add([(0, 10), (10, 20), (30, 40)])
    assert stretches.merge() == (30, 0)
    assert stretches.missing_in(5, 50) == [(20, 30), (40, 50)]
    stretches.add([(18, 22)])
    assert stretches.merge() == (32, 2)


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_another_fleet_is_as_exact(seed: int) -> None:
    """Other paces, other estimates, other failures."""
    found = simulate(
        FleetConfig(nodes=8, documents=800_000, failure_every=40.0, replace_s=30.0, shard_s=15.0, seed=seed)
    )
    assert (found["lost_documents"], found["doubled_documents"]) == (0, 0)
