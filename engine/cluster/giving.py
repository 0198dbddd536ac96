"""What a node's reader is given: parts of the queue, and before them what is known to be in quarantine."""

from __future__ import annotations

from engine.cluster.budget import Budget
from engine.cluster.node import Node
from engine.cluster.ports import SharedQueue
from engine.cluster.roster import Roster
from engine.leases.book import LeaseBook
from engine.ledger.quarantine import Quarantine
from engine.memory.channels import Message

_PORTION_BYTES = 64 << 10


class Giving:
    """Gives parts to readers.

    Attributes:
        quarantine_before: Bytes of the quarantine file that were there before the run.
    """

    def __init__(self, roster: Roster, quarantine: Quarantine, queue: SharedQueue, budget: Budget) -> None:
        self._roster = roster
        self._queue = queue
        self._budget = budget
        self._quarantine = quarantine
        self.quarantine_before = quarantine.size

    def send_quarantine(self, node: Node) -> None:
        """Bring a node's copy of the quarantine file up to date: what others have found unfit is not read again."""
        while portion := self._quarantine.read(node.quarantine_offset, _PORTION_BYTES):
            node.quarantine_offset += len(portion)
            self._roster.send(node, {"do": "quarantine", "lines": portion.decode()})

    def introduce(self, node: Node) -> None:
        """Tell a node what it has to know before it begins."""
        self.send_quarantine(node)
        for message in self._queue.before_all():
            self._roster.send(node, message)

    def give_parts(self, node: Node, book: LeaseBook) -> None:
        """Tell a node's reader of the parts that it holds and does not know yet."""
        generation, lifecycle = node.generation, node.lifecycle
        assert generation is not None and lifecycle is not None  # it is working
        for given in node.given:
            if given.is_told or given.sequence is not None or not lifecycle.may_read or not self._budget.may_give():
                continue
            if given.is_begun and not node.is_settled:
                return  # what it has read of it would be offered to it again
            self.send_quarantine(node)
            lease = given.lease
            given.granted = self._budget.grant(node.session, lease.number, lease.documents)
            for message in self._queue.before_part(lease, book, is_begun=given.is_begun):
                self._roster.send(node, message)
            lifecycle.resume()
            given.is_told = given.is_begun = True
            generation.command(
                "reader",
                do="part",
                number=lease.number,
                range={"lease": lease.number, "low": lease.low, "high": lease.high},
                counts=lease.pass_number == 1,
                limit=given.granted,
            )

    def part_read(self, node: Node, message: Message) -> None:
        """A reader has read a part: to its end, or as far as was granted; then it may be given once more later.

        Before that all that the node has read is settled: a part is read again less what is settled, and what waits for
        that is in the memory of a reader alone, which forgets it while it reads.
        """
        given = next((one for one in node.given if one.lease.number == message["number"]), None)
        if given is None:
            return
        is_whole = message["is_whole"]
        self._budget.read(node.session, given.lease.number, message["read"], is_whole=is_whole)
        if is_whole:
            given.sequence, given.skipped = message["sequence"], message["skipped"]
        else:
            given.is_told = False
