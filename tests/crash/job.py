"""One real job for the crash tests: a collection on a real mongod, stand-in servers, the real command line."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow.parquet as pq
from bson import ObjectId, json_util
from bson.json_util import CANONICAL_JSON_OPTIONS
from pymongo.database import Database

from bench.standin import FleetError, StandinFleet
from bench.standin.backends.vectors import text_rows
from engine.ledger.log import RunState
from engine.ledger.quarantine import id_text, read_quarantine
from engine.ledger.runfolder import RunFolders
from engine.telemetry.status import read_status
from readers.mongo.connection import open_client, open_collection
from readers.mongo.index import create_indexes
from tests.parts import prewarmed
from tests.parts.processes import children_of

DONE = "embedded"
MODEL = "sim-model"
DIM = 24
SECRET = "s3cr3t-marker"
TIMEOUT_S = 150.0  # only a failure waits that long


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON object on stdout."""
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass(kw_only=True)
class Job:
    """A collection, servers, folders, and the command line over them."""

    folder: Path
    uri: str
    database: Database[dict[str, Any]]
    urls: tuple[str, ...]
    collection: str = "tweets"
    options: tuple[str, ...] = ("--shard-bytes", "64KiB", "--batch-size", "8")
    environment: dict[str, str] = field(default_factory=dict)
    hot: Path | None = None
    cold: Path | None = None
    module: str = "cli"

    @property
    def folders(self) -> RunFolders:
        """The folders of the run."""
        hot, cold = self.hot or self.folder / "hot", self.cold or self.folder / "cold"
        return RunFolders.of(hot, cold, self.database.name, self.collection, DONE)

    def insert(self, documents: list[dict[str, Any]]) -> None:
        """Fill the collection and create its indexes, as `engine index` does."""
        self.database[self.collection].insert_many(documents)
        with open_client(self.uri) as client:
            create_indexes(open_collection(client, self.database.name, self.collection), DONE)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in a session of its own."""
        folders = self.folders
        return prewarmed.Popen(
            [sys.executable, "-m", self.module, *arguments],
            env={
                **os.environ,
                "ENGINE_MONGO_URI": self.uri,
                "ENGINE_DATABASE": self.database.name,
                "ENGINE_COLLECTION": self.collection,
                "ENGINE_DONE_FIELD": DONE,
                "ENGINE_TEI_URLS": ",".join(self.urls),
                "ENGINE_HOT_DIR": str(folders.hot.parent),
                "ENGINE_COLD_DIR": str(folders.cold.parent),
                **self.environment,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(self, *arguments: str, **environment: str) -> Ended:
        """Run a command to its end."""
        return finish(self.start(*arguments, **environment))

    def run(self, *arguments: str, **environment: str) -> Ended:
        """`engine run --json` to its end."""
        return self.call("run", "--json", *self.options, *arguments, **environment)

    def start_run(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`engine run --json`, started."""
        return self.start("run", "--json", *self.options, *arguments, **environment)

    def state(self) -> RunState:
        """What the ledger amounts to."""
        return RunState.of(self.folders.ledger) if self.folders.ledger.exists() else RunState()

    def rows(self) -> dict[Any, npt.NDArray[np.float32]]:
        """Every committed row, by id; a doubled id fails here (G2)."""
        state = self.state()
        found: dict[Any, npt.NDArray[np.float32]] = {}
        for commit in state.commits.values():
            table = pq.read_table(self.shard(commit["file"]), page_checksum_verification=True)
            assert table.num_rows == commit["rows"]
            vectors = table.column("embedding").combine_chunks().flatten().to_numpy().reshape(len(table), -1)
            id_type = (pq.read_metadata(self.shard(commit["file"])).metadata or {})[b"id_type"]
            for value, vector in zip(table.column("_id").to_pylist(), vectors, strict=True):
                key = _key(value, id_type)
                assert key not in found, f"id {key!r} is in two committed rows"
                found[key] = vector
        return found

    def shard(self, file: str) -> Any:
        """A committed shard, as pyarrow reads it."""
        return self.folders.shards / file

    def shard_names(self) -> set[str]:
        """Names of everything where committed shards are."""
        return {path.name for path in self.folders.shards.iterdir()}

    def quarantined(self) -> dict[Any, str]:
        """Reasons by id."""
        entries = read_quarantine(self.folders.quarantine)
        return {plain(json_util.loads(id_text(entry))): entry["reason"] for entry in entries}

    @property
    def n_queue(self) -> int:
        """Documents of the collection that are in the work queue or were."""
        return self.database[self.collection].count_documents({"retweeted": None})

    def assert_exact(self, *, quarantined: dict[Any, str] | None = None, marked: bool = True) -> None:
        """The oracle: every document of the queue is in exactly one row with its own vector, or in quarantine."""
        quarantined = quarantined or {}
        documents = list(self.database[self.collection].find({"retweeted": None}))
        assert documents
        rows = self.rows()
        assert self.quarantined() == quarantined
        expected = {plain(document["_id"]): document for document in documents}
        assert set(rows) == set(expected) - {plain(key) for key in quarantined}
        texts = [expected[key]["text"] for key in rows]
        if self.urls and rows:
            np.testing.assert_allclose(
                np.stack(list(rows.values())), text_rows(MODEL, texts, DIM).astype(np.float32), atol=1e-6
            )
        for document in documents:
            is_marked = document.get(DONE) is True
            is_rejected = plain(document["_id"]) in {plain(key) for key in quarantined}
            assert is_marked == (marked and not is_rejected), document["_id"]
        self.assert_clean()

    def assert_clean(self) -> None:
        """Nothing unfinished or unknown on the disk, every commit marked, no secret anywhere."""
        state = self.state()
        assert self.shard_names() == {commit["file"] for commit in state.commits.values()}
        for path in [*self.folders.hot.rglob("*"), *self.folders.cold.rglob("*")]:
            if path.is_file():
                assert SECRET.encode() not in path.read_bytes(), path


def _key(value: Any, id_type: bytes) -> Any:
    if id_type == b"objectid":
        return ObjectId(value)
    if id_type == b"extjson":
        # canonical extended JSON in, the same key out as for the document's own id
        return plain(json_util.loads(value, json_options=CANONICAL_JSON_OPTIONS))
    return value


def plain(value: Any) -> Any:
    """Something that can be a key of a dict and keeps `1`, `True` and `1.0` apart."""
    if isinstance(value, str | ObjectId):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return f"extjson {json_util.dumps(value, json_options=CANONICAL_JSON_OPTIONS)}"


def finish(process: subprocess.Popen[str], timeout_s: float = TIMEOUT_S) -> Ended:
    """Wait for a command; on a timeout it is killed with its children and the test fails."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the command did not end within {timeout_s} s: {kill(process)}") from None
    assert "Traceback" not in err, err[-3000:]
    assert SECRET not in out + err
    return Ended(process.returncode, out, err)


def kill(process: subprocess.Popen[str]) -> str:
    """Kill a command with its children; the end of what it has said."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    process.kill()
    return process.communicate()[1][-3000:]


def wait_until(
    condition: Callable[[], bool],
    timeout_s: float = 100.0,
    what: str = "the condition",
    process: subprocess.Popen[str] | None = None,
) -> None:
    """Wait for something to become true; a command it is waited for is killed, and heard, when it does not."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            said = "" if process is None else f": {kill(process)}"
            raise AssertionError(f"{what} did not come true within {timeout_s} s{said}")
        time.sleep(0.01)


def roles(process: subprocess.Popen[str]) -> dict[str, int]:
    """Process ids of the children by role, as far as they have started."""
    found: dict[str, int] = {}
    for child in children_of(process.pid):
        with contextlib.suppress(psutil.Error):
            command = psutil.Process(child).cmdline()
            if len(command) >= 6 and "engine.supervision.worker" in command[2]:
                found[command[3]] = child
    return found


def wait_for_commit(job: Job, process: subprocess.Popen[str], n_shards: int = 1) -> None:
    """Wait until some shards are committed."""

    def committed() -> bool:
        assert process.poll() is None, f"the run ended early: {finish(process).err[-2000:]}"
        return len(job.state().commits) >= n_shards

    wait_until(committed, what=f"commit of {n_shards} shards", process=process)


SLOW = ("--shard-bytes", "64KiB", "--shard-seconds", "0.3", "--batch-size", "4", "--concurrency", "2")
"""Beside `slow_down`: the first shard is committed soon, the last one takes longer than any test needs midway."""


def slow_down(fleet: StandinFleet, seconds: float = 0.3) -> None:
    """Let every server take its time, so that something can happen midway; `full_speed` ends it.

    With `SLOW` and two servers, a thousand documents take 19 s, of which a test waits for the first: midway is midway
    also when the machine stands still for a while.
    """
    for port in fleet.ports:
        with contextlib.suppress(FleetError):  # a server that a test has killed
            fleet.control(port, faults=[f"delay:s={seconds}"])


def full_speed(fleet: StandinFleet) -> None:
    """Let every server answer as fast as it can."""
    for port in fleet.ports:
        with contextlib.suppress(FleetError):
            fleet.control(port, clear_faults=True)


def wait_for_phase(job: Job, process: subprocess.Popen[str], phase: str) -> None:
    """Wait until the run says that it is in a phase."""

    def reached() -> bool:
        assert process.poll() is None, f"the run ended early: {finish(process).err[-2000:]}"
        return (read_status(job.folders.status) or {}).get("phase") == phase

    wait_until(reached, what=f"the phase {phase}", process=process)


def tweets(n: int) -> list[dict[str, Any]]:
    """Documents of a small queue, with a share of retweets."""
    langs = ("en", "de", None)
    documents: list[dict[str, Any]] = []
    for number in range(n):
        document: dict[str, Any] = {"_id": number, "text": f"tweet number {number} " + "word " * (number % 23)}
        if langs[number % 3]:
            document["lang"] = langs[number % 3]
        document["classified"] = number % 5 == 0
        if number % 11 == 10:
            document["retweeted"] = {"of": number}
        documents.append(document)
    return documents
