"""A real job over files of every format: the same servers, command line and questions as a job over MongoDB."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bench.standin.backends.vectors import text_rows
from engine.ledger.log import RunState
from engine.ledger.quarantine import read_quarantine
from engine.ledger.runfolder import RunFolders
from tests.crash.job import DIM, DONE, MODEL, Ended, finish
from tests.parts import prewarmed

NAME = "articles"
QUARANTINED = 3
"""The exit code with documents in quarantine."""
BROKEN = {"part-0.jsonl#7": "unreadable", "part-0.jsonl#11": "missing", "part-0.jsonl#13": "empty"}


def text_of(number: int) -> str:
    """The text of a row."""
    return f"article number {number} " + "word " * (number % 23)


@dataclass(kw_only=True)
class FilesJob:
    """A folder of files, servers, and the command line over them.

    Attributes:
        texts: The text of every row that can be embedded, by `file#row`.
        broken: Reasons of those that cannot.
    """

    folder: Path
    urls: tuple[str, ...]
    options: tuple[str, ...] = ("--shard-bytes", "64KiB", "--batch-size", "8")
    texts: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        """The folder of the files."""
        return self.folder / NAME

    @property
    def folders(self) -> RunFolders:
        """The folders of the run."""
        return RunFolders.of(self.folder / "hot", self.folder / "cold", "files", NAME, DONE)

    def fill(self, n_rows: int) -> None:
        """A third of the rows each as JSONL with a few bad lines, as Parquet, and as compressed CSV."""
        third = n_rows // 3
        self.add_jsonl("part-0.jsonl", range(third), broken=BROKEN)
        self.add_parquet("deep/part-1.parquet", range(third, 2 * third))
        self.add_csv("part-2.csv.gz", range(2 * third, n_rows))

    def add_jsonl(self, name: str, numbers: range, broken: dict[str, str] | None = None) -> None:
        """A file of JSON lines."""
        lines = []
        for row, number in enumerate(numbers):
            reason = (broken or {}).get(f"{name}#{row}")
            document: dict[str, Any] = {"id": number, "text": text_of(number)}
            if reason == "missing":
                del document["text"]
            if reason == "empty":
                document["text"] = "  "
            lines.append('{"id": 7, "text' if reason == "unreadable" else json.dumps(document))
            self._note(name, row, number, reason)
        self._path(name).write_text("\n".join(lines) + "\n")

    def add_parquet(self, name: str, numbers: range, row_group_rows: int = 100) -> None:
        """A Parquet file."""
        table = pa.table({"other": [0] * len(numbers), "text": [text_of(number) for number in numbers]})
        pq.write_table(table, self._path(name), row_group_size=row_group_rows)
        for row, number in enumerate(numbers):
            self._note(name, row, number, None)

    def add_csv(self, name: str, numbers: range) -> None:
        """A CSV file, compressed by gzip."""
        with gzip.open(self._path(name), "wt") as stream:
            stream.write("id,text\n")
            for row, number in enumerate(numbers):
                stream.write(f'{number},"{text_of(number)}"\n')
                self._note(name, row, number, None)

    def _path(self, name: str) -> Path:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _note(self, name: str, row: int, number: int, reason: str | None) -> None:
        if reason is None:
            self.texts[f"{name}#{row}"] = text_of(number)
        else:
            self.broken[f"{name}#{row}"] = reason

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in a session of its own."""
        return prewarmed.Popen(
            [sys.executable, "-m", "cli", *arguments],
            env={
                **os.environ,
                "ENGINE_SOURCE": str(self.source),
                "ENGINE_DONE_FIELD": DONE,
                "ENGINE_TEI_URLS": ",".join(self.urls),
                "ENGINE_HOT_DIR": str(self.folder / "hot"),
                "ENGINE_COLD_DIR": str(self.folder / "cold"),
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

    def start_run(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`engine run --json`, started."""
        return self.start("run", "--json", *self.options, *arguments, **environment)

    def run(self, *arguments: str, **environment: str) -> Ended:
        """`engine run --json` to its end."""
        return finish(self.start_run(*arguments, **environment))

    def assert_the_supervisor_may_be_killed(self, point: str) -> None:
        """Killed at a fail point, it leaves what the same command needs to go on with the rows that are missing."""
        killed = self.run(ENGINE_FAILPOINTS=f"supervisor/{point}=kill")
        assert killed.code == -signal.SIGKILL

        again = self.run()

        assert again.code == QUARANTINED, again.err
        assert again.summary["embedded"] + again.summary["resumed"] == len(self.texts)
        self.assert_exact()

    def assert_a_child_may_be_killed(self, point: str) -> None:
        """Killed once at a fail point, it is replaced, and no row is lost or doubled."""
        witness = self.folder / "killed"

        ended = self.run(ENGINE_FAILPOINTS=f"{point}=kill_once:{witness}")

        assert witness.exists()
        assert ended.code == QUARANTINED, ended.err
        assert ended.summary["restarts"] == 1
        self.assert_exact()

    def state(self) -> RunState:
        """What the ledger amounts to."""
        return RunState.of(self.folders.ledger) if self.folders.ledger.exists() else RunState()

    def rows(self) -> dict[Any, npt.NDArray[np.float32]]:
        """Every committed row, by id; a doubled id fails here (G2)."""
        found: dict[Any, npt.NDArray[np.float32]] = {}
        for commit in self.state().commits.values():
            table = pq.read_table(self.folders.shards / commit["file"], page_checksum_verification=True)
            vectors = table.column("embedding").combine_chunks().flatten().to_numpy().reshape(len(table), -1)
            for value, vector in zip(table.column("_id").to_pylist(), vectors, strict=True):
                assert value not in found, f"id {value!r} is in two committed rows"
                found[value] = vector
        return found

    def quarantined(self) -> dict[str, str]:
        """Reasons by `file#row`."""
        return {entry["_id"]: entry["reason"] for entry in read_quarantine(self.folders.quarantine)}

    def assert_exact(self) -> None:
        """The oracle: every row of the files is in exactly one row with its own vector, or in quarantine."""
        rows = self.rows()
        assert self.quarantined() == self.broken
        assert set(rows) == set(self.texts)
        np.testing.assert_allclose(
            np.stack(list(rows.values())),
            text_rows(MODEL, [self.texts[name] for name in rows], DIM).astype(np.float32),
            atol=1e-6,
        )
        names = {path.name for path in self.folders.shards.iterdir()}
        assert names == {commit["file"] for commit in self.state().commits.values()}
