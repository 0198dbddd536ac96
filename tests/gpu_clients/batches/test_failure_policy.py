"""What becomes of a batch that fails, for everything that a server may answer."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from engine.memory.slots import HEADER_BYTES, Header
from gpu_clients.batches.batch import Batch
from gpu_clients.batches.counters import Counters
from gpu_clients.batches.failure_policy import OVERLOADED_ANSWERS, SUSPICIOUS_ATTEMPTS, FailurePolicy
from gpu_clients.batches.lane import Lane
from gpu_clients.errors import Failure, FailureKind, classify
from gpu_clients.http.polling import Poller
from gpu_clients.settings import ClientSettings

FEW = max(OVERLOADED_ANSWERS, SUSPICIOUS_ATTEMPTS)


class Recorder:
    """Takes the place of the batches in flight and of the bisections, and notes what it is told."""

    def __init__(self) -> None:
        self.sent: set[Batch] = set()
        self.waiting: list[Batch] = []
        self.returned: list[Batch] = []
        self.divided: list[Batch] = []
        self.taken_out: list[Failure] = []

    def retry_after(self, _pause_s: float, batch: Batch) -> None:
        """As `InFlight`."""
        self.waiting.append(batch)

    def give_back(self, batch: Batch) -> None:
        """As `InFlight`."""
        self.returned.append(batch)

    def bisect(self, batch: Batch, _failure: Failure) -> None:
        """As `Bisections`."""
        self.divided.append(batch)


@pytest.fixture
def poller() -> Iterator[Poller]:
    """A poller that is closed afterwards."""
    made = Poller()
    yield made
    made.close()


def batch() -> Batch:
    """A batch of one row."""
    view = memoryview(bytearray(HEADER_BYTES + 64))
    header = Header(generation=1, n_rows=1, sequence=3, ids_bytes=8, flags_bytes=1, columns_bytes=0, body_bytes=4)
    header.pack_into(view)
    return Batch(0, view, 1)


def test_after_a_few_failures_of_any_kind_a_batch_is_divided_or_its_server_out(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the server answers other requests well; walks every status, and what is no answer."""
    monkeypatch.setattr("gpu_clients.batches.failure_policy.OVERLOADED_ALONE_S", 0.0)
    kinds = (FailureKind.REFUSED, FailureKind.LOST, FailureKind.TIMEOUT, FailureKind.MALFORMED, FailureKind.OVERSIZED)
    kinds += (FailureKind.OTHER_DIMENSION,)
    none = [Failure(kind=kind, detail="none") for kind in kinds]
    for failure in [*(classify(status, b"") for status in range(300, 600)), *none]:
        recorder = Recorder()
        lane = Lane(ClientSettings(urls=("http://127.0.0.1:1",), dim=4), 0, poller, random.Random(1))
        policy = FailurePolicy(
            lane,
            recorder,  # type: ignore[arg-type]
            Counters(),
            random.Random(1),
            bisect=recorder.bisect,
            recheck_rows=lambda *_: None,
            check_server=lambda: None,
            take_out=recorder.taken_out.append,
            several=lambda _: None,
        )
        bad = batch()
        for _ in range(FEW):
            lane.breaker.succeeded()
            lane.passed()
            policy.failed(bad, failure)
            if recorder.divided:
                break
        assert recorder.divided == [bad], failure
        assert not recorder.taken_out, failure


def test_returns_are_counted_only_for_a_batch_that_failed_and_stay_with_its_slot() -> None:
    innocent, bad = batch(), batch()
    bad.attempts = 1
    for one in (innocent, bad):
        one.note_return()

    assert innocent.history.returns == 0
    assert bad.history.returns == 1
    again = Batch(0, bad.view, 1)
    again.n_overloaded = 1
    again.note_return()
    assert again.history.returns == 2
    for _ in range(100):
        again.note_return()
    assert again.history.returns == 15
