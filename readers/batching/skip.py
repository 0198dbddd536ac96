"""The skip set: documents that a page may hold but that must not be read again.

* *Unsettled* documents: read in this generation and not yet marked. The index offers them until their mark is set,
  in a later pass or when their `lang` or `classified` changes and their key moves forward (G2).
* *Quarantined* documents: never marked, so they stay in the queue for good.
* *Done* documents, only when nothing is marked (`--no-mark`): those of committed shards.

Unsettled ids are bounded by what is in flight plus the lag of marking. Of quarantined ones there may be any number (a
hundred million documents without a text); beyond `KEPT_IN_MEMORY` they are digests in a file.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from engine.ledger.key_table import KeyTable, digest_of
from engine.ledger.quarantine import id_text
from readers.batching.ports import SourceIds

if TYPE_CHECKING:
    from readers.batching.done_ids import DoneIds


KEPT_IN_MEMORY = 50_000
"""Quarantined keys that are held as they are; more of them are digests in a file, at about 2 us a look."""

_NEW, _BEFORE, _MET = 1, 2, 3  # added in this generation; there before it; there before it, and met
_CHUNK_BYTES = 256 << 10

Entry = dict[str, Any]
"""A line of the quarantine file."""


class QuarantineLog:
    """Follows `quarantine.jsonl` while the supervisor appends to it."""

    def __init__(
        self,
        path: str | None,
        key_of_text: Callable[[str], Hashable],
        before: int | None = None,
    ) -> None:
        """
        Args:
            path: The file; None when there is none.
            key_of_text: The key of an id in it (`readers.batching.ports.SourceIds.key_of_text`).
            before: The first call of `new_keys` goes no further than that byte; None for to the end.
        """
        self._key_of_text = key_of_text
        self._until = before
        self.path = None if path is None else Path(path)
        self._offset = 0

    def again(self) -> QuarantineLog:
        """The same file from its beginning."""
        return QuarantineLog(None if self.path is None else str(self.path), self._key_of_text)

    def new_keys(self, is_wanted: Callable[[Entry], bool] | None = None) -> Iterator[list[Hashable]]:
        """The keys of the documents that were added since the last call, in portions of a bounded size.

        A line in the making waits for the next call.

        Args:
            is_wanted: Asked about every entry, once; the keys of others are passed over.
        """
        until, self._until = self._until, None
        if self.path is None or not self.path.exists() or self.path.stat().st_size <= self._offset:
            return
        with self.path.open("rb") as stream:
            offset = self._offset
            stream.seek(offset)
            while lines := stream.readlines(_CHUNK_BYTES):
                keys = []
                for line in lines:
                    if not line.endswith(b"\n") or (until is not None and offset >= until):
                        break
                    offset += len(line)
                    # an _id that was too long for a message was cut: its document is read, and refused, once more
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        entry = orjson.loads(line)
                        if is_wanted is None or is_wanted(entry):
                            keys.append(self._key_of_text(id_text(entry)))
                self._offset = max(self._offset, offset)
                yield keys
                if until is not None and offset >= until:
                    return


class QuarantinedKeys:
    """The keys of quarantined documents: any number of them in bounded memory."""

    def __init__(self, folder: Path | None) -> None:
        """
        Args:
            folder: Where a file may lie when there are many; None keeps all in memory.
        """
        self._folder = folder
        self._few: dict[Hashable, int] = {}
        self._many: KeyTable | None = None

    def __bool__(self) -> bool:
        return bool(self._few) or self._many is not None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, Hashable) and bool(self.get(key))

    def isdisjoint(self, keys: set[Hashable]) -> bool:
        """Whether surely none of the keys is among them; where there are many, each has to be looked up by itself."""
        return self._many is None and self._few.keys().isdisjoint(keys)

    def get(self, key: Hashable) -> int:
        """The state of a key, 0 when it is not among them."""
        return self._few.get(key, 0) if self._many is None else self._many.get(_digest(key))

    def meet(self, key: Hashable) -> int:
        """The state of a key before it was met; one that was `_BEFORE` is `_MET` from now on."""
        if self._many is not None:
            return self._many.change(_digest(key), _BEFORE, _MET)
        state = self._few.get(key, 0)
        if state == _BEFORE:
            self._few[key] = _MET
        return state

    def add(self, keys: Iterable[Hashable], state: int = _BEFORE) -> None:
        """Add keys; those that are there keep their state.

        Raises:
            SinkError: the device of the file is full or failing.
        """
        for key in keys:
            if not self.get(key):
                self.put(key, state)

    def put(self, key: Hashable, state: int) -> None:
        """Add a key, or change its state.

        Raises:
            SinkError: the device of the file is full or failing.
        """
        if self._many is not None:
            self._many.put(_digest(key), state)
            return
        self._few[key] = state
        if len(self._few) > KEPT_IN_MEMORY and self._folder is not None:
            self._many = KeyTable(self._folder)
            for one, its_state in self._few.items():
                self._many.put(_digest(one), its_state)
            self._few = {}


def _digest(key: Hashable) -> bytes:
    """The digest of a key; keys that are equal have equal ones, whatever their types (`Int64(7) == 7`)."""
    if isinstance(key, int):
        return digest_of(b"i%d" % key)
    if isinstance(key, bytes):
        return digest_of(b"b" + key)
    if isinstance(key, str):
        return digest_of(b"s" + key.encode("utf-8", "surrogatepass"))
    return digest_of(b"o" + str(key).encode())


class SkipSet:
    """Decides which documents of a page are new, and remembers those that were.

    Attributes:
        left_out: Documents of the queue that were in quarantine before this generation and are in no page at all.
        counts: Whether such documents count as skipped when they are met.
    """

    def __init__(
        self,
        quarantine: QuarantineLog,
        done: DoneIds | None,
        ids: SourceIds,
        may_wait: Callable[[Entry], bool] = lambda _: False,
    ) -> None:
        """
        Args:
            may_wait: Asked about every entry of the quarantine, once. True postpones one that was there before this
                generation: it need not be known before `take_in`, because no page may hold its document.
        """
        self._log = quarantine
        self._may_wait = may_wait
        self._done = done
        self._ids = ids
        self._key_of, self._keys_of = ids.key, ids.keys
        self._unsettled: set[Hashable] = set()
        self._quarantined = QuarantinedKeys(None if quarantine.path is None else quarantine.path.parent)
        self._has_read_log = False
        self._published: deque[tuple[int, list[Any]]] = deque()
        self._met = 0
        self.left_out = 0
        self.counts = True

    @property
    def skipped(self) -> int:
        """Documents in the queue that were in quarantine before this generation, each counted once."""
        return self._met + self.left_out

    def follow_quarantine(self, is_enough: Callable[[], bool] = lambda: False) -> None:
        """Take in what was quarantined by others since the last call; at the first one, what was there before.

        Args:
            is_enough: Asked after every portion of the first call, which may take a while; True ends it.
        """
        if self._has_read_log:
            for keys in self._log.new_keys(lambda entry: self._may_wait(entry) or True):
                self._quarantined.add(keys, _NEW)
            return
        for keys in self._log.new_keys(lambda entry: not self._may_wait(entry)):
            self._quarantined.add(keys, _BEFORE)
            if is_enough():
                return
        self._has_read_log = True
        self.follow_quarantine()  # a node has what other nodes have told since the run began, too

    def take_in(self, is_wanted: Callable[[Entry], bool], is_enough: Callable[[], bool], *, counts: bool) -> bool:
        """Take in postponed entries, before a page is seen that may hold their documents; whether all are in.

        Args:
            is_wanted: Which of them.
            is_enough: Asked after every portion, True ends it.
            counts: Whether they count as skipped when they are met; not those that were left out before.
        """
        state = _BEFORE if counts else _NEW
        for keys in self._log.again().new_keys(is_wanted):
            self._quarantined.add(keys, state)
            if is_enough():
                return False
        return True

    def quarantine(self, value: Any) -> None:
        """Note the `_id` of a document that the reader itself quarantines; it is unsettled no more."""
        key = self._key_of(value)
        self._quarantined.add((key,), _NEW)
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
            if state := self._quarantined.meet(key):
                self._met += state == _BEFORE and self.counts
            elif key not in self._unsettled and not done[row]:
                self._unsettled.add(key)
                rows.append(row)
        return None if len(rows) == len(keys) else rows

    def has_new(self, ids: list[Any]) -> bool:
        """Whether a page holds anything that may be read; remembers nothing."""
        done = self._done_among(ids)
        return any(
            not self._quarantined.get(key) and key not in self._unsettled and not done[row]
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

    def add_done(self, path: Path) -> None:
        """Take in a further file of done ids (`readers.batching.done_ids`); only where nothing is marked."""
        assert self._done is not None  # nothing is marked
        self._done.add_file(path)

    @property
    def unsettled(self) -> int:
        """Documents read and not yet settled."""
        return len(self._unsettled)

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
