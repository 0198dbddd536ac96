"""What uploads come to, as the writer tells it: also of one that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
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

    def upload(*_: Any, tell: Callable[[str, str], None], **__: Any) -> None:
        tell("s3://bucket/a.parquet", "503")
        goes_on.wait(60)

    monkeypatch.setattr(module, "upload", upload)
    cold: Any = SimpleNamespace(open=lambda: None, by_e_tag=True, budget_s=1.0, keeps_copies=True)
    facts: Any = SimpleNamespace(file="a.parquet", sha256="", bytes=10)
    assert set(ShardFacts.__slots__) >= {"file", "sha256", "bytes"}

    shipping = Shipping(tmp_path, cold)
    shipping.submit(facts, [])
    wait_until(lambda: shipping.figures()["upload_s"] > 0.01, what="an upload under way")
    wait_until(lambda: bool(shipping.retries()), what="word of the retry")
    under_way = shipping.figures()
    assert (under_way["uploads"], under_way["upload_bytes"], under_way["upload_retries"]) == (0, 0, 1)

    goes_on.set()
    wait_until(lambda: bool(shipping.collect()), what="the end of the upload")
    over = shipping.figures()
    assert (over["uploads"], over["upload_bytes"], over["upload_retries"]) == (1, 10, 1)
