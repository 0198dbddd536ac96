"""The lifecycle of a generation over real rings and channels; only what the children would tell is made up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.errors import Exit
from engine.memory.channels import Channel
from engine.memory.shared_rings import RingSizes
from engine.memory.slots import VectorLayout
from engine.supervision.generation import Child, Generation
from engine.supervision.lifecycle import MAX_PASSES, Lifecycle, Phase, Stop

RINGS = RingSizes(
    n_documents=4,
    document_bytes=1024,
    n_vectors=4,
    layout=VectorLayout(dim=4, max_rows=2, meta_capacity_bytes=64),
)


class Stage:
    """A generation without processes: the test tells its children's facts and hears what they are commanded."""

    def __init__(self) -> None:
        self.generation = Generation(1, 1, RINGS, [], [])
        self._ends: dict[str, Channel] = {}
        for role in ("reader", "client-0", "client-1", "writer"):
            ours, self._ends[role] = Channel.pair()
            child = Child(role=role, process=None, channel=ours, ended=0)  # type: ignore[arg-type]
            self.generation.children[role] = child
        self.generation.role("reader").ended = None

    def tell(self, role: str, event: str, **facts: Any) -> None:
        """A child tells something."""
        self.generation.role(role).facts[event] = facts

    def commands(self, role: str) -> list[dict[str, Any]]:
        """What a child was commanded since the last call."""
        return self._ends[role].poll()[0]

    def close(self) -> None:
        """Give everything back."""
        self.generation.role("reader").ended = 0
        self.generation.kill()
        for end in self._ends.values():
            end.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Children of which none has told anything."""
    stage = Stage()
    yield stage
    stage.close()


def make_pass(lifecycle: Lifecycle, stage: Stage, *, found: int, documents: int) -> None:
    """One pass to its end, with everything delivered, sealed and marked."""
    stage.tell("reader", "pass_done", documents=documents, found=found)
    stage.tell("client-0", "client", rows=documents)
    lifecycle.advance(stage.generation, None, marks_are_over=False)
    stage.tell("writer", "drained")
    lifecycle.advance(stage.generation, None, marks_are_over=True)


def test_a_pass_is_delivered_sealed_and_settled_one_after_the_other(stage: Stage) -> None:
    """No move before its facts are there."""
    lifecycle = Lifecycle(is_marking=True)
    phases = []

    def advance(*, marks_are_over: bool = False) -> None:
        lifecycle.advance(stage.generation, None, marks_are_over=marks_are_over)
        phases.append(lifecycle.phase)

    advance(marks_are_over=True)
    stage.tell("reader", "pass_done", documents=10, found=10)
    stage.tell("client-0", "client", rows=6)
    advance(marks_are_over=True)
    stage.tell("client-1", "client", rows=3, quarantined=1)
    advance(marks_are_over=True)
    stage.tell("writer", "drained", rows=9)
    advance()
    advance(marks_are_over=True)

    assert phases == [Phase.RUNNING, Phase.DELIVERING, Phase.SEALING, Phase.SETTLING, Phase.RUNNING]
    assert stage.commands("client-0") == stage.commands("client-1") == [{"do": "tail"}]
    assert stage.commands("writer") == [{"do": "drain", "rows": 9}]
    assert stage.commands("reader") == [{"do": "rescan"}]


def test_a_pass_that_finds_nothing_is_the_last_one(stage: Stage) -> None:
    """It has proved the queue empty."""
    lifecycle = Lifecycle(is_marking=True)

    make_pass(lifecycle, stage, found=10, documents=10)
    assert (lifecycle.phase, lifecycle.pass_number) == (Phase.RUNNING, 2)
    make_pass(lifecycle, stage, found=0, documents=10)

    assert lifecycle.phase is Phase.FINISHED
    assert not lifecycle.work_left


def test_a_collection_that_grows_all_the_time_comes_to_an_end(stage: Stage) -> None:
    """What comes after the last pass is left to the next run."""
    lifecycle = Lifecycle(is_marking=True)

    for number in range(1, MAX_PASSES + 1):
        assert (lifecycle.phase, lifecycle.pass_number) == (Phase.RUNNING, number)
        make_pass(lifecycle, stage, found=10, documents=10 * number)

    assert lifecycle.phase is Phase.FINISHED


def test_without_marks_there_is_one_pass(stage: Stage) -> None:
    """Another one would read the same documents again."""
    lifecycle = Lifecycle(is_marking=False)

    make_pass(lifecycle, stage, found=10, documents=10)

    assert lifecycle.phase is Phase.FINISHED


def test_a_reader_that_came_to_its_limit_leaves_work_and_makes_no_other_pass(stage: Stage) -> None:
    """The writer is told once, and of no more rows than the limit."""
    lifecycle = Lifecycle(is_marking=True)
    lifecycle.begin(limit=10)
    stage.tell("reader", "reader", estimate=1000)
    lifecycle.advance(stage.generation, None, marks_are_over=True)
    lifecycle.advance(stage.generation, None, marks_are_over=True)

    stage.tell("reader", "stopped", documents=10, work_left=True)
    stage.tell("client-0", "client", rows=10)
    stage.tell("writer", "drained", rows=10)
    lifecycle.advance(stage.generation, None, marks_are_over=True)

    assert (lifecycle.phase, lifecycle.work_left) == (Phase.FINISHED, True)
    assert stage.commands("writer") == [{"do": "expect", "rows": 10}, {"do": "drain", "rows": 10}]


@pytest.mark.parametrize("has_reader_ended", [False, True])
def test_a_stop_waits_for_what_is_in_flight_and_makes_no_other_pass(stage: Stage, has_reader_ended: bool) -> None:
    """Rows that no client had begun stay in the ring; a reader that is gone is not waited for."""
    lifecycle = Lifecycle(is_marking=True)
    stop = Stop(Exit.SIGINT, "stopped")

    lifecycle.stop(stage.generation)
    for role in ("reader", "client-0", "client-1"):
        assert stage.commands(role) == [{"do": "stop"}]
    if has_reader_ended:
        stage.generation.role("reader").ended = 6
    else:
        stage.tell("reader", "stopped", documents=10, work_left=True)
    stage.tell("client-0", "stopped", rows=4)
    stage.tell("client-0", "client", rows=4)
    lifecycle.advance(stage.generation, stop, marks_are_over=True)
    waiting = lifecycle.phase
    stage.tell("client-1", "stopped", rows=0)
    stage.tell("writer", "drained", rows=4)
    lifecycle.advance(stage.generation, stop, marks_are_over=True)

    assert (waiting, lifecycle.phase) == (Phase.STOPPING, Phase.FINISHED)
    assert stage.commands("writer") == [{"do": "stop"}, {"do": "drain", "rows": 4}]
    assert not stage.commands("reader")


def test_a_stop_while_a_shard_is_sealed_changes_nothing_but_the_next_pass(stage: Stage) -> None:
    """All that was read is there already."""
    lifecycle = Lifecycle(is_marking=True)
    stage.tell("reader", "pass_done", documents=0, found=10)
    lifecycle.advance(stage.generation, None, marks_are_over=True)
    assert (lifecycle.phase, lifecycle.is_all_awaited, lifecycle.has_rows_to_come) == (Phase.SEALING, True, False)

    lifecycle.stop(stage.generation)
    sealing = lifecycle.phase
    stage.tell("writer", "drained", rows=0)
    lifecycle.advance(stage.generation, Stop(Exit.SIGINT, "stopped"), marks_are_over=True)

    assert (sealing, lifecycle.phase) == (Phase.SEALING, Phase.FINISHED)
    assert not stage.commands("reader")


@pytest.mark.parametrize(("code", "phase"), [(Exit.MONGODB, Phase.FINISHED), (Exit.SIGINT, Phase.SETTLING)])
def test_marks_are_waited_for_unless_mongodb_is_away(stage: Stage, code: Exit, phase: Phase) -> None:
    """They would wait for it as long as it took to find out; the next start sets them."""
    lifecycle = Lifecycle(is_marking=True)
    stage.tell("reader", "pass_done", documents=0, found=0)
    stage.tell("writer", "drained", rows=0)

    lifecycle.advance(stage.generation, Stop(code, "stopped"), marks_are_over=False)

    assert lifecycle.phase is phase


def test_a_lifecycle_begins_anew_with_each_generation(stage: Stage) -> None:
    """A generation that died in its second pass is followed by one in its first, of what the run's limit leaves."""
    lifecycle = Lifecycle(is_marking=True)
    make_pass(lifecycle, stage, found=10, documents=10)
    assert (lifecycle.phase, lifecycle.pass_number) == (Phase.RUNNING, 2)

    lifecycle.begin(limit=7)

    assert (lifecycle.phase, lifecycle.pass_number) == (Phase.RUNNING, 1)
    stage.commands("writer")
    stage.tell("reader", "reader", estimate=1000)
    lifecycle.advance(stage.generation, None, marks_are_over=False)
    assert stage.commands("writer") == [{"do": "expect", "rows": 7}]
