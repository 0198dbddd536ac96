"""A run over many nodes as a command starts it: the way to the nodes, one vector space for all of them, the supervisor.

Every node examines its own servers, in its own process, before anything is embedded. What it finds is compared with
the data set that the ledger describes, at a first start with what most nodes find.
"""

from __future__ import annotations

import logging
import os
import selectors
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from commands.cluster.job import as_message
from commands.cluster.queues import open_queue
from commands.cluster.ray_nodes import RayNodes
from commands.cluster.witness import leave_witness
from commands.options.secrets import RunSecrets
from engine.cluster.node import Node, NodeState
from engine.cluster.roster import Roster
from engine.cluster.supervisor import ClusterSupervisor
from engine.config import RunConfig
from engine.errors import ConfigError, ServersUnavailable
from engine.leases.records import Token
from engine.ledger import durable
from engine.ledger.log import Ledger, RunState
from engine.memory.channels import Message
from engine.ray_address import RayAddress
from engine.records import Fingerprint
from gpu_clients.servers.canary import Canary
from gpu_clients.vectors.soundness import MIN_COSINE
from writers.cold.settings import ColdSettings

if TYPE_CHECKING:
    from commands.composition.files.inspection import Files

_log = logging.getLogger("engine.cluster")

NODES_S = 30.0
"""How long a start waits for a first node, once the cluster answers."""
_SERVERS_S = 60.0
"""How long it waits for a first node whose servers answer."""
_SAY_S = 20.0
"""How often it says that the cluster does not answer yet."""
_TICK_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorSpace:
    """What the servers of a node give.

    Attributes:
        fingerprint: What they say of their vectors.
        canary, canary_brief: Their vectors of the canary texts, whole and in brief.
    """

    fingerprint: Fingerprint
    canary: str
    canary_brief: str

    @classmethod
    def of(cls, brief: Message) -> VectorSpace:
        """That of a node's examination."""
        return cls(
            fingerprint=Fingerprint.from_dict(brief["fingerprint"]),
            canary=brief["canary"],
            canary_brief=brief["canary_brief"],
        )

    def why_not(self, other: VectorSpace) -> str | None:
        """Why vectors of another one may not stand beside these, None when they may."""
        phrases = self.fingerprint.differences(other.fingerprint)
        if not phrases:
            cosine = Canary.decode(self.canary).agrees_with(Canary.decode(other.canary))
            if not cosine >= MIN_COSINE:
                phrases.append(f"its vectors of the canary texts are others (cosine {cosine:.4f})")
        if not phrases:
            return None
        return f"its servers do not serve the vector space of this data set: {', '.join(phrases)}"


class Driver:
    """The parts of a run over many nodes that a run on one machine has not."""

    def __init__(
        self,
        config: RunConfig,
        secrets: RunSecrets,
        ray: RayAddress,
        files: Files | None,
        cold: ColdSettings | None,
        stack: ExitStack,
    ) -> None:
        """Start the way to the nodes; `stack` ends it.

        Args:
            files: What is read instead of MongoDB, or None.
            cold: The store, None when cold is a folder.

        Raises:
            ConfigError: Ray is not installed.
            SinkError: nothing can be written where shards go.
        """
        self._config = config
        self._queue = open_queue(config, secrets.mongo_uri, files)
        self._ray = ray
        witness = leave_witness(config, cold, stack)
        run = as_message(config, secrets)
        job = {
            "run": run,
            "witness": witness,
            "files": self._queue.witness,
            "failpoints": os.environ.get(durable.FAILPOINTS_ENV),
        }
        self._nodes = RayNodes(ray.address, ray.resource, config.folders.hot / "ray.log")
        stack.callback(self._nodes.close)
        self._roster = Roster(self._nodes, job)
        self._space: VectorSpace | None = None
        self._record: Message = {}

    @property
    def limits(self) -> str:
        """The line of the log that says what is fixed."""
        return f"limits nodes={len(self._roster.nodes)} resource={self._ray.resource} pid={os.getpid()}"

    def examine(self, state: RunState) -> VectorSpace:
        """Wait until the nodes that are there have examined their servers; the vector space to work in.

        Args:
            state: The ledger: what the data set was begun with decides.

        Raises:
            ConfigError: no node, or none whose servers are the right ones.
            ServersUnavailable: no node whose servers answer.
        """
        began_s = time.monotonic()
        said_s = began_s
        seen_s: float | None = None
        while True:
            for _ in self._roster.advance():
                pass  # nobody works yet
            now = time.monotonic()
            if self._roster.has_seen and seen_s is None:
                seen_s = now
            elif not self._roster.has_seen and now - said_s > _SAY_S:
                said_s = now
                self._say_what_is_waited_for(now - began_s)
            ready = self._roster.in_state(NodeState.READY)
            if self._roster.is_settled and ready:
                return self._choose(ready, state)
            if seen_s is not None and not self._roster.nodes and now - seen_s > NODES_S:
                raise ServersUnavailable(
                    f"no node of the Ray cluster at {self._ray.address} offers the resource {self._ray.resource}: see "
                    "`ray status`, or name another one with --ray-resource"
                )
            if self._roster.nodes and self._roster.is_settled:
                self._refuse_if_hopeless(now - (seen_s or began_s))
            with selectors.DefaultSelector() as selector:
                selector.register(self._roster.cluster.wake_fd, selectors.EVENT_READ)
                selector.select(_TICK_S)

    def _say_what_is_waited_for(self, waited_s: float) -> None:
        """Ray itself tries without a word, for minutes, to reach a head that does not answer or wants another token."""
        _log.warning(
            "waiting_for_ray address=%s seconds=%.0f last_words=%r",
            self._ray.address,
            waited_s,
            self._nodes.last_words(),
        )

    def _refuse_if_hopeless(self, waited_s: float) -> None:
        """Give up when no node can work, and waiting will not help, or has not helped."""
        waiting = self._roster.in_state(NodeState.WAITING)
        said = "; ".join(f"{node.name}: {node.why}" for node in self._roster.nodes.values())
        if not waiting:
            raise ConfigError(f"no node can take part ({said})")
        if waited_s > min(_SERVERS_S, self._config.limits.max_outage_s):
            raise ServersUnavailable(f"no node has a server that answers ({said})")

    def _choose(self, ready: list[Node], state: RunState) -> VectorSpace:
        """The vector space of the data set, or of most nodes; the others are refused by name."""
        spaces = {node.id: VectorSpace.of(node.brief) for node in ready if node.brief is not None}
        if state.run is not None:
            there = Fingerprint.from_dict(state.run["fingerprint"])
            fitting = [space for space in spaces.values() if not there.differences(space.fingerprint)]
            self._space = (fitting or list(spaces.values()))[0]
        else:
            self._space = max(
                spaces.values(), key=lambda space: sum(space.why_not(other) is None for other in spaces.values())
            )
        for node in ready:
            if node.brief is not None:
                for warning in node.brief["warnings"]:
                    _log.warning("%s: %s", node.name, warning)
        return self._space

    def why_not(self, brief: Message) -> str | None:
        """Why a node cannot take part, None when it can."""
        assert self._space is not None  # it was chosen before any node works
        return self._space.why_not(VectorSpace.of(brief))

    def job(self, token: Token) -> Message:
        """What a node is told when its generation is to begin."""
        assert self._space is not None  # it was chosen before any node works
        return {
            "record": self._record,
            "token": str(token),
            "canary": self._space.canary,
            "canary_brief": self._space.canary_brief,
            "files": self._queue.job,
        }

    def supervisor(self, *, ledger: Ledger[RunState], **common: Any) -> ClusterSupervisor:
        """The supervisor of all nodes; see `engine.cluster.supervisor`."""
        self._record = {
            name: value for name, value in (ledger.state.run or {}).items() if name not in ("canary", "canary_brief")
        }
        return ClusterSupervisor(
            roster=self._roster, queue=self._queue, why_not=self.why_not, job=self.job, ledger=ledger, **common
        )
