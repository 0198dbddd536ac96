"""The summary of a run."""

from __future__ import annotations

from engine.telemetry.summary import RunClock, summary
from engine.telemetry.tally import Tally


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
