"""Nodes that do what a script says: the real driver, ledger and files, and no processes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.cluster.ports import Cut, Heard, News, NodesSeen, SessionLost
from engine.cluster.roster import Roster
from engine.cluster.supervisor import ClusterSupervisor
from engine.leases.book import Lease, LeaseBook
from engine.ledger.log import Ledger, RunState
from engine.ledger.quarantine import Quarantine
from engine.ledger.runfolder import RunFolders, RunLock
from engine.memory.channels import Message
from engine.supervision.run_plan import RunPlan
from engine.supervision.signals import SignalInbox
from tests.engine.supervision.world import FINGERPRINT, LEDGER, SCHEMA
from writers.cold.settings import ColdSettings
from writers.cold.shards import ColdShards
from writers.shards.store import ParquetShards

PREFIX = f"done-{LEDGER[:6]}-"
PIECES = 6
ROWS = 10


class ScriptedQueue:
    """`engine.cluster.ports.SharedQueue` of a few numbered pieces."""

    job = None
    witness = None

    def cut(self, n_nodes: int) -> Cut:
        """See the protocol."""
        return [str(number) for number in range(PIECES + 1)], [ROWS] * PIECES

    def before_all(self) -> list[Message]:
        """See the protocol."""
        return []

    def before_part(self, lease: Lease, book: LeaseBook, *, is_begun: bool) -> list[Message]:
        """See the protocol."""
        return []


@dataclass
class ScriptedNodes:
    """`engine.cluster.ports.Nodes` without machines: each node embeds a part as soon as it is told of it.

    Attributes:
        names: The nodes that there are.
        store: Takes the shards; None when they go to the folder.
        disturb: Asked before a node answers a command to read a part: what it does instead, or None.
    """

    folder: Path
    names: tuple[str, ...] = ("a", "b")
    disturb: Callable[[ScriptedNodes, int, str, Message], bool] = lambda *_: False
    store: Callable[[str, bytes], None] | None = None
    news: list[News] = field(default_factory=list)
    node_of: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, str] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    sealed: dict[int, int] = field(default_factory=dict)
    shards: dict[int, int] = field(default_factory=dict)
    parts: dict[int, int] = field(default_factory=dict)
    have: dict[tuple[int, str, str], int] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wake_fd = os.eventfd(1, os.EFD_CLOEXEC)  # always readable: nobody waits here
        self.news.append(NodesSeen({name: name for name in self.names}))

    def collect(self) -> list[News]:
        """See the protocol."""
        found, self.news = self.news, []
        return found

    def begin(self, session: int, node: str, job: Message) -> None:
        """See the protocol."""
        self.node_of[session] = node
        self.rows[session] = self.sealed[session] = self.shards[session] = self.parts[session] = 0
        self.tell(session, {"event": "examined", "n_clients": 1})

    def end(self, session: int) -> None:
        """See the protocol."""
        self.ended.append(session)

    def tell(self, session: int, *messages: Message) -> None:
        """Let a node say something."""
        self.news.append(Heard(session, list(messages)))

    def lose(self, session: int) -> None:
        """Let a node die."""
        self.news.append(SessionLost(session, "killed by the script"))

    def send(self, session: int, message: Message) -> None:
        """See the protocol."""
        if message["do"] == "begin":
            self.tokens[session] = message["token"]
        elif message["do"] == "exit":
            cpu = {"reader": 0.0, "client-0": 0.0, "writer": 0.0}
            self.tell(session, {"event": "finished", "cpu_s": cpu, "agent_cpu_s": 0.0})
        elif message["do"] == "command":
            self._obey(session, message["role"], message["command"])

    def _obey(self, session: int, role: str, command: Message) -> None:
        if command["do"] == "part" and not self.disturb(self, session, role, command):
            self.embed(session, command)
        elif command["do"] == "drain":
            self.seal(session)
            self.tell(session, self.says("writer", "drained", rows=command["rows"]))

    def embed(self, session: int, command: Message) -> None:
        """A part is read and embedded; its rows are in the open shard."""
        part = session, command["range"]["low"], command["range"]["high"]
        n_left = ROWS * (int(part[2]) - int(part[1])) - self.have.get(part, 0)
        n_rows = n_left if command["limit"] is None else min(n_left, command["limit"])
        self.have[part] = self.have.get(part, 0) + n_rows
        self.rows[session] += n_rows
        self.parts[session] += 1
        facts = {"read": n_rows, "is_whole": n_rows == n_left, "skipped": 0}
        told = {"number": command["number"], "found": n_rows, "sequence": self.parts[session] - 1, **facts}
        done = {"documents": self.rows[session], "found": n_rows, "parts": self.parts[session]}
        self.tell(
            session,
            self.says("client-0", "client", rows=self.rows[session], state="idle", url="http://s"),
            self.says("reader", "reader", documents=self.rows[session]),
            self.says("reader", "part_done", **told),
            self.says("reader", "pass_done", **done),
        )

    def seal(self, session: int) -> str:
        """The open shard is durable, and proposed; returns its name."""
        self.shards[session] += 1
        epoch, number = self.tokens[session].split("-")
        name = f"{PREFIX}e{int(epoch):04d}n{int(number):04d}-{self.shards[session]:06d}"
        data = name.encode()
        if self.store is None:
            (self.folder / f"{name}.parquet").write_bytes(data)
        else:
            self.store(f"{name}.parquet", data)
        facts = {
            "shard": name,
            "file": f"{name}.parquet",
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "rows": self.rows[session] - self.sealed[session],
            "id_digest": "",
            "first_id": "",
            "last_id": "",
            "truncated": 0,
            "sequences": [0, 0],
            "epoch": int(epoch),
        }
        self.sealed[session] = self.rows[session]
        self.tell(session, self.says("writer", "sealed", facts=facts, ranges=[[0, self.parts[session] - 1]]))
        return name

    @staticmethod
    def says(role: str, event: str, **facts: Any) -> Message:
        """What a process of a node tells, as the node relays it."""
        return {"event": "from", "role": role, "message": {"event": event, **facts}}


def run(
    folder: Path,
    nodes: ScriptedNodes,
    why_not: Callable[[Message], str | None] = lambda _: None,
    cold: ColdSettings | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """A run over scripted nodes, without marks; its summary."""
    folders = RunFolders.of(folder / "hot", folder / "cold" if cold is None else cold.url, "db", "c", "done")
    folders.make()
    lock = RunLock(folders.lock)
    ledger = Ledger(folders.ledger, RunState())
    quarantine = Quarantine(folders.quarantine)
    try:
        return ClusterSupervisor(
            roster=_ready(Roster(nodes, {}), nodes),
            queue=ScriptedQueue(),
            why_not=why_not,
            job=lambda token: {"token": str(token)},
            plan=RunPlan(
                name="db.c.done",
                collection="db.c",
                prefix=PREFIX,
                rings=None,
                stages=None,
                limit=limit,
                max_time_s=None,
                max_outage_s=60.0,
            ),
            folders=folders,
            lock_fd=lock.fd,
            ledger=ledger,
            shards=ParquetShards(folders.shards, SCHEMA, FINGERPRINT, LEDGER)
            if cold is None
            else ColdShards(folders.shards, SCHEMA, FINGERPRINT, LEDGER, cold),
            marker=None,
            quarantine=quarantine,
            observers=[],
            signals=SignalInbox(),
        ).run()
    finally:
        quarantine.close()
        ledger.close()
        lock.release()
        os.close(nodes.wake_fd)


def _ready(roster: Roster, nodes: ScriptedNodes) -> Roster:
    while not roster.is_settled:
        assert not list(roster.advance())
    assert len(roster.nodes) == len(nodes.names)
    return roster
