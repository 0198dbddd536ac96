"""The lease machine: who works on which part of the queue, and whose shards are committed.

Pure: no sockets, no clock, no files. Events come in with their time, actions go out in the order in which they are to
be carried out (`engine.leases.actions`), all of them before the next event comes in; what has to outlive the driver is
a record in the ledger before anybody acts upon it. The protocol, crash by crash: docs/protocols/leases.md. What makes
it exact:

    L1  a piece of the queue is in the leases of one current token at most
    L2  a shard is committed only while its token is current; the answer to a name that is committed stays yes
    L3  what a revoked token held is leased again only when every shard committed under that token is marked
    L4  no token is used twice: the epoch of the driver's start is in it, and only those of this epoch are current
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ProtocolError
from engine.leases.actions import (
    Action,
    Affirm,
    Append,
    Commit,
    Give,
    Joined,
    PassDone,
    Refuse,
    Revoke,
    Wait,
)
from engine.leases.book import Holder, Lease, LeaseBook, lease_record
from engine.leases.pieces import FreePieces
from engine.leases.records import Record, Token
from engine.leases.sizing import LeasePolicy, Rate, lease_size, total_rate

_RATES_EVERY_S = 1.0
"""Rates of all nodes are added up that often, not for everybody who asks."""


@dataclass(slots=True)
class _Node:
    """What is known of a node beyond the ledger, for as long as its token is current."""

    heard_at: float
    rate: Rate = field(default_factory=Rate)
    documents: int = 0
    held: int = 0
    told_at: dict[int, float] = field(default_factory=dict)


class Leases:
    """The lease machine of one epoch.

    Attributes:
        book: What the ledger says; every record goes through it.
    """

    def __init__(self, book: LeaseBook, policy: LeasePolicy | None = None) -> None:
        """
        Args:
            book: Of the ledger, with the EPOCH record of this start in it and behind recovery: everything committed
                before is marked.

        Raises:
            ProtocolError: it is not.
        """
        if book.unmarked or book.holders or not book.epoch:
            raise ProtocolError("leases begin behind a recovery: with a new epoch, and every committed shard marked")
        self.book = book
        self._policy = policy or LeasePolicy()
        self._bounds: Sequence[Any] = ()
        self._free = FreePieces(())
        self._piece_documents = 0
        self._pass_number = 0
        self._is_pass_done = True
        self._nodes: dict[Token, _Node] = {}
        self._held = 0
        self._waiting: dict[Token, None] = {}
        self._returning: dict[Token, list[Lease]] = {}
        self._n_tokens = self._n_leases = 0
        self._ticked_at: float | None = None
        self._rates_at, self._total = -math.inf, 0.0

    # -- what the driver asks -----------------------------------------------------------------------------------

    @property
    def tokens(self) -> list[Token]:
        """Tokens that are current."""
        return list(self._nodes)

    @property
    def documents_left(self) -> int:
        """Estimate of the documents of this pass that are not embedded yet, those on their way back left out."""
        return self._free.documents + self._held

    def rate(self, token: Token) -> float | None:
        """Documents a second of a node, None while unknown."""
        return self._nodes[token].rate.value if token in self._nodes else None

    def is_current(self, token: Token) -> bool:
        """Whether what a node says counts; ask before taking its quarantine records, too."""
        return token in self._nodes

    # -- events -------------------------------------------------------------------------------------------------

    def begin_pass(self, bounds: Sequence[Any], documents: Sequence[int], now: float) -> list[Action]:
        """Begin a pass over the queue, cut into pieces.

        Args:
            bounds: Boundaries in the order of the queue, JSON values of the reader's own; a piece lies between two
                neighbours. The first is below everything, the last above, so that no document lies outside.
            documents: Estimate for each piece. They decide how large leases are, and nothing else.

        Raises:
            ProtocolError: a pass is going on, or the numbers do not fit.
        """
        if not self._is_pass_done:
            raise ProtocolError(f"pass {self._pass_number} over the queue is not done")
        if len(bounds) != len(documents) + 1 or not documents:
            raise ProtocolError(f"{len(bounds)} boundaries do not cut a queue into {len(documents)} pieces")
        self._bounds, self._free = bounds, FreePieces(documents)
        self._piece_documents = self._free.documents // len(documents)
        self._pass_number += 1
        self._is_pass_done = False
        return self._serve_waiting(now)

    def join(self, node: str, now: float) -> list[Action]:
        """A node is there, or is there again: a new token, with which it may ask."""
        self._n_tokens += 1
        token = Token(self.book.epoch, self._n_tokens)
        record = {"type": "TOKEN", "token": str(token), "node": node}
        actions: list[Action] = [self._append(record), Joined(node, token)]
        self._nodes[token] = _Node(now)
        return actions

    def ask(self, token: Token, now: float) -> list[Action]:
        """A node wants a lease: at its start, and while it has not enough to read."""
        node = self._hear(token, now)
        if node is None:
            return [self._stranger(token)]
        lease = self._lease(token, node, now)
        if lease is not None:
            return lease
        self._waiting[token] = None
        return [Wait(token)]

    def heartbeat(self, token: Token, now: float, *, documents: int, holds: Iterable[int]) -> list[Action]:
        """A node lives.

        Args:
            documents: That it has embedded since it joined.
            holds: Numbers of the leases that it knows of and has not said done of.
        """
        node = self._hear(token, now)
        if node is None:
            return [self._stranger(token)]
        self._hold(node, -min(node.held, max(0, documents - node.documents)))
        node.documents = max(node.documents, documents)
        leases = self.book.holders[token].held
        if leases:
            node.rate.take(now, node.documents)
        else:
            node.rate.pause()
        known = set(holds)
        actions: list[Action] = []
        for lease in leases:
            if lease.number not in known and now - node.told_at[lease.number] >= self._policy.repeat_s:
                node.told_at[lease.number] = now
                actions.append(Give(token, lease))
        if token in self._waiting:
            actions += self._serve((token,), now)
        return actions

    def propose(self, token: Token, shard: str, rows: int, now: float) -> list[Action]:
        """A node has a whole shard and wants it committed (L2). The same proposal again gets the same answer."""
        node = self._hear(token, now)
        if shard in self.book.committed:
            holder = self.book.committed[shard]
            if holder in (token, None):  # none: a recovery has adopted it
                return [Affirm(token, shard)]
            return [Refuse(token, shard, f"its name is that of a shard of token {holder}", is_name_taken=True)]
        if node is None:
            return [Refuse(token, shard, self._why_void(token))]
        self.book.apply({"type": "COMMIT", "shard": shard, "rows": rows, "token": str(token)})
        return [Commit(token, shard)]

    def marked(self, shard: str, now: float) -> list[Action]:
        """The MARKED record of a shard is durable; what its node held may be free now (L3)."""
        self.book.apply({"type": "MARKED", "shard": shard})
        token = self.book.committed.get(shard)
        if token is None or token not in self._returning:
            return self._look_for_end()
        self._put_back(token)
        return self._serve_waiting(now)

    def done(self, token: Token, number: int, now: float) -> list[Action]:
        """All that a node has read of a lease is committed or in quarantine; said again, it changes nothing."""
        node = self._hear(token, now)
        if node is None:
            return [self._stranger(token)]
        lease = self.book.holders[token].leases.get(number)
        if lease is None:
            raise ProtocolError(f"token {token} never had lease {number}")
        if lease.is_done:
            return []
        record = {"type": "DONE", "token": str(token), "lease": number}
        actions: list[Action] = [self._append(record)]
        del node.told_at[number]
        still = sum(other.documents for other in self.book.holders[token].held)
        self._hold(node, min(node.held, still) - node.held)
        if token in self._waiting:
            actions += self._serve((token,), now)
        return actions + self._look_for_end()

    def lost(self, token: Token, now: float, why: str) -> list[Action]:
        """A node is gone, leaves, or has to begin anew: its token ends, and what it held is leased again (L3)."""
        if token not in self._nodes:
            return []
        return self._revoke(token, why) + self._serve_waiting(now)

    def tick(self, now: float) -> list[Action]:
        """The clock; about once a second. Messages that wait are to be handed in before it."""
        before, self._ticked_at = self._ticked_at, now
        if before is not None and now - before > self._policy.lease_s / 2:  # it was the driver that was away
            for node in self._nodes.values():
                node.heard_at = max(node.heard_at, now - self._policy.lease_s / 2)
        actions: list[Action] = []
        for token, node in list(self._nodes.items()):
            silent_s = now - node.heard_at
            if silent_s > self._policy.lease_s:
                actions += self._revoke(token, f"nothing was heard of it for {silent_s:.0f} s")
        return actions + self._serve_waiting(now) if actions else []

    # -- how ----------------------------------------------------------------------------------------------------

    def _append(self, record: Record) -> Append:
        self.book.apply(record)
        return Append(record)

    def _hear(self, token: Token, now: float) -> _Node | None:
        node = self._nodes.get(token)
        if node is not None:
            node.heard_at = max(node.heard_at, now)
        return node

    def _stranger(self, token: Token) -> Revoke:
        return Revoke(token, self._why_void(token))

    def _why_void(self, token: Token) -> str:
        if token.epoch != self.book.epoch:
            return f"token {token} is of another start of the driver, this one is {self.book.epoch}"
        return f"token {token} has ended"

    def _hold(self, node: _Node, documents: int) -> None:
        node.held += documents
        self._held += documents

    def _lease(self, token: Token, node: _Node, now: float) -> list[Action] | None:
        """A lease for a node, None when there is none for it now."""
        policy, rate = self._policy, node.rate.value
        if not len(self._free) or len(node.told_at) >= policy.leases_a_node:
            return None
        if not self._total or now - self._rates_at >= _RATES_EVERY_S:
            self._rates_at, self._total = now, total_rate([other.rate.value for other in self._nodes.values()])
        size = lease_size(
            policy,
            total=self._total,
            own=rate,
            embedded=node.documents,
            n_nodes=len(self._nodes),
            left=self.documents_left,
            held=node.held,
        )
        enough = self._piece_documents if rate is None else rate * policy.ahead_s
        if node.told_at and size < self._free.next_documents and node.held > enough:
            return None
        first, last, documents = self._free.take(max(size, self._piece_documents))
        self._n_leases += 1
        lease = Lease(
            number=self._n_leases,
            token=token,
            pass_number=self._pass_number,
            first=first,
            last=last,
            low=self._bounds[first],
            high=self._bounds[last],
            documents=documents,
        )
        self._hold(node, documents)
        node.told_at[lease.number] = now
        return [self._append(lease_record(lease)), Give(token, lease)]

    def _serve(self, tokens: Iterable[Token], now: float) -> list[Action]:
        """Give what is free now to some of those who wait."""
        actions: list[Action] = []
        for token in tokens:
            if not len(self._free):
                break
            given = self._lease(token, self._nodes[token], now)
            if given is not None:
                del self._waiting[token]
                actions += given
        return actions

    def _serve_waiting(self, now: float) -> list[Action]:
        """Give what is free now to those who wait, and notice the end of a pass."""
        return self._serve(list(self._waiting), now) + self._look_for_end()

    def _look_for_end(self) -> list[Action]:
        if self._is_pass_done or not self._is_over():
            return []
        self._is_pass_done = True
        return [PassDone(self._pass_number)]

    def _is_over(self) -> bool:
        if len(self._free) or self._returning or self.book.unmarked:
            return False
        return not any(node.told_at for node in self._nodes.values())

    def _revoke(self, token: Token, why: str) -> list[Action]:
        node, holder = self._nodes.pop(token), self.book.holders[token]
        self._waiting.pop(token, None)
        self._hold(node, -node.held)
        actions: list[Action] = [
            self._append({"type": "REVOKED", "token": str(token), "why": why}),
            Revoke(token, why),
        ]
        self._returning[token] = holder.held
        self._put_back(token)
        return actions

    def _put_back(self, token: Token) -> None:
        """Free what a revoked token held, unless shards of it wait for their marks: a reader would read them again."""
        holder: Holder = self.book.holders[token]
        if holder.unmarked:
            return
        rows = holder.rows - sum(lease.documents for lease in holder.leases.values() if lease.is_done)
        for lease in self._returning.pop(token):
            self._free.put_back(lease.first, lease.last, max(0, rows))
            rows -= lease.documents
