"""The supervisor on its way from start to exit code: every document once, in one committed row, and marked."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from engine.errors import LockHeld
from engine.ledger.commits import Commits
from engine.ledger.runfolder import IN_PROGRESS, RunLock
from engine.ports import IdList
from tests.engine.supervision.world import N, Outcome, World


@pytest.mark.seconds
def test_a_run_embeds_everything_once_and_the_next_finds_nothing(world: World) -> None:
    """G1, G2, G7 on the quiet path, and a second start after it."""
    first = world.run()
    second = world.run()

    world.assert_exact()
    assert (first["exit"], first["read"], first["embedded"], first["resumed"]) == (0, N, N, 0)
    assert (second["exit"], second["read"], second["embedded"], second["resumed"]) == (0, 0, 0, N)
    assert first["shards"] >= 1
    assert set(first["cpu_us_per_document"]) == {"reader", "clients", "writer", "supervisor"}


@pytest.mark.seconds
def test_g5_no_shard_is_begun_before_the_last_one_is_durable(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash costs one open shard at most, however slow the device is."""
    monkeypatch.setenv("ENGINE_FAILPOINTS", "writer/writer.after_check=sleep:0.5")
    world.shard_bytes = 1 << 12
    world.n = 4 * N
    unfinished: list[int] = []
    over = threading.Event()

    def count() -> None:
        while not over.wait(0.005):
            unfinished.append(sum(path.name.endswith(IN_PROGRESS) for path in world.folders.shards.iterdir()))

    counting = threading.Thread(target=count)
    counting.start()
    try:
        result = world.run()
    finally:
        over.set()
        counting.join()

    world.assert_exact()
    assert result["shards"] > 1
    assert max(unfinished) == 1


def test_marks_of_another_run_stop_this_one(world: World) -> None:
    """Two engines on one collection are noticed by the marks."""
    world.marker.foreign = 3

    with pytest.raises(LockHeld, match="another run works on the same collection"):
        world.run()


@pytest.mark.seconds
def test_documents_deleted_meanwhile_are_counted_as_gone(world: World) -> None:
    """Their rows stay; the sum still agrees."""
    world.marker.gone = {3, 500}
    world.reader = {"deleted_after_first_pass": [3, 500]}

    result = world.run()

    assert (result["exit"], result["read"], result["embedded"], result["gone"]) == (0, N, N - 2, 2)


def test_a_second_run_on_the_same_folder_is_refused_at_once(world: World) -> None:
    """Exit 11; the first one is not disturbed."""
    lock = RunLock(world.folders.lock)

    with pytest.raises(LockHeld) as refused:
        world.run()

    assert refused.value.exit_code == 11
    lock.release()


@pytest.mark.seconds
def test_g5_the_reader_is_held_while_marking_is_far_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow MongoDB bounds the rows that are committed and not marked; the run completes all the same."""
    monkeypatch.setattr("engine.ledger.commits.MAX_UNMARKED_ROWS", 150)
    marks = world.marker.mark
    held = []
    monkeypatch.setattr("engine.ledger.commits.Commits._pause", _recording(held))

    def slow_mark(ids: IdList, *, ours_before: bool) -> Outcome:
        deadline = time.monotonic() + 100.0
        while not held and time.monotonic() < deadline:  # meanwhile more and more is committed
            time.sleep(0.01)
        return marks(ids, ours_before=ours_before)

    world.marker.mark = slow_mark  # type: ignore[method-assign]
    world.shard_bytes = 1 << 12

    assert world.run()["exit"] == 0

    world.assert_exact()
    assert held[0] is True
    assert held[-1] is False


def _recording(held: list[bool]) -> Any:
    real = Commits._pause

    def pause(settling: Commits, paused: bool) -> None:
        held.append(paused)
        real(settling, paused)

    return pause
