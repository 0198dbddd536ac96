"""How many documents may still be read (`--limit`), shared out among the parts of all nodes.

A part is given with a grant: as many documents as its reader may read of it. What it does not need comes back, and what
was read by a node that is lost comes back but for what is committed or in quarantine. So what is read in all is never
more than the limit, and it is all of it while there is work.

Whether work is left is looked at as on one machine: when nothing is granted any more and the limit is spent, parts are
given with a grant of nothing, one at a time, until a reader finds a document in one of them.
"""

from __future__ import annotations

_SPARE, _LEAST = 2, 100
"""A part is granted more than it is thought to have: one that is granted too little is read in two goes."""


class Budget:
    """The documents of one run.

    Attributes:
        limit: All of them, None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._granted: dict[tuple[int, int], int] = {}
        self._spent: dict[int, int] = {}
        self._has_found_more = False

    @property
    def left(self) -> int:
        """Documents that are neither granted nor read; there has to be a limit."""
        assert self.limit is not None
        return self.limit - sum(self._granted.values()) - sum(self._spent.values())

    @property
    def is_spent(self) -> bool:
        """Whether the limit is reached while work is left: nobody is to read any more."""
        return self.limit is not None and self._has_found_more and not self._granted and self.left == 0

    def may_give(self) -> bool:
        """Whether a part may be given now."""
        return self.limit is None or self.left > 0 or not (self._granted or self._has_found_more)

    def grant(self, session: int, lease: int, documents: int) -> int | None:
        """How many documents a reader may read of a part; None for all.

        Args:
            documents: About how many there are.
        """
        if self.limit is None:
            return None
        granted = min(self.left, _SPARE * documents + _LEAST)
        if granted:
            self._has_found_more = False
        self._granted[session, lease] = granted
        return granted

    def read(self, session: int, lease: int, documents: int, *, is_whole: bool) -> None:
        """A part was read, to its end or as far as was granted."""
        if self.limit is None:
            return
        del self._granted[session, lease]
        self._spent[session] = self._spent.get(session, 0) + documents
        if not is_whole and self.left == 0:
            self._has_found_more = True

    def lost(self, session: int, settled: int) -> None:
        """A node is lost.

        Args:
            settled: Documents of its session that are committed or in quarantine.
        """
        if self.limit is None:
            return
        self._granted = {key: number for key, number in self._granted.items() if key[0] != session}
        self._spent[session] = settled
        self._has_found_more = self._has_found_more and self.left == 0
