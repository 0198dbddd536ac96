"""What the lease machine tells the driver to do, in order: what stands behind a record waits until it is durable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from engine.leases.book import Lease
from engine.leases.records import Record, Token


@dataclass(frozen=True, slots=True)
class Append:
    """Append a record to the ledger, durably; when that fails the driver ends, and nothing behind it is done."""

    record: Record


@dataclass(frozen=True, slots=True)
class Joined:
    """Tell a node its token."""

    node: str
    token: Token


@dataclass(frozen=True, slots=True)
class Give:
    """Tell the node of a token of its lease; may come more than once for the same lease, and counts once."""

    token: Token
    lease: Lease


@dataclass(frozen=True, slots=True)
class Wait:
    """Tell the node of a token that there is nothing for it now; a Give follows if that changes."""

    token: Token


@dataclass(frozen=True, slots=True)
class Commit:
    """Append the COMMIT record of a shard with its token, durably, then tell the node yes, and have it marked."""

    token: Token
    shard: str


@dataclass(frozen=True, slots=True)
class Affirm:
    """Tell the node yes once more: the shard has been committed before, for the same token."""

    token: Token
    shard: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the node no: the shard is not committed and never will be.

    Attributes:
        is_name_taken: Whether the name is that of a committed shard: then the file is not the node's to remove.
    """

    token: Token
    shard: str
    why: str
    is_name_taken: bool = False


@dataclass(frozen=True, slots=True)
class Revoke:
    """Tell the node of a token to stop: the token has ended. It may join again, for another one."""

    token: Token
    why: str


@dataclass(frozen=True, slots=True)
class PassDone:
    """Every part of the pass is done and every committed shard is marked."""

    number: int


Action: TypeAlias = Append | Joined | Give | Wait | Commit | Affirm | Refuse | Revoke | PassDone
