"""The engine's own command line, called as a person would call it, over parts that were started for the purpose."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.supervision.interpreter import python

STOP_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCommand:
    """The `engine` command on a collection, servers and folders, named by the environment as a deployment would.

    Attributes:
        uri: MongoDB.
        database, collection, done_field: The collection.
        urls: The embedding servers.
        folder: Holds `hot` and `cold`.
    """

    uri: str
    database: str
    collection: str
    done_field: str
    urls: Sequence[str]
    folder: Path

    @property
    def cold(self) -> Path:
        """Folder of the collection's Parquet files."""
        return self.folder / "cold" / f"{self.database}.{self.collection}"

    @contextlib.contextmanager
    def running(self, *arguments: str, merge_output: bool = False) -> Iterator[subprocess.Popen[str]]:
        """`start`, and the end of the command should the block be left before it has ended by itself."""
        process = self.start(*arguments, merge_output=merge_output)
        try:
            yield process
        finally:
            for send in (process.terminate, process.terminate, process.kill):  # drain, give up, die
                with contextlib.suppress(subprocess.TimeoutExpired):
                    if process.poll() is None:
                        send()
                        process.wait(STOP_PATIENCE_S)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def start(self, *arguments: str, merge_output: bool = False) -> subprocess.Popen[str]:
        """Start `engine ARGUMENTS` with its output in pipes; with `merge_output` stderr goes into stdout's."""
        return subprocess.Popen(
            python("cli", *arguments),
            env={
                **os.environ,
                "ENGINE_MONGO_URI": self.uri,
                "ENGINE_DATABASE": self.database,
                "ENGINE_COLLECTION": self.collection,
                "ENGINE_DONE_FIELD": self.done_field,
                "ENGINE_TEI_URLS": ",".join(self.urls),
                "ENGINE_HOT_DIR": str(self.folder / "hot"),
                "ENGINE_COLD_DIR": str(self.folder / "cold"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge_output else subprocess.PIPE,
            text=True,
        )
