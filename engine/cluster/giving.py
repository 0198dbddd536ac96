"""What a node's reader is given: parts of the queue, and before them what is known to be in quarantine."""

from __future__ import annotations

from engine.cluster.node import Node
from engine.cluster.roster import Roster
from engine.ledger.quarantine import Quarantine

_PORTION_BYTES = 64 << 10


class Giving:
    """Gives parts to readers.

    Attributes:
        quarantine_before: Bytes of the quarantine file that were there before the run.
    """

    def __init__(self, roster: Roster, quarantine: Quarantine) -> None:
        self._roster = roster
        self._quarantine = quarantine
        self.quarantine_before = quarantine.size

    def send_quarantine(self, node: Node) -> None:
        """Bring a node's copy of the quarantine file up to date: what others have found unfit is not read again."""
        while portion := self._quarantine.read(node.quarantine_offset, _PORTION_BYTES):
            node.quarantine_offset += len(portion)
            self._roster.send(node, {"do": "quarantine", "lines": portion.decode()})

    def give_parts(self, node: Node) -> None:
        """Tell a node's reader of the parts that it holds and does not know yet."""
        generation, lifecycle = node.generation, node.lifecycle
        assert generation is not None and lifecycle is not None  # it is working
        for given in node.given:
            if given.is_told or not lifecycle.may_read:
                continue
            self.send_quarantine(node)
            lifecycle.resume(generation)
            given.is_told = True
            lease = given.lease
            generation.command(
                "reader",
                do="part",
                number=lease.number,
                range={"low": lease.low, "high": lease.high},
                counts=lease.pass_number == 1,
            )
