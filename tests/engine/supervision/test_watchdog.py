"""When servers count as away: out together, and coming and going without a document settled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.supervision.generation import Generation
from engine.supervision.watchdog import Watchdog


class Clients:
    """A generation of which only the clients' facts are looked at, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
        self.now_s = 100.0
        self.facts: list[dict[str, Any]] = [{"state": "ok", "rows": 0, "quarantined": 0} for _ in range(n)]
        self.watchdog = Watchdog()
        monkeypatch.setattr("engine.supervision.watchdog.time.monotonic", lambda: self.now_s)

    def outage_s(self, *states: str, rows: int = 0, after_s: float = 1.0) -> float:
        """What the watchdog says when the clients tell these states, some time later."""
        self.now_s += after_s
        for facts, state in zip(self.facts, states, strict=True):
            facts["state"] = state
        self.facts[0]["rows"] = rows
        clients = [SimpleNamespace(facts={"client": facts}) for facts in self.facts]
        return self.watchdog.outage_s(cast("Generation", SimpleNamespace(clients=lambda: clients)))


def test_an_outage_lasts_while_no_server_is_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients(monkeypatch, 2)

    assert clients.outage_s("ok", "out") == 0.0
    assert clients.outage_s("out", "probing") == 0.0
    assert clients.outage_s("probing", "out", after_s=9.0) == 9.0
    assert clients.outage_s("ok", "out") == 0.0


def test_a_server_that_comes_and_goes_without_a_document_settled_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients(monkeypatch, 1)
    for _ in range(5):
        clients.outage_s("out")
        assert clients.outage_s("ok") == 0.0

    assert clients.outage_s("out") == 10.0


@pytest.mark.parametrize("sign", [{"rows": 32}, {"state": "idle"}])
def test_an_outage_is_over_when_a_document_was_settled_or_there_was_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, sign: dict[str, Any]
) -> None:
    clients = Clients(monkeypatch, 1)
    clients.outage_s("out")
    clients.outage_s(sign.get("state", "ok"), rows=sign.get("rows", 0), after_s=50.0)

    assert clients.outage_s("out", rows=sign.get("rows", 0)) == 0.0
    assert clients.outage_s("out", rows=sign.get("rows", 0), after_s=3.0) == 3.0
