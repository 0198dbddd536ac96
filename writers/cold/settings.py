"""What a process is told of the cold store."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from engine.objects.url import ColdUrl

if TYPE_CHECKING:
    from engine.objects.object_store import ObjectStore

SHARDS = "shards"
CONSOLIDATED = "consolidated"
READ_BUDGET_S = 120.0
"""How long commands that only read wait for a store that does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdSettings:
    """Where objects go, and how the store is dealt with; this and the environment are all that a process needs.

    Attributes:
        url: The store.
        prefix: Beneath it, `<database>.<collection>`.
        by_e_tag: Whether its ETags are the MD5 of objects (`writers.cold.preflight`).
        budget_s: Seconds that one act may wait for the store in all its tries.
        largest_bytes: Size of the largest file that is uploaded.
        keeps_copies: Whether the copy on hot of a shard that the store has stays until its documents are settled, for
            those who mark them here; on a node nobody does.
    """

    url: ColdUrl
    prefix: str
    by_e_tag: bool = False
    budget_s: float = 600.0
    largest_bytes: int = 0
    keeps_copies: bool = True

    def open(self) -> ObjectStore:
        """The store; imports the library."""
        from engine.objects.object_store import ObjectStore  # noqa: PLC0415 - only a URL pays for it

        return ObjectStore(self.url, self.prefix, largest_bytes=self.largest_bytes)

    def as_dict(self) -> dict[str, Any]:
        """For the message that starts a process."""
        return {**asdict(self), "url": self.url.as_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ColdSettings:
        """Read `as_dict` back."""
        return cls(**{**values, "url": ColdUrl.from_dict(values["url"])})
