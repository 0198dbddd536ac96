"""The lease book: what the ledger's records say of tokens, leases and shards.

The lease machine decides by it, and the same records, read back from a ledger, make the same book.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from engine.leases.records import Record, Token


class Orphan(enum.Enum):
    """What becomes of a whole shard under its final name that has no COMMIT."""

    ADOPT = "adopt"
    """Its token was current when the driver ended, and nobody has been given its documents since."""
    SET_ASIDE = "set aside"
    """Its documents may have been given to another node, or embedded by another run; it was never committed."""
    LEDGER_IS_OLDER = "the ledger is older than the shard"
    """Tokens are durable before anybody has them: records are missing, so nothing can be said."""


@dataclass(slots=True)
class Lease:
    """A part of the queue that a node holds.

    Attributes:
        number: Unique within the epoch.
        token: Of the node that holds it.
        pass_number: Pass over the queue that it belongs to.
        first, last: Its pieces of the cut: from `first` up to, not including, `last`.
        low, high: Its bounds, of the reader's own kind: from `low` up to, not including, `high`.
        documents: An estimate.
        is_done: Whether all of it is committed or in quarantine.
    """

    number: int
    token: Token
    pass_number: int
    first: int
    last: int
    low: Any
    high: Any
    documents: int
    is_done: bool = False


@dataclass(slots=True)
class Holder:
    """What the book knows of a token.

    Attributes:
        node: Name of the node.
        is_revoked: Whether a record has ended it.
        rows: Rows in its committed shards.
        unmarked: Its committed shards whose documents are not marked yet.
        leases: Its leases by their numbers.
    """

    node: str
    is_revoked: bool = False
    rows: int = 0
    unmarked: set[str] = field(default_factory=set)
    leases: dict[int, Lease] = field(default_factory=dict)

    @property
    def held(self) -> list[Lease]:
        """Its leases that are not done."""
        return [lease for lease in self.leases.values() if not lease.is_done]


class LeaseBook:
    """What the records of a ledger amount to, as far as leases go; it takes them in one by one.

    Attributes:
        epoch: The last one.
        holders: By token; those of the last epoch only.
        committed: Every committed shard, with the token that it was written under, None for one of a run without nodes.
        unmarked: Committed shards, whoever wrote them, whose documents are not marked yet.
    """

    def __init__(self, *, is_marking: bool = True) -> None:
        """
        Args:
            is_marking: Whether documents are marked; when not, a document is settled by the COMMIT of its shard.
        """
        self._is_marking = is_marking
        self.epoch = 0
        self.holders: dict[Token, Holder] = {}
        self.committed: dict[str, Token | None] = {}
        self.unmarked: set[str] = set()
        self._before: dict[Token, Holder] = {}
        self._last_numbers: dict[int, int] = {}

    def apply(self, record: Record) -> None:
        """Take one record in; types it does not know are left alone."""
        kind = record.get("type")
        if kind == "COMMIT":
            self._commit(record)
        elif kind == "MARKED":
            self._mark(record["shard"])
        elif kind == "EPOCH":
            self.epoch = int(record["epoch"])
            self._before, self.holders = self.holders, {}
        elif kind == "TOKEN":
            token = Token.parse(record["token"])
            self.holders[token] = Holder(record["node"])
            self._last_numbers[token.epoch] = token.number
        elif kind == "LEASE":
            lease = _lease_of(record)
            self.holders[lease.token].leases[lease.number] = lease
        elif kind == "DONE":
            self.holders[Token.parse(record["token"])].leases[record["lease"]].is_done = True
        elif kind == "REVOKED":
            self.holders[Token.parse(record["token"])].is_revoked = True

    def is_current(self, token: Token) -> bool:
        """Whether shards of a token are committed now."""
        holder = self.holders.get(token)
        return holder is not None and not holder.is_revoked

    def judge_orphan(self, token: Token) -> Orphan:
        """What a recovery, behind its EPOCH record and before any lease, does with a shard that has no COMMIT.

        The epoch right before is the only one in which nobody else can have worked since.
        """
        if token.number > self._last_numbers.get(token.epoch, 0):
            return Orphan.LEDGER_IS_OLDER
        holder = self._before.get(token)
        is_last = token.epoch == self.epoch - 1 and not self.holders
        return Orphan.ADOPT if is_last and holder is not None and not holder.is_revoked else Orphan.SET_ASIDE

    def _commit(self, record: Record) -> None:
        shard = record["shard"]
        if self._is_marking:
            self.unmarked.add(shard)
        token = Token.parse(record["token"]) if "token" in record else None
        self.committed[shard] = token
        if token in self.holders:
            self.holders[token].rows += int(record["rows"])
            if self._is_marking:
                self.holders[token].unmarked.add(shard)

    def _mark(self, shard: str) -> None:
        self.unmarked.discard(shard)
        token = self.committed.get(shard)
        if token in self.holders:
            self.holders[token].unmarked.discard(shard)


def lease_record(lease: Lease) -> Record:
    """The LEASE record of a lease."""
    return {
        "type": "LEASE",
        "token": str(lease.token),
        "lease": lease.number,
        "pass": lease.pass_number,
        "first": lease.first,
        "last": lease.last,
        "low": lease.low,
        "high": lease.high,
        "documents": lease.documents,
    }


def _lease_of(record: Record) -> Lease:
    return Lease(
        number=record["lease"],
        token=Token.parse(record["token"]),
        pass_number=record["pass"],
        first=record["first"],
        last=record["last"],
        low=record["low"],
        high=record["high"],
        documents=record["documents"],
    )
