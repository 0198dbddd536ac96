"""The skip set: documents that a page may hold but that must not be read again.

* *Unsettled* documents: read in this generation and not yet marked. The index offers them until their mark is set,
  in a later pass or when their `lang` or `classified` changes and their key moves forward (G2).
* *Quarantined* documents: never marked, so they stay in the queue for good.
* *Done* documents, only when nothing is marked (`--no-mark`): those of committed shards.

Unsettled ids are bounded by what is in flight plus the lag of marking; quarantined ones by the quarantine.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from engine.ledger.quarantine import id_text
from readers.batching.ports import SourceIds

if TYPE_CHECKING:
    from readers.batching.done_ids import DoneIds


class QuarantineLog:
    """Follows `quarantine.jsonl` while the supervisor appends to it."""

    def __init__(self, path: str | None, key_of_text: Callable[[str], Hashable]) -> None:
        """
        Args:
            path: The file; None when there is none.
            key_of_text: The key of an id in it (`readers.batching.ports.SourceIds.key_of_text`).
        """
        self._key_of_text = key_of_text
        self._path = None if path is None else Path(path)
        self._offset = 0

    def new_keys(self) -> set[Hashable]:
        """The keys of the documents that were added since the last call; a line in the making waits for the next."""
        if self._path is None or not self._path.exists() or self._path.stat().st_size <= self._offset:
            return set()
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        keys = set()
        for line in whole.split(b"\n"):
            # an _id that was too long for a message was cut: its document is read, and refused, once more
            with contextlib.suppress(ValueError, TypeError, KeyError):
                keys.add(self._key_of_text(id_text(orjson.loads(line))))
        return keys


class SkipSet:
    """Decides which documents of a page are new, and remembers those that were.

    Attributes:
        skipped: Documents met that were in quarantine before this generation, each counted once.
    """

    def __init__(self, quarantine: QuarantineLog, done: DoneIds | None, ids: SourceIds) -> None:
        self._log = quarantine
        self._done = done
        self._ids = ids
        self._key_of, self._keys_of = ids.key, ids.keys
        self._unsettled: set[Hashable] = set()
        self._quarantined_before = quarantine.new_keys()
        self._quarantined = set(self._quarantined_before)
        self._published: deque[tuple[int, list[Any]]] = deque()
        self.skipped = 0

    def follow_quarantine(self) -> None:
        """Take in what was quarantined meanwhile by others."""
        self._quarantined |= self._log.new_keys()

    def quarantine(self, value: Any) -> None:
        """Note the `_id` of a document that the reader itself quarantines; it is unsettled no more."""
        key = self._key_of(value)
        self._quarantined.add(key)
        self._unsettled.discard(key)

    def new_rows(self, ids: list[Any]) -> list[int] | None:
        """The rows of a page that may be read, now remembered as unsettled; None when all may."""
        keys = self._keys_of(ids)
        fresh = set(keys)
        if (
            len(fresh) == len(keys)
            and self._unsettled.isdisjoint(fresh)
            and (not self._quarantined or self._quarantined.isdisjoint(fresh))
            and self._done is None
        ):
            self._unsettled |= fresh
            return None
        done = self._done_among(ids)
        rows = []
        for row, key in enumerate(keys):
            if key in self._quarantined:
                self._count_skip(key)
            elif key not in self._unsettled and not done[row]:
                self._unsettled.add(key)
                rows.append(row)
        return None if len(rows) == len(keys) else rows

    def has_new(self, ids: list[Any]) -> bool:
        """Whether a page holds anything that may be read; remembers nothing."""
        done = self._done_among(ids)
        return any(
            key not in self._quarantined and key not in self._unsettled and not done[row]
            for row, key in enumerate(self._keys_of(ids))
        )

    def forget(self, ids: list[Any]) -> None:
        """Take back documents that were remembered but will not be read now."""
        self._unsettled.difference_update(self._keys_of(ids))

    def published(self, sequence: int, ids: list[Any]) -> None:
        """Note which documents went out with a batch."""
        self._published.append((sequence, ids))

    def settle(self, sequence: int) -> None:
        """All batches up to `sequence` are marked (or, without marking, committed)."""
        settled: list[Any] = []
        while self._published and self._published[0][0] <= sequence:
            settled += self._published.popleft()[1]
        self._unsettled.difference_update(self._keys_of(settled))
        if self._done is not None:
            self._done.add(self._ids.column(settled))
        self.follow_quarantine()

    @property
    def unsettled(self) -> int:
        """Documents read and not yet settled."""
        return len(self._unsettled)

    def _count_skip(self, key: Hashable) -> None:
        if key in self._quarantined_before:
            self._quarantined_before.discard(key)
            self.skipped += 1

    def _done_among(self, ids: list[Any]) -> list[bool]:
        if self._done is None:
            return [False] * len(ids)
        fits = [self._ids.misfit(value) is None for value in ids]
        if all(fits):
            return self._done.contains(self._ids.column(ids))
        known = iter(
            self._done.contains(self._ids.column([value for value, fit in zip(ids, fits, strict=True) if fit]))
        )
        return [fit and next(known) for fit in fits]
