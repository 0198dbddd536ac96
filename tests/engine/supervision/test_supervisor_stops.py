"""The supervisor told to stop: by a signal, a limit, an outage of servers or of MongoDB."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from engine.errors import Exit, SourceError
from engine.ledger.log import RunState
from engine.ports import IdList
from engine.supervision.signals import Terminated
from engine.telemetry.summary import RunClock
from tests.engine.supervision.world import BATCH, N, Outcome, World


@pytest.mark.seconds
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_commits_marks_and_the_next_run_finishes(world: World, number: int, code: int) -> None:
    """What was in flight is committed and marked; nothing in the ring is lost."""
    world.client = {"pause_s": 2.0}  # it has not come far when the signal is obeyed
    world.signals = [(number, lambda figures: figures["embedded_now"] > 0)]

    result = world.run()

    assert result["exit"] == code
    assert 0 < result["embedded"] < N
    assert result["read"] == result["embedded"]
    assert len(json.loads(world.marker.path.read_text())) == result["embedded"]
    world.client = {}
    assert world.run()["resumed"] == result["embedded"]
    world.assert_exact()


@pytest.mark.seconds
def test_a_second_signal_gives_up_the_open_shard_and_stays_exact(world: World) -> None:
    """Faster, still consistent."""
    world.client = {"deaf_s": 600.0}
    world.shard_bytes = 1 << 30
    world.signals = [
        (signal.SIGINT, lambda figures: figures["reader"].get("documents", 0) > 0),
        (signal.SIGINT, lambda figures: figures["phase"] == "stopping"),
    ]

    result = world.run()

    assert result["exit"] == 130
    assert not list(world.folders.shards.glob("*.parquet"))
    world.client = {}
    assert world.run()["exit"] == 0
    world.assert_exact()


@pytest.mark.seconds
@pytest.mark.parametrize("n", [N, 8 * BATCH])
def test_max_time_stops_cleanly_with_exit_8(world: World, n: int) -> None:
    """The rest is done by the next run; also when all is read and slow servers have it before them."""
    world.n = n
    world.client = {"pause_s": 60.0}
    world.max_time_s = 1.0

    result = world.run()

    assert result["exit"] == Exit.LIMIT
    assert world.figures[-1]["last_error"] == "stopped after --max-time 1 seconds; work is left"
    world.client, world.max_time_s = {}, None
    assert world.run()["exit"] == 0
    world.assert_exact()


@pytest.mark.seconds
def test_max_time_in_a_second_pass_says_that_the_queue_was_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was there is embedded and marked; only that nothing has come meanwhile is not known."""
    world.reader = {"linger_in_pass": 2}
    world.max_time_s = 100.0

    def seconds(_: RunClock) -> float:
        return 100.0 if world.figures and world.figures[-1]["pass"] == 2 else 1.0

    monkeypatch.setattr(RunClock, "seconds", property(seconds))

    result = world.run()

    world.assert_exact()
    assert (result["exit"], result["read"], result["embedded"]) == (Exit.LIMIT, N, N)
    assert world.figures[-1]["last_error"] == (
        "stopped after --max-time 100 seconds; the queue was read to its end, but no second look has found it empty: "
        "new documents may have come"
    )


@pytest.mark.seconds
def test_no_healthy_server_beyond_the_limit_is_exit_7_and_nothing_is_lost(world: World) -> None:
    """The clients say that their servers are out."""
    world.client = {"state": "out"}
    world.max_outage_s = 0.5

    assert world.run()["exit"] == Exit.SERVERS
    world.client = {}
    assert world.run()["exit"] == 0
    world.assert_exact()


@pytest.mark.seconds
def test_marks_that_cannot_be_set_end_the_run_with_exit_6_and_are_set_by_the_next(world: World) -> None:
    """G4: committed, unmarked; the next start marks before it reads."""
    world.marker.error = SourceError("MongoDB does not answer")

    result = world.run()

    assert result["exit"] == Exit.MONGODB
    assert json.loads(world.marker.path.read_text()) == []
    world.marker.error = None
    assert world.run()["exit"] == 0
    world.assert_exact()


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("interruption", "code"), [(KeyboardInterrupt(), Exit.SIGINT), (Terminated(signal.SIGTERM), Exit.SIGTERM)]
)
def test_a_signal_while_recovery_waits_for_marks_is_a_clean_stop(
    world: World, interruption: BaseException, code: Exit
) -> None:
    """No child has started yet; the next start sets the marks."""
    world.marker.error = SourceError("MongoDB does not answer")
    world.run()

    world.marker.error = interruption
    result = world.run()

    assert result["exit"] == code
    assert RunState.of(world.folders.ledger).stop is not None
    world.marker.error = None
    assert world.run()["exit"] == 0
    world.assert_exact()


@pytest.mark.seconds
def test_a_signal_while_a_crashed_generation_is_recovered_from_is_a_clean_stop(world: World) -> None:
    """No other generation starts; the next start sets the marks."""
    usual = world.marker.mark
    enough = world.folder / "enough"

    def mark(ids: IdList, *, ours_before: bool) -> Outcome:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        while len(RunState.of(world.folders.ledger).commits) < 4:  # shards wait behind this one
            time.sleep(0.01)
        enough.touch()  # the clients end, and with them the generation
        time.sleep(1.0)
        return usual(ids, ours_before=ours_before)

    world.marker.mark = mark  # type: ignore[method-assign]
    world.shard_bytes = 1
    world.client = {"die_beside": str(enough)}

    result = world.run()

    assert (result["exit"], result["restarts"]) == (Exit.SIGINT, 1)
    assert result["read"] == result["embedded"] > 0
    world.marker.mark = usual  # type: ignore[method-assign]
    world.client = {}
    assert world.run()["exit"] == 0
    world.assert_exact()


@pytest.mark.seconds
def test_a_signal_and_marks_that_fail_do_not_wait_for_each_other(world: World) -> None:
    """Ctrl-C while MongoDB goes away: shards that nobody will mark now are left to the next start."""

    def fail(ids: IdList, *, ours_before: bool) -> Outcome:
        os.kill(os.getpid(), signal.SIGINT)
        raise SourceError("MongoDB does not answer")

    usual = world.marker.mark
    world.marker.mark = fail  # type: ignore[method-assign]
    world.shard_bytes = 1  # a shard for every row group
    world.client = {"pause_s": 0.01}

    result = world.run()

    assert result["exit"] in (Exit.SIGINT, Exit.MONGODB)
    world.marker.mark = usual  # type: ignore[method-assign]
    world.client = {}
    assert world.run()["exit"] == 0
    world.assert_exact()
