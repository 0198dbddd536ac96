"""The supervisor when a child dies, a batch is lost or a device fails: a new generation, nothing lost or doubled."""

from __future__ import annotations

import pytest

from engine.errors import EngineError, Exit, SinkError, WorkerDied
from engine.ledger import durable
from engine.supervision.run_plan import StagePlan
from tests.engine.supervision.world import LEDGER, N, World


@pytest.mark.crash
@pytest.mark.parametrize("role", ["reader", "client"])
def test_a_child_that_dies_starts_a_new_generation_and_nothing_is_lost_or_doubled(world: World, role: str) -> None:
    """The recovery inside a run is the recovery of a start."""
    if role == "reader":
        world.reader = {"die_at": 40}
    else:
        world.client = {"die_at_rows": 300}

    result = world.run()

    world.assert_exact()
    assert (result["exit"], result["restarts"], result["read"], result["embedded"]) == (0, 1, N, N)


@pytest.mark.crash
@pytest.mark.parametrize(
    "point",
    [
        "writer.before_row_group#3",
        "writer.before_close",
        "writer.after_close",
        "writer.after_check",
        "writer.after_fsync",
        "writer.after_link",
        "writer.after_folder_fsync",
    ],
)
def test_a_writer_killed_at_each_step_of_the_commit_order(
    world: World, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G2, G3, G6: crash table of docs/protocols/commit.md, writer's half, within one run."""
    # the epoch is in the file's name: only the first generation's writer dies
    monkeypatch.setenv("ENGINE_FAILPOINTS", f"writer/{point}=kill")
    world.client = {"pause_s": 0.001}
    original = world.stages

    def disarm_later(epoch: int, remaining: int | None) -> list[StagePlan]:
        if epoch > 1:
            monkeypatch.setenv("ENGINE_FAILPOINTS", "")
        return original(epoch, remaining)

    world.stages = disarm_later  # type: ignore[method-assign]

    result = world.run()

    world.assert_exact()
    assert (result["exit"], result["restarts"], result["embedded"]) == (0, 1, N)


@pytest.mark.seconds
def test_a_child_that_always_dies_ends_the_run_after_some_restarts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug that repeats does not restart for ever, and what is committed stays."""
    monkeypatch.setenv("ENGINE_FAILPOINTS", "writer/writer.before_row_group=kill")

    with pytest.raises(WorkerDied, match="restarts within an hour are too many"):
        world.run()

    monkeypatch.setenv("ENGINE_FAILPOINTS", "")
    assert world.run()["exit"] == 0
    world.assert_exact()


@pytest.mark.seconds
def test_a_batch_that_a_bug_loses_ends_the_generation_and_not_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing moves although rows are missing: recovery reads them again, instead of waiting for ever."""
    monkeypatch.setattr("engine.supervision.watchdog.STANDSTILL_S", 3.0)
    world.client = {"lose_one": True}

    result = world.run()

    assert (result["exit"], result["restarts"]) == (0, 1)
    world.assert_exact()


@pytest.mark.seconds
def test_a_full_disk_is_exit_5_and_the_next_run_finishes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC while a row group is written."""
    monkeypatch.setenv("ENGINE_FAILPOINTS", "writer/durable.write#4=ENOSPC")

    with pytest.raises(EngineError, match="No space left") as error:
        world.run()

    assert error.value.exit_code == Exit.OUTPUT_DEVICE
    monkeypatch.setenv("ENGINE_FAILPOINTS", "")
    assert world.run()["exit"] == 0
    world.assert_exact()


@pytest.mark.seconds
def test_a_device_that_fails_in_recovery_is_exit_5(world: World) -> None:
    """A leftover that cannot be deleted."""
    (world.folders.shards / f"done-{LEDGER[:6]}-e0001-000001.parquet.inprogress").write_text("left")
    durable.arm("test", "durable.unlink=EIO")

    with pytest.raises(SinkError, match="recovery cannot work on"):
        world.run()

    durable.arm("test", "")
    assert world.run()["exit"] == 0
    world.assert_exact()
