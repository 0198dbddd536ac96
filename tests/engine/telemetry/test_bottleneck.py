"""The bottleneck in words."""

from __future__ import annotations

from typing import Any

import pytest

from engine.telemetry.bottleneck import MachineCpu, Occupancy


class Machine:
    """A machine whose cores were that busy."""

    def __init__(self, share: float) -> None:
        self.share = share

    def busy_share_since(self) -> float:
        """The share."""
        return self.share


def client(**shares: float) -> dict[str, Any]:
    """What a client told that has worked for 100 s; the names without their unit, in shares of that."""
    return {"worked_s": 100.0, **{f"{name}_s": 100.0 * share for name, share in shares.items()}}


def told(busy: float, clients: list[dict[str, Any]], **reader: float) -> str:
    """The bottleneck of a run on a machine that was so busy."""
    return Occupancy(Machine(busy)).bottleneck(dict(reader), clients)  # type: ignore[arg-type]


@pytest.mark.parametrize("busy", [0.2, 0.99])
@pytest.mark.parametrize(
    ("waits", "reader", "words"),
    [
        ({"vector_wait": 0.7, "server_wait": 0.2}, {}, "the writer"),
        ({"server_wait": 0.9, "worked_cpu": 0.1}, {"source_wait_s": 99.0}, "the embedding servers"),
        ({"server_wait": 0.6, "ring_wait": 0.3}, {"source_wait_s": 99.0}, "the embedding servers"),
        ({"ring_wait": 0.9}, {"source_wait_s": 80.0, "ring_wait_s": 0.1}, "the source"),
        ({"ring_wait": 0.9}, {"pause_wait_s": 60.0, "ring_wait_s": 60.0}, "the marks"),
        ({"ring_wait": 0.9}, {"source_wait_s": 10.0, "ring_wait_s": 60.0}, "the document ring"),
    ],
)
def test_what_is_waited_for_most_of_the_time_is_the_bottleneck_however_busy_the_machine_is(
    busy: float, waits: dict[str, float], reader: dict[str, float], words: str
) -> None:
    """Others may use its cores as well; that they are used up is said beside it."""
    verdict = told(busy, [client(**waits)] * 2, **reader)

    assert verdict.startswith(f"{words}:")
    assert ("cores were 99% busy" in verdict) == (busy > 0.9)


@pytest.mark.parametrize(
    ("waits", "words"),
    [
        ({"ring_wait": 0.9}, "the reader"),
        ({"server_wait": 0.9, "worked_cpu": 0.95}, "the clients"),
        ({"server_wait": 0.4, "ring_wait": 0.4}, "no single stage"),
    ],
)
def test_the_engines_own_work_is_blamed_unless_the_cores_are_used_up(waits: dict[str, float], words: str) -> None:
    """One process that fills its core is slow by itself; on a machine without a core to spare everything is."""
    assert told(0.5, [client(**waits)]).startswith(f"{words}:")
    assert told(0.99, [client(**waits)]).startswith("the machine's processor")


@pytest.mark.parametrize(("total_s", "words"), [(19.0, "the embedding servers"), (2.0, "the way to the servers")])
def test_servers_that_answer_at_once_are_not_blamed_for_a_slow_way(total_s: float, words: str) -> None:
    """Their own account of a request is compared with what it took here."""
    facts = client(server_wait=0.9) | {"server_times": {"total_s": total_s, "answered_s": 20.0}}

    assert told(0.2, [facts]).startswith(words)


def test_a_run_that_mostly_writes_its_last_shards_says_so() -> None:
    """When no client had anything left to do; one that still waits for its server is the reason why others idle."""
    assert told(0.99, [client(idle=0.9), client(idle=0.6, server_wait=0.4)]).startswith("the end of the run:")
    assert told(0.2, [client(idle=0.9), client(server_wait=1.0)]).startswith("no single stage")


def test_nothing_is_said_of_a_run_that_was_too_short() -> None:
    """The first second is not typical of anything."""
    assert told(0.2, [{"worked_s": 0.4, "server_wait_s": 0.4}]).startswith("nothing to judge by")
    assert told(0.2, [{}, {}]).startswith("nothing to judge by")


def test_the_servers_own_split_is_part_of_the_verdict() -> None:
    """Queue, inference, tokenising: from their headers."""
    times = {"server_times": {"queue_s": 6.0, "inference_s": 3.0, "tokenization_s": 1.0}}

    assert "60% is queue, 30% inference, 10% tokenising" in told(0.1, [client(server_wait=0.9) | times])


def test_the_machines_cpu_counters_move() -> None:
    """Read from the kernel, not invented."""
    before = MachineCpu.now()
    while MachineCpu.now().total == before.total:
        pass

    share = before.busy_share_since()

    assert share is not None
    assert 0 <= share <= 1
