"""What is done where nothing is marked (`--no-mark`), as a node knows it: the ids of committed shards.

The driver names the shards; the node reads their ids where shards are, and gives them to its reader as files
(`readers.batching.done_ids`). Those that were committed before the node begins come first, and with each part those of
nodes that are lost: nobody else can have committed documents of a part that is given out.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import orjson

from commands.cluster.queues import COMMITTED
from engine.errors import SinkError
from engine.ports import IdList
from readers.batching.done_ids import build
from writers.shards.store import ParquetShards

_DONE = "done-ids"


class DoneShards:
    """Reads the ids of committed shards, in a thread of its own."""

    def __init__(self, shards: ParquetShards, folder: Path) -> None:
        """
        Args:
            folder: The node's own, where the names lie and the ids go.
        """
        self._shards = shards
        self._folder = folder
        self._known: set[str] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="done-ids")

    def take(self, lease: int | None = None) -> Future[str | None]:
        """The path of a file with the ids of the shards that were named and not known yet, None when there are none.

        Args:
            lease: Of the part that they were named for, None for those before all.
        """
        ending = "" if lease is None else f"-{lease}"
        return self._thread.submit(self._take, self._folder / (COMMITTED + ending), self._folder / (_DONE + ending))

    def _take(self, names: Path, target: Path) -> str | None:
        if not names.exists():
            return None
        named = dict(orjson.loads(line) for line in names.read_bytes().splitlines())
        names.unlink()
        new = [file for file, is_marked in named.items() if file not in self._known and self._is_there(file, is_marked)]
        self._known.update(named)
        if not new:
            return None
        try:
            build(target, self._shards.id_type, self._ids(new))
        except OSError as error:
            raise SinkError(f"cannot write {target} ({error.strerror}): free space there") from error
        return str(target)

    def _is_there(self, file: str, is_marked: bool) -> bool:
        return not is_marked or self._shards.has(file)

    def _ids(self, files: list[str]) -> Iterator[IdList]:
        for file in files:
            yield from self._shards.ids(file)
