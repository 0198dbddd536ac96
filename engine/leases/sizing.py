"""How large a lease is: large at first, smaller towards the end, larger for fast nodes (weighted factoring).

Whoever asks gets a fraction of its fair share of what is left, so that all nodes finish at about the same time whatever
their speeds are and become. Source: Hummel, Schmidt, Uma, Wein, "Load-sharing in heterogeneous systems via weighted
factoring" (SPAA 1996).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasePolicy:
    """The numbers that leases go by.

    Attributes:
        lease_s: Silence after which a node's token ends.
        repeat_s: How long a node that does not say that it knows of a lease is left before it is told again.
        leases_a_node: Leases that a node may hold at a time, those included that it has read and not committed yet.
            When it needs one it knows best itself: it asks while fewer than two of its leases are unread.
        ahead_s: A node with less work than this is given a piece more whatever its share is, so that it never pauses;
            while its rate is not known, one with less than a piece.
        most_s: How long a lease keeps its node busy at most: nodes may join that would have had a share of it.
        fraction: Of a node's fair share of what is left, what it holds at most after a lease.
    """

    lease_s: float = 30.0
    repeat_s: float = 5.0
    leases_a_node: int = 64
    ahead_s: float = 10.0
    most_s: float = 600.0
    fraction: float = 0.5


RATED_EVERY_S = 5.0
"""Rates are taken over this time at least: over less they would be those of single shards."""
_WEIGHT_OF_NEWS = 0.3


class Rate:
    """Documents a second of one node, from counts that only grow.

    Attributes:
        value: The rate, None while it is not known.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._since: tuple[float, int] | None = None

    def take(self, now: float, documents: int) -> None:
        """Take in how many documents it has embedded."""
        if self._since is None:
            self._since = now, documents
            return
        seconds = now - self._since[0]
        if seconds < RATED_EVERY_S:
            return
        rate = (documents - self._since[1]) / seconds
        self.value = rate if self.value is None else self.value + _WEIGHT_OF_NEWS * (rate - self.value)
        self._since = now, documents

    def pause(self) -> None:
        """Forget where it began: a node that has nothing to do is not slow."""
        self._since = None


def total_rate(rates: list[float | None]) -> float:
    """Documents a second of all nodes; one whose rate is not known counts as the mean of the others."""
    known = [rate for rate in rates if rate]
    return sum(known) * len(rates) / len(known) if known else 0.0


def lease_size(
    policy: LeasePolicy, *, total: float, own: float | None, embedded: int, n_nodes: int, left: int, held: int
) -> int:
    """Documents for a node that asks; 0 when more would make it the last to finish.

    A node whose rate is not known yet is trusted with as much again as it has embedded, so that its leases double.

    Args:
        total: Documents a second of all nodes.
        own: Of the one that asks, None while unknown.
        embedded: Documents that it has embedded since it joined.
        n_nodes: How many nodes there are.
        left: Documents of the pass that are not embedded yet, held by nodes or free.
        held: Those of them that it holds.
    """
    share, most = (left * own / max(total, own), own * policy.most_s) if own else (left / n_nodes, embedded)
    return max(0, int(min(share * policy.fraction, most)) - held)
