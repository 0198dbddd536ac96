"""Index builds as the server tells of them: how much of one is done."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from pymongo.errors import PyMongoError

from readers.batching.ports import Document
from readers.mongo.connection import Client, Documents, silent_members

STANDSTILL_S = 10.0
"""A build that has not got on for so long waits for somebody."""

_PROGRESS_PERIOD_S = 0.5
_log = logging.getLogger("engine.index")


class BuildProgress:
    """The progress of an index build, watched from a second connection while the block runs."""

    def __init__(self, collection: Documents, name: str, tell: Callable[[str, float], None] | None) -> None:
        self._client: Client = collection.database.client
        self._namespace = collection.full_name
        self._name = name
        self._tell = tell
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="index-progress", daemon=True)

    def __enter__(self) -> BuildProgress:
        if self._tell is not None:
            self._tell(self._name, 0.0)
            self._thread.start()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if self._tell is not None:
            self._over.set()
            self._thread.join()
            if kind is None:
                self._tell(self._name, 1.0)

    def _watch(self) -> None:
        last: float | None = None
        since_s, has_told = time.monotonic(), False
        while not self._over.wait(_PROGRESS_PERIOD_S):
            try:
                share = build_progress(self._client, self._namespace, self._name)
            except PyMongoError:
                share = None  # no right to look, or no connection: the build itself reports what matters
            if share is not None and self._tell is not None:
                self._tell(self._name, share)
            if share != last:
                last, since_s = share, time.monotonic()
            elif not has_told and time.monotonic() - since_s > STANDSTILL_S:
                has_told = self._say_who_is_waited_for()

    def _say_who_is_waited_for(self) -> bool:
        """Name the members that do not answer: a build ends when every voting member that bears data has it."""
        silent = silent_members(self._client)
        if silent:
            _log.warning(
                "index_build_waits name=%s not_answering=%s: start these members of the replica set, or take them out",
                self._name,
                ",".join(silent),
            )
        return bool(silent)


def build_progress(client: Client, namespace: str, name: str) -> float | None:
    """How much of an index that is being built is done, 0 to 1; None when no such build is under way.

    Raises:
        pymongo.errors.PyMongoError: the server refuses or does not answer.
    """
    operations = client.admin.aggregate(
        [
            {"$currentOp": {"allUsers": True, "idleConnections": False}},
            {"$match": {"ns": namespace, "progress.total": {"$gt": 0}}},
        ]
    )
    shares = [
        operation["progress"]["done"] / operation["progress"]["total"]
        for operation in operations
        if any(index.get("name") == name for index in _indexes_of(operation))
        or "Index Build" in operation.get("msg", "")
    ]
    return min(1.0, max(shares)) if shares else None


def _indexes_of(operation: Document) -> list[Document]:
    command = operation.get("command")
    return list(command.get("indexes", ())) if isinstance(command, dict) else []
