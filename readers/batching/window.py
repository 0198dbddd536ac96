"""The window: documents held back to be ordered by length, freed of equal texts, and cut into batches.

A server that pads, or that fills its batches by tokens, works best on texts of like length. So a window is sorted by
length, and windows alternate between ascending and descending, which keeps neighbouring batches alike across their
border. Equal texts stand together, go into one batch, and are sent once; the fan-out tells which row has which text.

The window starts small, so that servers do not wait for it at the start, and grows to its full size.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from engine.memory.slots import TRUNCATED
from readers.batching.screening import Rows

MAX_WINDOW_CHARACTERS = 8 << 20
"""However long texts are, so many characters of them are held back at most (or one page)."""

_CHARACTERS_PER_TOKEN = 3
_TOKENS_PER_TEXT = 2  # the special tokens at both ends


def estimated_tokens(n_characters: int) -> int:
    """Tokens that a text of so many characters may have; rough, for bounds only."""
    return n_characters // _CHARACTERS_PER_TOKEN + _TOKENS_PER_TEXT


@dataclass(slots=True)
class Batch:
    """Documents that go into one slot, row by row.

    Attributes:
        ids, columns: As in `Rows`.
        flags: One byte a row (`engine.memory.slots.TRUNCATED`).
        texts: The texts; with a fan-out each different text once.
        fanout: For each row the number of its text, or None when text i belongs to row i.
    """

    ids: list[Any]
    columns: list[tuple[Any, ...]]
    flags: bytes
    texts: list[str]
    fanout: list[int] | None

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: range) -> Batch:
        """Some neighbouring rows of it as a batch of their own."""
        start, stop = rows.start, rows.stop
        ids, columns, flags = self.ids[start:stop], self.columns[start:stop], self.flags[start:stop]
        if self.fanout is None:
            return Batch(ids, columns, flags, self.texts[start:stop], None)
        first = self.fanout[start]  # equal texts stand together, so the numbers only grow
        fanout = [text - first for text in self.fanout[start:stop]]
        texts = self.texts[first : first + fanout[-1] + 1]
        return Batch(ids, columns, flags, texts, fanout if len(texts) < len(ids) else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What a batch may hold.

    Attributes:
        max_texts: Texts in a request.
        max_rows: Rows in a slot.
        max_characters: Characters of all texts; no batch above it can fit into its bytes.
        max_tokens: Estimated tokens of all texts, or None.
    """

    max_texts: int
    max_rows: int
    max_characters: int
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class Apart:
    """Which texts must not stand beside texts of equal length, because the servers give them other vectors there.

    A text has at most as many tokens as characters, or hardly more: what is shorter is in no danger. Texts that the
    server cuts are all of one length then.

    Attributes:
        from_tokens: Tokens from which on that is so.
        cut_tokens: Tokens to which the server cuts; None when it does not say.
    """

    from_tokens: int
    cut_tokens: int | None

    def order(self, order: list[int], lengths: list[int]) -> list[int]:
        """The rows in an order in which no long text has one of equal length beside it, as far as there are others.

        Args:
            order: The rows as they would be sent otherwise; short ones keep their order.
            lengths: Characters of each row's text.
        """
        long = sorted((row for row in order if lengths[row] >= self.from_tokens), key=lengths.__getitem__)
        if len(long) < 2:
            return order
        most = self.cut_tokens or lengths[long[-1]]
        n_cut = sum(lengths[row] >= most for row in long)
        short = [row for row in order if lengths[row] < self.from_tokens]
        n_needed = max(0, 2 * n_cut - len(long))  # to stand between those that are cut
        between = heapq.nlargest(n_needed, short, key=lengths.__getitem__)[::-1]
        taken = set(between)
        short = [row for row in short if row not in taken]
        long = between + long
        half = (len(long) + 1) // 2
        mixed: list[int] = []
        for number in range(half):  # the shortest beside the shortest of the longer half, and so on
            mixed += [long[half + number], long[number]] if half + number < len(long) else [long[number]]
        falls = lengths[order[0]] > lengths[order[-1]]
        return [*mixed[::-1], *short] if falls else [*short, *mixed]


class Window:
    """Holds rows back until there are enough of them to sort.

    Attributes:
        n_apart: Rows given out whose text is so long that it had to be kept apart from its equals.
        saved_texts: Texts that need not be sent, because the same text stands in the same batch.
    """

    def __init__(
        self,
        limits: BatchLimits,
        keys_of: Callable[[list[Any]], Sequence[Hashable]],
        *,
        max_rows: int,
        bucketing: bool,
        dedup: bool,
        apart: Apart | None = None,
    ) -> None:
        """
        Args:
            keys_of: The keys of ids (`readers.batching.ports.SourceIds.keys`).
            max_rows: Full size of the window.
            bucketing: Whether to sort by length.
            dedup: Whether to send equal texts once.
            apart: Which texts to keep apart from their equals.
        """
        self._limits = limits
        self._keys_of = keys_of
        self._bucketing = bucketing
        self._dedup = dedup
        self._apart = apart
        self.n_apart = 0
        self._max_rows = max(max_rows, limits.max_texts)  # with less than a batch no batch were ever full
        self._target_rows = min(self._max_rows, 4 * limits.max_texts)
        self._held = Rows()
        self._held_characters = 0
        self._descending = False
        self.saved_texts = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, rows: Rows) -> None:
        """Take rows in."""
        held = self._held
        held.ids += rows.ids
        held.texts += rows.texts
        held.columns += rows.columns
        held.truncated |= rows.truncated
        self._held_characters += sum(map(len, rows.texts))

    def batches(self, *, flush: bool) -> Iterator[Batch]:
        """Batches that are ready, in the order to send them.

        Args:
            flush: Give out everything; otherwise a window that is not full, and the rest of one that does not fill
                its last batch, are held back.
        """
        while self._held.ids and (flush or self._is_full()):
            is_heavy = self._held_characters >= MAX_WINDOW_CHARACTERS
            window = self._take(len(self._held) if is_heavy else self._max_rows if flush else self._target_rows)
            self._target_rows = min(self._max_rows, self._target_rows * 2)
            is_last = flush and not self._held.ids
            yield from self._cut(window, keep_rest=not (is_last or is_heavy))

    def _is_full(self) -> bool:
        return len(self._held) >= self._target_rows or self._held_characters >= MAX_WINDOW_CHARACTERS

    def _take(self, n_rows: int) -> Rows:
        held = self._held
        if n_rows >= len(held):
            self._held = Rows()
            self._held_characters = 0
            return held
        taken = Rows(held.ids[:n_rows], held.texts[:n_rows], held.columns[:n_rows])
        if held.truncated:
            taken.truncated = held.truncated.intersection(self._keys_of(taken.ids))
        rest = held.truncated - taken.truncated
        self._held = Rows(held.ids[n_rows:], held.texts[n_rows:], held.columns[n_rows:], rest)
        self._held_characters -= sum(map(len, taken.texts))
        return taken

    def _cut(self, window: Rows, *, keep_rest: bool) -> Iterator[Batch]:
        n_rows = len(window)
        lengths = list(map(len, window.texts))
        order, repeats = self._order(window.texts, lengths)
        start = 0
        while start < n_rows:
            stop, is_full = self._end_of_batch(start, order, repeats, lengths)
            if keep_rest and not is_full:
                self._put_back(window, order[start:])
                return
            yield self._batch(window, order[start:stop], has_repeats=_any_between(repeats, start, stop))
            start = stop

    def _order(self, texts: list[str], lengths: list[int]) -> tuple[list[int], list[int]]:
        """The rows in sending order, and the places in it whose text equals the one before."""
        n_rows = len(texts)
        order = list(range(n_rows))
        firsts = order  # for each row the first row that has its text
        has_repeats = False
        if self._dedup:
            first_with = dict(zip(reversed(texts), reversed(order), strict=True))
            has_repeats = len(first_with) < n_rows
            if has_repeats:
                firsts = list(map(first_with.__getitem__, texts))
        ranks = firsts
        if self._bucketing:
            ranks = lengths
            if has_repeats:
                ranks = [length * n_rows + first for length, first in zip(lengths, firsts, strict=True)]
        if ranks is not order:
            order = sorted(order, key=ranks.__getitem__, reverse=self._bucketing and self._descending)
        if self._bucketing:
            self._descending = not self._descending
        if not has_repeats:
            return self._apart.order(order, lengths) if self._apart is not None else order, []
        return order, [place for place in range(1, n_rows) if firsts[order[place]] == firsts[order[place - 1]]]

    def _end_of_batch(self, start: int, order: list[int], repeats: list[int], lengths: list[int]) -> tuple[int, bool]:
        """Where the batch that begins at `start` ends, and whether it could not take one more text."""
        limits = self._limits
        stop = min(start + limits.max_texts, len(order))
        if repeats:
            at = bisect_left(repeats, start + 1)
            while at < len(repeats) and repeats[at] <= stop < len(order):
                stop += 1  # a repeated text takes a row but no place in the request
                at += 1
            stop = min(stop, start + limits.max_rows)
        is_full = stop < len(order) or stop - start >= limits.max_texts
        stop = min(stop, start + limits.max_rows)
        ends = max(lengths[order[start]], lengths[order[stop - 1]])
        longest = ends if self._bucketing and self._apart is None else max(lengths[row] for row in order[start:stop])
        n_rows = stop - start
        if longest * n_rows > limits.max_characters or (
            limits.max_tokens is not None and estimated_tokens(longest) * n_rows > limits.max_tokens
        ):
            shorter = self._end_within_limits(start, stop, order, lengths)
            return shorter, is_full or shorter < stop
        return stop, is_full

    def _end_within_limits(self, start: int, stop: int, order: list[int], lengths: list[int]) -> int:
        limits = self._limits
        characters = tokens = 0
        for place in range(start, stop):
            length = lengths[order[place]]
            characters += length
            tokens += estimated_tokens(length)
            if characters > limits.max_characters or (limits.max_tokens is not None and tokens > limits.max_tokens):
                return max(place, start + 1)
        return stop

    def _batch(self, window: Rows, rows: list[int], *, has_repeats: bool) -> Batch:
        if self._apart is not None:
            self.n_apart += sum(len(window.texts[row]) >= self._apart.from_tokens for row in rows)
        ids = list(map(window.ids.__getitem__, rows))
        texts = list(map(window.texts.__getitem__, rows))
        columns = list(map(window.columns.__getitem__, rows)) if window.columns else []
        flags = bytes(len(rows))
        if window.truncated:
            flags = bytes(TRUNCATED if key in window.truncated else 0 for key in self._keys_of(ids))
        if not has_repeats:
            return Batch(ids, columns, flags, texts, None)
        different = [texts[0]]
        fanout = [0]
        for before, text in pairwise(texts):
            if text != before:
                different.append(text)
            fanout.append(len(different) - 1)
        self.saved_texts += len(texts) - len(different)
        return Batch(ids, columns, flags, different, fanout)

    def _put_back(self, window: Rows, rows: list[int]) -> None:
        held = self._held
        self._held = Rows(
            [window.ids[row] for row in rows] + held.ids,
            [window.texts[row] for row in rows] + held.texts,
            [window.columns[row] for row in rows] + held.columns if window.columns else held.columns,
            window.truncated | held.truncated,
        )
        self._held_characters += sum(len(window.texts[row]) for row in rows)


def _any_between(places: list[int], start: int, stop: int) -> bool:
    """Whether some place lies behind `start` and before `stop`."""
    at = bisect_left(places, start + 1)
    return at < len(places) and places[at] < stop
