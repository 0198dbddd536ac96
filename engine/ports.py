"""Protocols that the layers above fulfil, because the engine knows no MongoDB and no Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from engine.records import ShardFacts

IdList = list[int] | list[str] | list[bytes]
"""Ids as the id column holds them: int64, strings (plain or extended JSON), or 12-byte object ids."""


class Shards(Protocol):
    """The shards folder of a data set, as recovery and marking see it."""

    def ids(self, file: str) -> Iterator[IdList]:
        """The ids of a shard in portions; DamageError when it cannot be read."""

    def check_committed(self, file: str, size_bytes: int, sha256: str) -> None:
        """DamageError unless the file is what its COMMIT record says."""

    def inspect_orphan(self, file: str) -> ShardFacts | str:
        """The facts of a complete shard of this ledger, or why it is not one."""

    def elsewhere(self, prefix: str) -> list[str]:
        """Names of finished shards that begin so and lie not in the folder: on a cold store."""

    def deposit(self, facts: ShardFacts) -> None:
        """See that a sound shard is where committed ones stay, before its COMMIT."""

    def set_aside(self, file: str) -> str:
        """Give a shard that lies elsewhere and cannot be adopted another name; returns that."""

    def size_there(self, file: str) -> int | None:
        """Bytes of a shard as this machine sees it where committed ones stay, None when it is not there."""

    def remove(self, file: str) -> None:
        """Remove a shard that is in no ledger and never will be, wherever it lies."""

    def release(self, file: str) -> None:
        """Let go of a copy that was kept until the documents of its committed shard were settled."""


class MarkCounts(Protocol):
    """The counts of one marking: what became of the documents that were to be marked."""

    @property
    def matched(self) -> int:
        """Documents marked now."""

    @property
    def already(self) -> int:
        """Documents that bore the mark."""

    @property
    def gone(self) -> int:
        """Documents that exist no more."""

    @property
    def foreign(self) -> int:
        """Documents among `already` that no attempt of ours can have marked."""


class DocumentMarker(Protocol):
    """The one who marks: sets the done field of documents, guarded by "still unset", durably."""

    def mark(self, ids: IdList, *, ours_before: bool) -> MarkCounts:
        """Mark documents.

        Args:
            ids: The documents.
            ours_before: Whether an earlier attempt of this data set may have marked some of them.

        Raises:
            SourceError: MongoDB is unavailable beyond the limit.
        """
