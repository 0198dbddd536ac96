"""A node of a cluster, as the driver knows it: its session, its pipeline, the leases it holds, and what it came to."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from engine.cluster.remote import NodeLifecycle, RemoteGeneration, RemoteStage
from engine.leases.book import Lease
from engine.leases.records import Token
from engine.ledger.commits import Settling
from engine.memory.channels import Message
from engine.supervision.lifecycle import Phase
from engine.supervision.pipeline import Pipeline
from engine.supervision.proof import HourlyCounter, Proofs


class NodeState(enum.Enum):
    """Where a node stands; also what the summary says of it."""

    STARTING = "starting"
    """Its process starts, or looks at its servers."""
    READY = "ready"
    """Its servers are the right ones; it has no token yet."""
    WORKING = "working"
    """It has a token."""
    WAITING = "waiting"
    """It failed, and is tried again later."""
    REFUSED = "refused"
    """Its servers are not those of the data set, or it failed too often: it is not used any more in this run."""
    LOST = "lost"
    """It is gone."""
    DONE = "done"
    """It has ended with the run."""


@dataclass(slots=True)
class Given:
    """A lease that a node's reader has been given.

    Attributes:
        is_told: Whether the reader has it.
        sequence: Number of its last batch, None while it is being read.
        granted: Documents that it may read of it, None for all.
        is_begun: Whether the reader has had it, and was granted too little to read it to its end if it has it no more.
        skipped: Documents in quarantine from before the run that the reader had met by then.
    """

    lease: Lease
    is_told: bool = False
    sequence: int | None = None
    granted: int | None = None
    is_begun: bool = False
    skipped: int = 0


@dataclass(slots=True, kw_only=True)
class Node:
    """One node.

    Attributes:
        id: What the cluster calls it.
        name: What people call it.
        session: Its node process.
        why: Why it is in its state, for people.
        brief: What its doctor found.
        retry_at_s: When a waiting one is tried again (monotonic).
        token: While it is working.
        generation, pipeline, lifecycle, settling: Likewise.
        given: Its leases that are not done, in the order in which they are read.
        is_waiting: Whether it has been told that there is no part for it now.
        quarantine_offset: How much of the quarantine file it has.
        commits: Shards of the session that are committed and not settled.
        committed_rows, quarantined, skipped_done: Of the session: rows committed; documents that came into quarantine;
            documents that had been there before the run, in leases that are done.
        documents, parts, restarts: Of the whole run.
        bottleneck: What set its pace in its last session.
        agent_cpu_s: Processor time of its node process in this session.
        failures: Sessions that have failed.
        proofs: Which of its servers have drifted, over all its sessions.
    """

    id: str
    name: str
    session: int = 0
    state: NodeState = NodeState.STARTING
    why: str = ""
    brief: Message | None = None
    retry_at_s: float = 0.0
    token: Token | None = None
    generation: RemoteGeneration | None = None
    pipeline: Pipeline[RemoteStage] | None = None
    lifecycle: NodeLifecycle | None = None
    settling: Settling | None = None
    given: deque[Given] = field(default_factory=deque)
    is_waiting: bool = False
    quarantine_offset: int = 0
    commits: int = 0
    committed_rows: int = 0
    quarantined: int = 0
    skipped_done: int = 0
    documents: int = 0
    parts: int = 0
    restarts: int = 0
    bottleneck: str = ""
    agent_cpu_s: float = 0.0
    failures: HourlyCounter = field(default_factory=HourlyCounter)
    proofs: Proofs = field(default_factory=Proofs)

    @property
    def has_parts_to_read(self) -> bool:
        """Whether its reader has been given parts that it has not read to their end."""
        return any(given.is_told and given.sequence is None for given in self.given)

    @property
    def is_settled(self) -> bool:
        """Whether all that it has read is settled."""
        return self.lifecycle is not None and self.lifecycle.phase is Phase.SETTLING and not self.commits

    @property
    def n_unread(self) -> int:
        """Parts that it holds and has not read to their end."""
        return sum(given.sequence is None for given in self.given)

    def end_session(self) -> None:
        """Forget what is of its session alone."""
        self.token = self.generation = self.pipeline = self.lifecycle = self.settling = None
        self.given.clear()
        self.commits = self.committed_rows = self.quarantined = self.skipped_done = 0

    def as_dict(self) -> dict[str, Any]:
        """Its part of the summary."""
        found: dict[str, Any] = {
            "node": self.name,
            "state": self.state.value,
            "documents": self.documents,
            "parts": self.parts,
            "restarts": self.restarts,
        }
        return {**found, "why": self.why} if self.why else found
