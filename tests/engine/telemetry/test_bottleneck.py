"""The bottleneck in words."""

from __future__ import annotations

import pytest

from engine.telemetry.bottleneck import MachineCpu, Occupancy


class Machine:
    """A machine whose cores were that busy."""

    def __init__(self, share: float) -> None:
        self.share = share

    def busy_share_since(self) -> float:
        """The share."""
        return self.share


@pytest.mark.parametrize(
    ("busy", "documents_ready", "vectors_busy", "reader", "words"),
    [
        (0.99, 0.9, 0.95, {}, "the machine's processor"),
        (0.2, 0.9, 0.95, {}, "the writer"),
        (0.2, 0.6, 0.3, {}, "the embedding servers"),
        (0.2, 0.0, 0.3, {"source_wait_s": 9.0, "ring_wait_s": 0.1}, "the source"),
        (0.2, 0.0, 0.3, {"source_wait_s": 0.1, "ring_wait_s": 9.0}, "the clients"),
    ],
)
def test_the_bottleneck_is_named_from_cores_rings_and_waits(
    busy: float, documents_ready: float, vectors_busy: float, reader: dict[str, float], words: str
) -> None:
    """Each stage can be the one."""
    occupancy = Occupancy(Machine(busy))  # type: ignore[arg-type]
    for _ in range(3):
        occupancy.sample(documents_ready, 0.1, vectors_busy)

    assert occupancy.bottleneck(dict(reader), [{}]).startswith(words)


def test_the_servers_own_split_is_part_of_the_verdict() -> None:
    """Queue, inference, tokenising: from their headers."""
    occupancy = Occupancy(Machine(0.1))  # type: ignore[arg-type]
    occupancy.sample(0.9, 0.0, 0.1)
    times = {"server_times": {"queue_s": 6.0, "inference_s": 3.0, "tokenization_s": 1.0}}

    assert "60% is queue, 30% inference, 10% tokenising" in occupancy.bottleneck({}, [times])


def test_the_machines_cpu_counters_move() -> None:
    """Read from the kernel, not invented."""
    before = MachineCpu.now()
    while MachineCpu.now().total == before.total:
        pass

    share = before.busy_share_since()

    assert share is not None
    assert 0 <= share <= 1
