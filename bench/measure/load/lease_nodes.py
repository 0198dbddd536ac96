"""Nodes of a modelled fleet: they read, embed, seal and propose as docs/protocols/leases.md says."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

from engine.leases.records import Token

Stretch = tuple[int, int]
"""Documents by their numbers in the order of the queue: the first, and the one behind the last."""


def length(stretches: list[tuple[int, Stretch]]) -> int:
    """Documents in stretches of leases."""
    return sum(high - low for _, (low, high) in stretches)


@dataclass(slots=True)
class Held:
    """A lease as its node sees it.

    Attributes:
        unread: What is to be read of it, in order.
        uncommitted: Rows read that are in no committed shard yet.
    """

    unread: deque[Stretch]
    uncommitted: int = 0


@dataclass(slots=True, eq=False)
class Node:
    """One node, over all its incarnations.

    Attributes:
        rate: Documents a second.
        token: Of the incarnation that lives, None while there is none.
        leases: By their numbers, in the order in which they came.
        open: The open shard: stretches, with the number of the lease that each is of.
        pending: The shard whose answer it awaits, if any; no other is sealed meanwhile.
        embedded: Documents embedded by this incarnation.
        is_cut_off: Whether nothing reaches it or comes from it.
        is_counted: Whether the ideal fleet has it.
        version: Grows with every incarnation and every plan; what was planned under another one is void.
    """

    name: str
    rate: float
    token: Token | None = None
    leases: dict[int, Held] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    open: list[tuple[int, Stretch]] = field(default_factory=list)
    open_rows: int = 0
    open_since: float = 0.0
    pending: dict[str, list[tuple[int, Stretch]]] = field(default_factory=dict)
    embedded: int = 0
    n_shards: int = 0
    is_cut_off: bool = False
    is_asking: bool = False
    is_counted: bool = False
    version: int = 0
    _clock: float = 0.0
    _carry: float = 0.0

    def begin(self, token: Token, now: float) -> None:
        """Begin an incarnation."""
        self.token, self._clock, self._carry = token, now, 0.0
        self.version += 1

    def end(self) -> int:
        """End it; how many documents it has embedded that are in no shard it knows to be committed."""
        lost = self.open_rows + sum(length(rows) for rows in self.pending.values())
        self.token = None
        self.version += 1
        self.leases, self.seen, self.open, self.pending = {}, set(), [], {}
        self.open_rows = self.embedded = self.n_shards = 0
        self.is_cut_off = self.is_asking = False
        return lost

    @property
    def unread(self) -> int:
        """Documents that it may still read."""
        return sum(high - low for lease in self.leases.values() for low, high in lease.unread)

    @property
    def wants_more(self) -> bool:
        """Whether it has less to read than the lease at hand and the next."""
        return sum(bool(lease.unread) for lease in self.leases.values()) < 2

    def advance(self, now: float, most_rows: int) -> None:
        """Embed up to now, lease after lease; it pauses when all of them are read, or its open shard is too large."""
        self._carry += self.rate * (now - self._clock)
        self._clock = now
        budget = min(int(self._carry + 1e-6), most_rows - self.open_rows)
        was_open = bool(self.open)
        for number, lease in self.leases.items():
            while budget > 0 and lease.unread:
                low, high = lease.unread.popleft()
                count = min(budget, high - low)
                if low + count < high:
                    lease.unread.appendleft((low + count, high))
                self.open.append((number, (low, low + count)))
                lease.uncommitted += count
                self.open_rows += count
                self.embedded += count
                self._carry -= count
                budget -= count
        if self._carry >= 1.0:
            self._carry = 0.0  # it has paused
        if self.open and not was_open:
            self.open_since = now

    def seal(self) -> str:
        """Seal the open shard; its name."""
        self.n_shards += 1
        name = f"done-0123456789ab-e{self.token}-{self.n_shards:06d}"
        self.pending[name] = self.open
        self.open, self.open_rows = [], 0
        return name

    def commit(self, shard: str) -> None:
        """Take in that a shard is committed; more than once is once."""
        for number, (low, high) in self.pending.pop(shard, []):
            self.leases[number].uncommitted -= high - low

    def pop_done(self) -> list[int]:
        """Leases that are read to their end, with all of it committed; it holds them no more."""
        done = [number for number, lease in self.leases.items() if not lease.unread and not lease.uncommitted]
        for number in done:
            del self.leases[number]
        return done


class Stretches:
    """A set of documents, as stretches."""

    def __init__(self) -> None:
        self._lows: list[int] = []
        self._highs: list[int] = []
        self._new: list[Stretch] = []

    def add(self, stretches: list[Stretch]) -> None:
        """Take documents in; they count behind the next `merge`."""
        self._new += stretches

    def merge(self) -> tuple[int, int]:
        """How many documents there are, and how many came more than once since the last call."""
        merged: list[list[int]] = []
        n_doubled = 0
        for low, high in sorted([*zip(self._lows, self._highs, strict=True), *self._new]):
            if merged and low <= merged[-1][1]:
                n_doubled += max(0, min(high, merged[-1][1]) - low)
                merged[-1][1] = max(high, merged[-1][1])
            else:
                merged.append([low, high])
        self._lows, self._highs, self._new = [low for low, _ in merged], [high for _, high in merged], []
        return sum(high - low for low, high in merged), n_doubled

    def missing_in(self, low: int, high: int) -> list[Stretch]:
        """Documents of a stretch that are not in the set."""
        found: list[Stretch] = []
        at = max(0, bisect_right(self._lows, low) - 1)
        while at < len(self._lows) and self._lows[at] < high:
            if self._highs[at] > low:
                if self._lows[at] > low:
                    found.append((low, self._lows[at]))
                low = self._highs[at]
            at += 1
        if low < high:
            found.append((low, high))
        return found
