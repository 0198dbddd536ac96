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
        leases_a_node: Leases that a node may hold: the one that it reads, and the next.
        ahead_s: A node with less work than this is given a piece more whatever its share is, so that it never pauses.
        most_documents: Documents of a lease at most, about.
        fraction: Of a node's fair share of what is left, what it holds at most after a lease.
        first_fraction: The same while its rate is not known.
    """

    lease_s: float = 30.0
    repeat_s: float = 5.0
    leases_a_node: int = 2
    ahead_s: float = 10.0
    most_documents: int = 5_000_000
    fraction: float = 0.5
    first_fraction: float = 0.125


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


def lease_size(policy: LeasePolicy, *, rates: list[float | None], own: float | None, left: int, held: int) -> int:
    """Documents for a node that asks; 0 when more would make it the last to finish.

    Args:
        rates: Of all nodes, None where unknown.
        own: Of the one that asks.
        left: Documents of the pass that are not embedded yet, held by nodes or free.
        held: Those of them that it holds.
    """
    known = [rate for rate in rates if rate]
    mean = sum(known) / len(known) if known else 1.0
    total = sum(known) + mean * (len(rates) - len(known))
    share = (own or mean) / total
    fraction = policy.first_fraction if own is None else policy.fraction
    return max(0, min(policy.most_documents, int(left * share * fraction) - held))
