"""The summary and the bottleneck in words."""

from __future__ import annotations

import pytest

from engine.telemetry.bottleneck import MachineCpu, Occupancy
from engine.telemetry.metrics import LatencyHistogram, WindowedRate
from engine.telemetry.summary import RunClock, summary
from engine.telemetry.tally import Tally


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


def test_a_sum_that_is_off_by_one_is_noticed() -> None:
    """G7: the reason why exit 0 means something."""
    tally = Tally(committed_rows=10, gone=1, quarantined=2, read=12)
    assert tally.sum_agrees()

    tally.read += 1

    assert not tally.sum_agrees()


def test_a_summary_has_every_field_of_the_contract() -> None:
    """Names that other programs rely on."""
    figures = summary(Tally(), RunClock(), run="r", collection="c", bottleneck="b", exit_code=0)

    contract = (
        "run collection read embedded quarantined gone resumed shards bytes seconds docs_per_second tokens_per_second "
        "cpu_us_per_document latency bottleneck exit"
    )
    assert set(contract.split()) <= set(figures)
    assert set(figures["cpu_us_per_document"]) == {"reader", "clients", "writer", "supervisor"}


def test_every_server_is_in_the_summary_with_what_it_did_over_all_generations() -> None:
    """The state is the last one, the counts are sums."""
    tally = Tally()
    facts = {"url": "http://a", "breaker": "ok", "window": 4, "rows": 10, "requests": 3, "outs": 0}
    tally.add_client({**facts, "errors": {"lost": 1}})
    tally.add_client({**facts, "breaker": "out", "outs": 1, "errors": {"lost": 2, "timeout": 1}})
    tally.add_client({**facts, "url": "http://b"})

    servers = summary(tally, RunClock(), run="r", collection="c", bottleneck="b", exit_code=0)["servers"]

    assert [server["url"] for server in servers] == ["http://a", "http://b"]
    assert (servers[0]["state"], servers[0]["documents"], servers[0]["outs"]) == ("out", 20, 1)
    assert servers[0]["errors"] == {"lost": 3, "timeout": 1}
    assert servers[0]["latency"] == {"p50": None, "p95": None}
    assert (servers[1]["state"], servers[1]["documents"], servers[1]["window"]) == ("ok", 10, 4)


def test_latencies_of_several_processes_add_up() -> None:
    """Quantiles within the 5% of a bucket."""
    left, right = LatencyHistogram(), LatencyHistogram()
    for number in range(1, 101):
        (left if number % 2 else right).record(number / 100)

    both = LatencyHistogram.from_sparse(left.sparse())
    both.add(right)

    for share, expected in ((0.5, 0.5), (0.95, 0.95), (1.0, 1.0)):
        found = both.quantile(share)
        assert found is not None
        assert found == pytest.approx(expected, rel=0.05)
    assert LatencyHistogram().quantile(0.5) is None


def test_a_rate_is_of_the_last_seconds() -> None:
    """An average since the start would hide that a run slows down."""
    rate = WindowedRate(10.0)
    for second in range(100):
        rate.update(min(second, 50) * 1000.0, now=float(second))

    assert rate.per_second() == 0.0


def test_a_rate_is_never_negative() -> None:
    """A crash takes rows back that were not committed."""
    rate = WindowedRate(window_s=10)
    rate.update(100, now=0.0)
    rate.update(40, now=1.0)

    assert rate.per_second() == 0.0
