"""A world around the lease machine: a driver that is killed, nodes that are, zombies, and messages that go astray.

Documents are numbers, a piece of the queue holds `PER_PIECE` of them. Nodes follow docs/protocols/leases.md; and
whatever the machine lets them do is done at once and for good, so that a wrong word of it shows in the shards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

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
)
from engine.leases.book import Lease, LeaseBook, Orphan
from engine.leases.machine import Leases
from engine.leases.records import Record, Token
from engine.leases.sizing import LeasePolicy

PER_PIECE = 3
LEASE_S = 10.0
Message = tuple[Any, ...]


class Killed(Exception):
    """The driver was killed between two actions."""


@dataclass(eq=False)
class Node:
    """One incarnation of a node: it reads, seals, proposes, and says done.

    Attributes:
        inbox: Messages on their way to it.
        read: Documents of each lease that it has read; None when the lease is read to its end.
        pending: Shards that it has proposed, with their documents, until it knows the answer.
    """

    token: Token
    inbox: list[Message] = field(default_factory=list)
    leases: dict[int, Lease] = field(default_factory=dict)
    skip: dict[int, set[int]] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)
    open_rows: list[tuple[int, int]] = field(default_factory=list)
    pending: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    said_done: set[int] = field(default_factory=set)
    n_shards: int = 0
    n_read: int = 0
    is_over: bool = False

    def read_on(self, n_documents: int, marks: set[int]) -> None:
        """Read some documents of the first lease that is not read to its end: those that are not marked."""
        for number, lease in self.leases.items():
            at = self.positions[number]
            if at == lease.high:
                continue
            end = min(lease.high, at + n_documents)
            self.positions[number] = end
            rows = [(number, row) for row in range(at, end) if row not in marks and row not in self.skip[number]]
            self.open_rows += rows
            self.n_read += len(rows)
            return

    def is_settled(self, number: int) -> bool:
        """Whether a lease is read to its end and all that was read of it is known to be committed."""
        if self.positions[number] != self.leases[number].high:
            return False
        return not any(number == of for rows in (self.open_rows, *self.pending.values()) for of, _ in rows)


class World:
    """Everything around the machine.

    Attributes:
        ledger: Records as they stand in the file.
        shards: Documents of every committed shard.
    """

    def __init__(self, n_pieces: int, *, is_marking: bool, make: Callable[..., Leases] = Leases) -> None:
        self.n_pieces = n_pieces
        self._is_marking, self._make = is_marking, make
        self.ledger: list[bytes] = []
        self.marks: set[int] = set()
        self.files: dict[str, list[int]] = {}
        self.shards: dict[str, list[int]] = {}
        self.nodes: list[Node] = []
        self.post: list[Message] = []
        self.now = 0.0
        self.is_pass_done = False
        self.kill_after: int | None = None
        self.start_driver()

    @property
    def n_documents(self) -> int:
        """Documents in all."""
        return self.n_pieces * PER_PIECE

    # -- the driver ---------------------------------------------------------------------------------------------

    def start_driver(self) -> None:
        """Recover and begin: the records are all that is left of the one before."""
        epoch = 1 + sum(record["type"] == "EPOCH" for record in self.records())
        self._append({"type": "EPOCH", "epoch": epoch})
        book = self.rebuilt()
        for name in sorted(self.files.keys() - self.shards.keys()):
            judgement = book.judge_orphan(Token.parse(name.partition("/")[0]))
            assert judgement is not Orphan.LEDGER_IS_OLDER
            if judgement is Orphan.ADOPT:
                self._append({"type": "COMMIT", "shard": name, "rows": len(self.files[name])})
                self.shards[name] = self.files[name]
            else:
                del self.files[name]
        for name in sorted(self.rebuilt().unmarked):
            self._mark(name)
        self.leases = self._make(self.rebuilt(), LeasePolicy(lease_s=LEASE_S, repeat_s=1.0))
        self._begin_pass()

    def _begin_pass(self) -> None:
        self.is_pass_done = False
        bounds = range(0, self.n_documents + 1, PER_PIECE)
        self.hand_in(lambda: self.leases.begin_pass(bounds, [PER_PIECE] * self.n_pieces, self.now))

    def add_documents(self) -> None:
        """Documents have come meanwhile: once a pass is done, another one looks for them."""
        if self.is_pass_done and self.leases.tokens:
            self.n_pieces += 1
            self._begin_pass()

    def records(self) -> list[Record]:
        """The ledger, read back."""
        return [orjson.loads(line) for line in self.ledger]

    def rebuilt(self) -> LeaseBook:
        """The book that the ledger amounts to."""
        book = LeaseBook(is_marking=self._is_marking)
        for record in self.records():
            book.apply(record)
        return book

    def hand_in(self, event: Callable[[], list[Action]]) -> None:
        """Hand an event to the machine and carry out what it says; killed in between, a new driver starts."""
        try:
            self.carry_out(event())
        except Killed:
            self.start_driver()

    def carry_out(self, actions: list[Action]) -> None:
        """Carry actions out in their order."""
        for action in actions:
            if self.kill_after is not None:
                self.kill_after -= 1
                if self.kill_after < 0:
                    self.kill_after = None
                    raise Killed
            if isinstance(action, Append):
                self._append(action.record)
            elif isinstance(action, Commit):
                self._commit(action)
            elif isinstance(action, Joined):
                self.nodes.append(Node(action.token))
            elif isinstance(action, PassDone):
                self.is_pass_done = True
            else:
                settled = {row for rows in self.shards.values() for row in rows}
                self._tell(action.token, (action, settled if isinstance(action, Give) else None))

    def _commit(self, action: Commit) -> None:
        assert action.shard in self.files, "a shard is committed without its file"
        rows = self.files[action.shard]
        self._append({"type": "COMMIT", "shard": action.shard, "rows": len(rows), "token": str(action.token)})
        assert action.shard not in self.shards, "a shard is committed once"
        self.shards[action.shard] = rows
        self._tell(action.token, (Affirm(action.token, action.shard), None))

    def _tell(self, token: Token, message: Message) -> None:
        for node in self.nodes:
            if node.token == token:
                node.inbox.append(message)

    def _append(self, record: Record) -> None:
        self.ledger.append(orjson.dumps(record))

    def _mark(self, shard: str) -> None:
        self.marks.update(self.shards[shard])
        self._append({"type": "MARKED", "shard": shard, "gone": 0})

    def mark_one(self, which: int) -> None:
        """Have the documents of some committed shard marked."""
        waiting = sorted(self.leases.book.unmarked)
        if waiting:
            shard = waiting[which % len(waiting)]
            self._mark(shard)
            self.hand_in(lambda: self.leases.marked(shard, self.now))

    # -- messages -----------------------------------------------------------------------------------------------

    def deliver(self, which: int, *, again: bool = False) -> None:
        """Let a message arrive at the driver, in any order; `again` leaves a copy on its way."""
        if not self.post:
            return
        message = self.post[which % len(self.post)]
        if not again:
            self.post.remove(message)
        kind, token, *rest = message
        leases, now = self.leases, self.now
        if kind == "ask":
            self.hand_in(lambda: leases.ask(token, now))
        elif kind == "heartbeat":
            self.hand_in(lambda: leases.heartbeat(token, now, documents=rest[0], holds=rest[1]))
        elif kind == "propose":
            self.hand_in(lambda: leases.propose(token, rest[0], rest[1], now))
        elif kind == "done":
            self.hand_in(lambda: leases.done(token, rest[0], now))

    def lose(self, which: int) -> None:
        """A message to the driver gets lost."""
        if self.post:
            del self.post[which % len(self.post)]

    def hear(self, node: Node, which: int, *, again: bool = False) -> None:
        """Let a message arrive at a node, in any order."""
        if not node.inbox or node.is_over:
            return
        action, settled = node.inbox[which % len(node.inbox)]
        if not again:
            del node.inbox[which % len(node.inbox)]
        if isinstance(action, Give):
            number = action.lease.number
            if number not in node.leases:
                node.leases[number], node.positions[number] = action.lease, action.lease.low
                node.skip[number] = set() if self._is_marking else settled
        elif isinstance(action, Affirm):
            node.pending.pop(action.shard, None)
        elif isinstance(action, Refuse | Revoke):
            node.is_over = True  # rings and open shard are thrown away
            if isinstance(action, Refuse) and not action.is_name_taken:
                self.files.pop(action.shard, None)

    # -- nodes --------------------------------------------------------------------------------------------------

    def seal(self, node: Node) -> None:
        """A node names its open shard and proposes it."""
        if node.open_rows and not node.is_over:
            node.n_shards += 1
            name = f"{node.token}/{node.n_shards}"
            self.files[name] = [row for _, row in node.open_rows]
            node.pending[name], node.open_rows = node.open_rows, []
            self.speak(node)

    def speak(self, node: Node) -> None:
        """A node says all that it has to say, and what it has not been answered once more."""
        if node.is_over:
            return
        for name, rows in node.pending.items():
            self.post.append(("propose", node.token, name, len(rows)))
        for number in node.leases:
            if node.is_settled(number):
                node.said_done.add(number)
                self.post.append(("done", node.token, number))
        self.post.append(("heartbeat", node.token, node.n_read, tuple(node.leases.keys() - node.said_done)))
        self.post.append(("ask", node.token))

    # -- what must hold -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """What must hold after every step."""
        rows = [row for shard in self.shards.values() for row in shard]
        assert len(rows) == len(set(rows)), "a document is in two committed shards"
        book = self.leases.book
        held = [piece for who in book.holders.values() if not who.is_revoked for lease in who.held
                for piece in range(lease.first, lease.last)]  # fmt: skip
        assert len(held) == len(set(held)), "a piece has two current tokens"
        if self.is_pass_done:
            assert set(rows) == set(range(self.n_documents)), "a document is lost"
            assert self.marks == (set(rows) if self._is_marking else set())

    def check_rebuilt(self) -> None:
        """The book that the ledger amounts to is the one that was lived."""
        book, again = self.leases.book, self.rebuilt()
        assert (again.epoch, again.holders, again.committed, again.unmarked) == (
            book.epoch,
            book.holders,
            book.committed,
            book.unmarked,
        ), "the book that is rebuilt is not the one that was lived"

    def finish(self) -> None:
        """From here on messages arrive and one new node stays: it must end, whatever was before."""
        self.kill_after = None
        self.hand_in(lambda: self.leases.join("last", self.now))
        last = self.nodes[-1]
        for _ in range(20 * self.n_documents):
            if self.is_pass_done:
                break
            self.now += 1.0
            if last.is_over:
                raise AssertionError("a node that is heard all the time keeps its token")
            last.read_on(PER_PIECE, self.marks)
            self.seal(last)
            self.speak(last)
            while self.post:
                self.deliver(0)
            while last.inbox:
                self.hear(last, 0)
            while self.leases.book.unmarked:
                self.mark_one(0)
            self.hand_in(lambda: self.leases.tick(self.now))
            self.check()
        assert self.is_pass_done, "it does not end"
        self.check_rebuilt()
