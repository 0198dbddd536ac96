"""The supervisor with real processes, rings, writer, ledger and files; only MongoDB and the servers are formulas."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from engine.errors import EngineError, Exit, LockHeld, SinkError, SourceError, WorkerDied
from engine.ledger import durable
from engine.ledger.commits import Commits
from engine.ledger.log import Ledger, RunState
from engine.ledger.quarantine import Quarantine
from engine.ledger.runfolder import IN_PROGRESS, RunFolders, RunLock
from engine.memory.ids import IdType
from engine.memory.shared_rings import RingSizes
from engine.memory.slots import VectorLayout
from engine.ports import IdList
from engine.records import Fingerprint
from engine.supervision.run_plan import RunPlan, StagePlan
from engine.supervision.signals import SignalInbox, Terminated
from engine.supervision.supervisor import Supervisor
from engine.telemetry.summary import RunClock
from writers.settings import WriterSettings
from writers.shards.schema import ShardSchema
from writers.shards.store import ParquetShards

DIM, BATCH, N = 8, 10, 1000
LEDGER = "0123456789ab"
SCHEMA = ShardSchema(id_type=IdType.INT64, columns=(), dim=DIM, vector_type="float32")
FINGERPRINT = Fingerprint(
    model_id="m", model_sha=None, dtype=None, pooling=None, prompt=None, dim=DIM, normalize=True, server_version=None
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a marking came to."""

    matched: int
    already: int
    gone: int
    foreign: int


class MarkedFile:
    """Marks in a file instead of MongoDB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gone: set[int] = set()
        self.foreign = 0
        self.error: BaseException | None = None
        self.marks: list[int] = []
        if not path.exists():
            path.write_text("[]")

    def mark(self, ids: IdList, *, ours_before: bool) -> Outcome:
        """Mark what is not marked."""
        if self.error is not None:
            raise self.error
        known = set(json.loads(self.path.read_text()))
        new = [number for number in ids if number not in known and number not in self.gone]
        self.marks += new  # type: ignore[arg-type]
        self.path.write_text(json.dumps(sorted(known | set(new))))  # type: ignore[type-var]
        already = sum(number in known for number in ids)
        return Outcome(len(new), already, len(ids) - len(new) - already, 0 if ours_before else self.foreign)


@dataclass
class World:
    """Everything around one run."""

    folder: Path
    reader: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    max_time_s: float | None = None
    max_outage_s: float = 60.0
    shard_bytes: int = 1 << 16
    n: int = N
    signals: list[tuple[int, Callable[[dict[str, Any]], bool]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folders = RunFolders.of(self.folder / "hot", self.folder / "cold", "db", "c", "done")
        self.folders.make()
        self.marker = MarkedFile(self.folder / "marked.json")
        self.figures: list[dict[str, Any]] = []

    def update(self, figures: dict[str, Any]) -> None:
        """Observe."""
        self.figures.append(figures)
        if self.signals and self.signals[0][1](figures):
            os.kill(os.getpid(), self.signals.pop(0)[0])

    def stages(self, epoch: int, remaining: int | None) -> list[StagePlan]:
        """Fake reader, two fake clients, the real writer."""
        writer = WriterSettings(
            folder=str(self.folders.shards),
            prefix=f"done-{LEDGER[:6]}-e{epoch:04d}",
            shard_bytes=self.shard_bytes,
            shard_seconds=60,
            id_type="int64",
            columns=(),
            dim=DIM,
            vector_type="float32",
            truncated=False,
            fingerprint=FINGERPRINT.as_dict(),
            ledger=LEDGER,
            version="0",
            row_group_bytes=100 * DIM * 4,
        )
        reader = {"n": self.n, "batch": BATCH, "marked": str(self.marker.path), **self.reader}
        clients = [
            StagePlan(role=f"client-{index}", stage="tests.engine.fakes.client", settings=self.client)
            for index in (0, 1)
        ]
        return [
            StagePlan(role="reader", stage="tests.engine.fakes.reader", settings=reader),
            *clients,
            StagePlan(role="writer", stage="writers.stage", settings=writer.as_dict()),
        ]

    def run(self) -> dict[str, Any]:
        """One run, start to end."""
        lock = RunLock(self.folders.lock)
        ledger = Ledger(self.folders.ledger, RunState())
        quarantine = Quarantine(self.folders.quarantine)
        try:
            supervisor = Supervisor(
                plan=RunPlan(
                    name="db.c.done",
                    collection="db.c",
                    prefix=f"done-{LEDGER[:6]}-",
                    rings=RingSizes(
                        n_documents=8,
                        document_bytes=1024,
                        n_vectors=32,
                        layout=VectorLayout(dim=DIM, max_rows=BATCH, meta_capacity_bytes=256),
                    ),
                    stages=self.stages,
                    limit=self.limit,
                    max_time_s=self.max_time_s,
                    max_outage_s=self.max_outage_s,
                    max_restarts=3,
                ),
                folders=self.folders,
                lock_fd=lock.fd,
                ledger=ledger,
                shards=ParquetShards(self.folders.shards, SCHEMA, FINGERPRINT, LEDGER),
                marker=self.marker,
                quarantine=quarantine,
                observers=[self],
                signals=SignalInbox(),
            )
            return supervisor.run()
        finally:
            quarantine.close()
            ledger.close()
            lock.release()

    def assert_exact(self, n: int | None = None) -> None:
        """Every number is in exactly one committed row, marked, and nothing else is left."""
        n = self.n if n is None else n
        state = Ledger(self.folders.ledger, RunState()).state
        files = sorted(path.name for path in self.folders.shards.iterdir())
        assert files == sorted(commit["file"] for commit in state.commits.values())
        ids = [number for name in files for number in pq.read_table(self.folders.shards / name)["_id"].to_pylist()]
        assert sorted(ids) == list(range(n))
        assert json.loads(self.marker.path.read_text()) == list(range(n))
        assert not state.unmarked()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A fresh world."""
    return World(tmp_path)


def test_a_run_embeds_everything_once_and_the_next_finds_nothing(world: World) -> None:
    """G1, G2, G7 on the quiet path, and a second start after it."""
    first = world.run()
    second = world.run()

    world.assert_exact()
    assert (first["exit"], first["read"], first["embedded"], first["resumed"]) == (0, N, N, 0)
    assert (second["exit"], second["read"], second["embedded"], second["resumed"]) == (0, 0, 0, N)
    assert first["shards"] >= 1
    assert set(first["cpu_us_per_document"]) == {"reader", "clients", "writer", "supervisor"}


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


def test_a_batch_that_a_bug_loses_ends_the_generation_and_not_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing moves although rows are missing: recovery reads them again, instead of waiting for ever."""
    monkeypatch.setattr("engine.supervision.watchdog.STANDSTILL_S", 3.0)
    world.client = {"lose_one": True}

    result = world.run()

    assert (result["exit"], result["restarts"]) == (0, 1)
    world.assert_exact()


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


def test_no_healthy_server_beyond_the_limit_is_exit_7_and_nothing_is_lost(world: World) -> None:
    """The clients say that their servers are out."""
    world.client = {"state": "out"}
    world.max_outage_s = 0.5

    assert world.run()["exit"] == Exit.SERVERS
    world.client = {}
    assert world.run()["exit"] == 0
    world.assert_exact()


def test_marks_that_cannot_be_set_end_the_run_with_exit_6_and_are_set_by_the_next(world: World) -> None:
    """G4: committed, unmarked; the next start marks before it reads."""
    world.marker.error = SourceError("MongoDB does not answer")

    result = world.run()

    assert result["exit"] == Exit.MONGODB
    assert json.loads(world.marker.path.read_text()) == []
    world.marker.error = None
    assert world.run()["exit"] == 0
    world.assert_exact()


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


def test_marks_of_another_run_stop_this_one(world: World) -> None:
    """Two engines on one collection are noticed by the marks."""
    world.marker.foreign = 3

    with pytest.raises(LockHeld, match="another run works on the same collection"):
        world.run()


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


def test_a_full_disk_is_exit_5_and_the_next_run_finishes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC while a row group is written."""
    monkeypatch.setenv("ENGINE_FAILPOINTS", "writer/durable.write#4=ENOSPC")

    with pytest.raises(EngineError, match="No space left") as error:
        world.run()

    assert error.value.exit_code == Exit.OUTPUT_DEVICE
    monkeypatch.setenv("ENGINE_FAILPOINTS", "")
    assert world.run()["exit"] == 0
    world.assert_exact()


def test_a_device_that_fails_in_recovery_is_exit_5(world: World) -> None:
    """A leftover that cannot be deleted."""
    (world.folders.shards / f"done-{LEDGER[:6]}-e0001-000001.parquet.inprogress").write_text("left")
    durable.arm("test", "durable.unlink=EIO")

    with pytest.raises(SinkError, match="recovery cannot work on"):
        world.run()

    durable.arm("test", "")
    assert world.run()["exit"] == 0
    world.assert_exact()


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
