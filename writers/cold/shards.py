"""The shards of a data set whose cold is a store: a folder on hot that holds them on their way, and the objects."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.errors import DamageError
from engine.ledger import durable
from engine.ledger.recovery import SET_ASIDE
from engine.objects.object_store import Absent
from engine.objects.patience import repeated
from engine.objects.remote_file import RemoteFile
from engine.records import Fingerprint, ShardFacts
from writers.cold.settings import SHARDS, ColdSettings
from writers.cold.upload import Content, is_same, mapped, upload
from writers.shards.schema import ShardSchema
from writers.shards.store import ParquetShards

_log = logging.getLogger("engine.cold")

LOOK_BUDGET_S = 5.0
"""How long a look at one object waits for a store that does not answer: somebody else's work waits for it."""


class ColdShards(ParquetShards):
    """Shards on a store, as the engine's recovery and marking see them; a copy on hot serves while it is there."""

    def __init__(
        self, folder: Path, schema: ShardSchema, fingerprint: Fingerprint, ledger: str, cold: ColdSettings
    ) -> None:
        """
        Args:
            folder: Where shards lie on hot until their documents are settled.
        """
        super().__init__(folder, schema, fingerprint, ledger)
        self._cold = cold
        self._store = cold.open()

    def _object(self, file: str) -> str:
        return f"{SHARDS}/{file}"

    def names(self) -> set[str]:
        """Names of all objects of the shards folder.

        Raises:
            SinkError: the store does not answer within the budget.
        """
        start = len(SHARDS) + 1
        found = repeated(
            lambda: [stored.name[start:] for stored in self._store.list(SHARDS)],
            self._store.where(SHARDS),
            self._cold.budget_s,
        )
        return {name for name in found if "/" not in name}

    def has(self, file: str) -> bool:
        """Whether the shard is on hot or on the store."""
        try:
            return super().has(file) or bool(self._head(file))
        except Absent:
            return False

    def elsewhere(self, prefix: str) -> list[str]:
        """Names of objects that could be shards of this ledger."""
        return sorted(name for name in self.names() if name.startswith(prefix) and name.endswith(".parquet"))

    def deposit(self, facts: ShardFacts) -> None:
        """Upload a shard that is only on hot, or make sure that the store has it.

        Raises:
            DamageError: its name is taken by another content.
            SinkError: see `upload`.
        """
        path = self._folder / facts.file
        if path.exists():
            upload(
                self._store,
                self._object(facts.file),
                path,
                facts.sha256,
                by_e_tag=self._cold.by_e_tag,
                budget_s=self._cold.budget_s,
                tell=lambda where, why: _log.warning("upload_repeated where=%s reason=%r", where, why),
            )

    def release(self, file: str) -> None:
        """Remove the copy on hot of a shard that is committed, and whose documents are settled."""
        path = self._folder / file
        if path.exists():
            durable.point("cold.before_release")
            durable.unlink(path)
            durable.point("cold.after_release")

    def size_there(self, file: str) -> int | None:
        """Bytes of the object, None when the store has none of this name.

        Raises:
            SinkError: the store does not answer within a short time.
        """
        name = self._object(file)
        try:
            budget_s = min(LOOK_BUDGET_S, self._cold.budget_s)
            return int(repeated(lambda: self._store.head(name), self._store.where(name), budget_s).size_bytes)
        except Absent:
            return None

    def remove(self, file: str) -> None:
        """Remove a shard that is in no ledger, and its copy on hot.

        Raises:
            SinkError: the store does not do it.
        """
        name = self._object(file)
        durable.point("shard.before_remove")
        repeated(lambda: self._store.delete(name), self._store.where(name), self._cold.budget_s)
        durable.unlink(self._folder / file)

    def set_aside(self, file: str) -> str:
        """Give an object that cannot be adopted another name; returns its URL.

        Raises:
            SinkError: the store does not do it.
        """
        name, target = self._object(file), self._object(file + SET_ASIDE)
        repeated(lambda: self._store.copy(name, target), self._store.where(name), self._cold.budget_s)
        repeated(lambda: self._store.delete(name), self._store.where(name), self._cold.budget_s)
        return self._store.where(target)

    def check_committed(self, file: str, size_bytes: int, sha256: str) -> None:
        """Compare a committed shard with its COMMIT record, as the store has it, and the copy on hot if there is one.

        Raises:
            DamageError: it is missing or differs.
            SinkError: the store does not answer within the budget.
        """
        path, where = self._folder / file, self._store.where(self._object(file))
        md5 = None
        if path.exists():
            super().check_committed(file, size_bytes, sha256)
            if self._cold.by_e_tag:
                with mapped(path) as view:
                    md5 = hashlib.md5(view, usedforsecurity=False).hexdigest()
        try:
            stored = self._head(file)
            content = Content(size_bytes=size_bytes, sha256=sha256, md5=md5)
            is_right = is_same(self._store, stored, content, self._cold.budget_s)
        except Absent as error:
            raise DamageError(
                f"the committed shard {where} is missing: restore it from a copy; its documents are not marked from it"
            ) from error
        if not is_right:
            raise DamageError(
                f"the committed shard {where} is not what was written (size {stored.size_bytes}, expected "
                f"{size_bytes}; or another checksum): restore it from a copy; its documents are not marked from it"
            )

    def _head(self, file: str) -> Any:
        name = self._object(file)
        return repeated(lambda: self._store.head(name), self._store.where(name), self._cold.budget_s)

    def _source(self, file: str) -> Any:
        if super().has(file):
            return super()._source(file)
        return pa.PythonFile(RemoteFile(self._store, self._object(file), self._cold.budget_s), mode="r")

    def _size_and_sha256(self, file: str) -> tuple[int, str]:
        if super().has(file):
            return super()._size_and_sha256(file)
        digest = hashlib.sha256()
        source = RemoteFile(self._store, self._object(file), self._cold.budget_s)
        try:
            while block := source.read(1 << 20):
                digest.update(block)
            return source.size_bytes, digest.hexdigest()
        finally:
            source.close()

    def _where(self, file: str) -> str:
        return str(self._folder / file) if super().has(file) else self._store.where(self._object(file))

    def _require_folder(self) -> None:
        """A store that is away has said so already."""
