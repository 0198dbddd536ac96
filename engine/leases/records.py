"""Tokens, and the records of leases in the ledger.

    TOKEN    a node has joined: token, node
    LEASE    it holds a part of the queue: token, lease, pass, first, last, low, high, documents
    DONE     all of that part is committed or in quarantine: token, lease
    REVOKED  the token has ended, with all its leases: token, why
    COMMIT   as ever, and the token that the shard was written under

TOKEN and LEASE are durable before the node is told, REVOKED before another node gets any of what it held. Their number
grows with nodes and leases, never with documents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from engine.errors import ProtocolError

Record = dict[str, Any]
_FORM = re.compile(r"([1-9][0-9]*)-([1-9][0-9]*)")
_IN_NAMES = re.compile(r"-e(\d+)n(\d+)-\d+(?:\.|$)")


@dataclass(frozen=True, slots=True, order=True)
class Token:
    """The right of one incarnation of a node to have shards committed; its text is `3-17`.

    A node that is started again, or begins a generation anew, is another incarnation and has another token.

    Attributes:
        epoch: The start of the driver that gave it. Epochs grow, so no token of an earlier one is ever current again.
        number: Which one of that epoch, from 1.
    """

    epoch: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read `3-17`.

        Raises:
            ProtocolError: that is no token.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ProtocolError(f"{text!r} is no token; expected epoch and number, such as 3-17")
        return cls(int(found[1]), int(found[2]))

    @property
    def in_names(self) -> str:
        """How names of shards tell it: `e0003n0017`."""
        return f"e{self.epoch:04d}n{self.number:04d}"

    @classmethod
    def of_shard(cls, name: str) -> Token | None:
        """The token in a shard's name, None for one that was not written by a node."""
        found = _IN_NAMES.search(name)
        return None if found is None else cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"
