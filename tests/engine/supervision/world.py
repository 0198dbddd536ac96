"""A run with real processes, rings, writer, ledger and files; only MongoDB and the servers are formulas."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from engine.ledger.log import Ledger, RunState
from engine.ledger.quarantine import Quarantine
from engine.ledger.runfolder import RunFolders, RunLock
from engine.memory.ids import IdType
from engine.memory.shared_rings import RingSizes
from engine.memory.slots import VectorLayout
from engine.ports import IdList
from engine.records import Fingerprint
from engine.supervision.run_plan import RunPlan, StagePlan
from engine.supervision.signals import SignalInbox
from engine.supervision.supervisor import Supervisor
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
