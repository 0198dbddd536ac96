"""What uploads come to, as the writer tells it: also of one that hangs."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.records import ShardFacts
from tests.crash.job import wait_until
from writers.cold import shipping as module
from writers.cold.shipping import Shipping


def test_an_upload_that_hangs_is_seen_while_it_does_and_counted_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that stands still can be had no sooner: the upload itself waits for the test."""
    goes_on = threading.Event()
    monkeypatch.setattr(module, "upload", lambda *_, **__: goes_on.wait(60))
    cold: Any = SimpleNamespace(open=lambda: None, by_e_tag=True, budget_s=1.0)
    facts: Any = SimpleNamespace(file="a.parquet", sha256="", bytes=10)
    assert set(ShardFacts.__slots__) >= {"file", "sha256", "bytes"}

    shipping = Shipping(tmp_path, cold)
    shipping.submit(facts, [])
    wait_until(lambda: shipping.figures()["upload_s"] > 0.01, what="an upload under way")
    assert shipping.figures()["uploads"] == 0

    goes_on.set()
    wait_until(lambda: bool(shipping.collect()), what="the end of the upload")
    assert shipping.figures()["uploads"] == 1
