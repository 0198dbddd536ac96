"""What the nodes of a cluster share: the work queue of a collection, or the rows of files (`engine.cluster.ports`)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from engine.cluster.ports import Cut, SharedQueue
from engine.config import RunConfig
from engine.errors import ConfigError, SinkError
from engine.leases.book import Lease, LeaseBook
from engine.ledger.log import RunState
from engine.ledger.runfolder import RunFolders
from engine.memory.channels import Message
from engine.objects.url import SourceUrl

if TYPE_CHECKING:
    from commands.composition.files.inspection import Files

COMMITTED = "committed-shards"
"""The file in a node's folder that names committed shards where nothing is marked; for a part its lease's number
follows. Each line holds the name of a shard's file, and whether its documents are marked, so that a merge may have
removed it."""
PLAN = "source-files"
"""The file that says which files there are, on the driver and on nodes."""
_PORTION_BYTES = 64 << 10
_LINES = 1000


class MongoQueue:
    """The work queue of a collection in ranges of `_id`; a reader sees by the marks what is left of one."""

    job = None
    witness = None

    def __init__(self, config: RunConfig, mongo_uri: str) -> None:
        self._source = config.source
        self._mongo_uri = mongo_uri

    def cut(self, n_nodes: int) -> Cut:
        """See `SharedQueue`.

        Raises:
            EngineError: MongoDB refuses or does not answer.
        """
        from readers.mongo.connection import open_client, open_collection  # noqa: PLC0415 - files do without it
        from readers.mongo.errors import attempt  # noqa: PLC0415
        from readers.mongo.index import require_queue_index  # noqa: PLC0415
        from readers.mongo.work_queue import WorkQuery  # noqa: PLC0415
        from readers.ranges.cutting import cut  # noqa: PLC0415

        source = self._source
        query = WorkQuery.of(source.done_field, source.langs, source.filter, source.scan, source.retweeted)
        with open_client(self._mongo_uri, name="engine-cutting") as client:
            collection = open_collection(client, source.database, source.collection)
            index = require_queue_index(collection, query, (source.text_field,)).index
            what = f"cutting the work queue of {collection.full_name}"
            return attempt(lambda: cut(collection, query, index, n_nodes), what)

    def before_all(self) -> Iterable[Message]:
        """See `SharedQueue`: nothing."""
        return ()

    def before_part(self, lease: Lease, book: LeaseBook, *, is_begun: bool) -> Iterable[Message]:
        """See `SharedQueue`: nothing."""
        return ()


class UnmarkedQueue(MongoQueue):
    """The same where nothing is marked: nodes are told which shards say what is done (`DoneShards`)."""

    def __init__(self, config: RunConfig, mongo_uri: str) -> None:
        super().__init__(config, mongo_uri)
        self._ledger = config.folders.ledger

    def before_all(self) -> Iterable[Message]:
        """See `SharedQueue`: all shards that are committed by now."""
        state = RunState.of(self._ledger)
        named = ((commit["file"], shard in state.marked) for shard, commit in state.commits.items())
        return _portions(COMMITTED, named)

    def before_part(self, lease: Lease, book: LeaseBook, *, is_begun: bool) -> Iterable[Message]:
        """See `SharedQueue`: those of nodes that are lost, which may have had the part, or some of it."""
        lost = {token for token, holder in book.holders.items() if holder.is_revoked}
        if not lost:
            return ()
        named = ((f"{shard}.parquet", False) for shard, token in book.committed.items() if token in lost)
        return _portions(f"{COMMITTED}-{lease.number}", named)


class FilesQueue:
    """The rows of files: runs of files, and ranges of rows of large ones.

    What is settled stands in the ledger alone, which nodes do not see: they are told of it with each part. A part that
    another node held before is read without what that node had committed (L3 of the lease machine: nothing is
    committed any more under a token that has ended).

    Attributes:
        job: What readers and writers of nodes are told of the files; None for MongoDB.
        witness: A file by which a node sees that it has the same ones.
    """

    def __init__(self, files: Files, folders: RunFolders) -> None:
        from readers.files.opening import checksum  # noqa: PLC0415 - only files need it

        self._files = files
        self._ledger = folders.ledger
        self._plan = folders.hot / PLAN
        self._settled: dict[int, list[tuple[int, int]]] = {}
        self._n_void = -1
        store = None if files.store is None else files.store.as_dict()
        self.job: Message = {
            "id_field": files.id_field,
            "id_type": files.id_type.value,
            "estimate": files.n_rows,
            "store": store,
        }
        there = next(file for file in files.catalogue.files if file.path is not None)
        assert there.path is not None  # it is there
        self.witness: Message = {
            "path": str(there.path.absolute()) if isinstance(there.path, Path) else None,
            "object": None if isinstance(there.path, Path) else there.path.version,
            "store": store,
            "checksum": checksum(there.path),
        }

    def cut(self, n_nodes: int) -> Cut:
        """See `SharedQueue`.

        Raises:
            EngineError: a file cannot be read, or two shards hold the same row.
        """
        from readers.files.catalogue import write_plan  # noqa: PLC0415 - only files need it
        from readers.ranges.file_cutting import cut  # noqa: PLC0415

        self._look()
        plain = self._files.catalogue.files
        try:
            write_plan(self._plan, plain)
        except OSError as error:
            raise SinkError(f"cannot write {self._plan} ({error.strerror}): free space on --hot-dir") from error
        return cut(self._files.with_settled(self._settled), self._files.n_rows, n_nodes)

    def _look(self) -> None:
        from commands.composition.files.inspection import settled_rows  # noqa: PLC0415 - only files need it

        self._settled = settled_rows(self._ledger)

    def before_all(self) -> Iterator[Message]:
        """See `SharedQueue`: which files there are, by their numbers."""
        with self._plan.open("rb") as stream:
            while lines := stream.readlines(_PORTION_BYTES):
                yield _append(self._plan.name, lines)

    def before_part(self, lease: Lease, book: LeaseBook, *, is_begun: bool) -> Iterable[Message]:
        """See `SharedQueue`: which of its rows are settled."""
        from readers.files.row_range import SETTLED  # noqa: PLC0415 - only files need it

        n_void = sum(holder.is_revoked for holder in book.holders.values())
        if n_void != self._n_void or is_begun:  # what a lost node had committed may be in parts that others get now
            self._look()
            self._n_void = n_void
        return _portions(f"{SETTLED}{lease.number}", _within(self._settled, lease.low, lease.high))


def _portions(file: str, items: Iterable[Any]) -> Iterator[Message]:
    """Items as lines of a file."""
    lines = [orjson.dumps(item) + b"\n" for item in items]
    for start in range(0, len(lines), _LINES):
        yield _append(file, lines[start : start + _LINES])


def _append(file: str, lines: list[bytes]) -> Message:
    return {"do": "append", "file": file, "lines": b"".join(lines).decode()}


def _within(
    settled: dict[int, list[tuple[int, int]]], low: int | None, high: int | None
) -> Iterator[tuple[int, int, int]]:
    """File, first and last row of what is settled between two positions."""
    from readers.files.row_range import rows_by_file  # noqa: PLC0415 - only files need it

    for number, start, end in rows_by_file(low, high, max(settled, default=-1) + 1):
        stretches = settled.get(number, [])
        for first, last in stretches[bisect_left(stretches, start, key=lambda stretch: stretch[1]) :]:
            if first >= end:
                break
            yield number, max(first, start), min(last, end - 1)


def open_queue(config: RunConfig, mongo_uri: str, files: Files | None) -> SharedQueue:
    """The queue of a run."""
    if files is not None:
        return FilesQueue(files, config.folders)
    return MongoQueue(config, mongo_uri) if config.source.mark else UnmarkedQueue(config, mongo_uri)


def require_same_files(witness: dict[str, Any] | None, budget_s: float) -> None:
    """Refuse a node that does not have the driver's files.

    Args:
        witness: `FilesQueue.witness`, None for MongoDB.
        budget_s: Seconds that a store which does not answer is waited for.

    Raises:
        SourceError: the file cannot be read.
        ConfigError: it is not there, or another one.
    """
    if witness is None:
        return
    from commands.composition.cold import keep_secrets  # noqa: PLC0415 - only files need them
    from readers.files.opening import FilePath, checksum  # noqa: PLC0415

    path: FilePath
    if witness["object"] is None:
        path = Path(witness["path"])
    else:
        from readers.files.objects import SourceStore  # noqa: PLC0415 - only a URL pays for the library

        keep_secrets()
        path = SourceStore(SourceUrl.from_dict(witness["store"]), budget_s).path(*witness["object"])
    is_there = not isinstance(path, Path) or path.exists()
    if not is_there or checksum(path) != witness["checksum"]:
        raise ConfigError(
            f"the source file {path} is {'another one than the driver has' if is_there else 'not there'}: --source has "
            "to be one folder that all nodes share, under the same path, or a URL"
        )
