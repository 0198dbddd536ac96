"""The end of a node's session: what is accounted for, and what is left of it on the disk."""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Iterable

from engine.cluster.node import Node
from engine.cluster.ports import SessionLost
from engine.cluster.roster import Roster
from engine.errors import SinkError
from engine.leases.book import LeaseBook
from engine.leases.records import Token
from engine.ledger.log import RunState
from engine.ledger.runfolder import RunFolders
from engine.ports import Shards
from engine.supervision.run_totals import RunTotals

_log = logging.getLogger("engine.cluster")

_TICK_S = 0.25


def account(node: Node, totals: RunTotals, *, crashed: bool, stopped: bool) -> None:
    """Account for what a node's session did: what is settled, nothing else.

    Args:
        crashed: Whether it was lost. What it found unfit is in quarantine then, and no other node meets it again.
        stopped: Whether the run is being stopped.
    """
    generation = node.generation
    if generation is None:
        return
    for client in generation.clients():
        if "client" in client.facts:
            client.facts["client"]["node"] = node.name
    totals.add_generation(generation, committed_rows=node.committed_rows, crashed=crashed, stopped=stopped)
    totals.add_cpu(generation)
    node.bottleneck = totals.bottleneck
    totals.tally.agents_cpu_s += node.agent_cpu_s
    node.agent_cpu_s = 0.0
    if crashed:
        totals.tally.quarantined += node.quarantined + node.skipped_done
        totals.tally.read += node.quarantined + node.skipped_done


def bottleneck_of(nodes: Iterable[Node]) -> str:
    """What set the pace, node by node."""
    found = {node.name: node.bottleneck for node in nodes if node.bottleneck and node.documents}
    return "; ".join(f"{name}: {what}" for name, what in found.items()) or "nothing to judge by: no node has worked"


def let_finish(roster: Roster, nodes: Iterable[Node], timeout_s: float) -> None:
    """Have node processes end by themselves, and take in the processor time that their processes took."""
    awaited = {node.id for node in nodes}
    for identity in awaited:
        roster.send(roster.nodes[identity], {"do": "exit"})
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(roster.cluster.wake_fd, selectors.EVENT_READ)
        while awaited and time.monotonic() < deadline:
            for node, news in roster.advance():
                if isinstance(news, SessionLost):
                    awaited.discard(node.id)
                elif news["event"] == "finished" and node.generation is not None:
                    node.generation.take_cpu(news)
                    node.agent_cpu_s = news["agent_cpu_s"]
                    awaited.discard(node.id)
            if awaited:
                selector.select(_TICK_S)


def sweep(folders: RunFolders, shards: Shards, prefix: str, book: LeaseBook, state: RunState) -> None:
    """Remove what lost nodes have left: nothing of it is committed, and others have embedded it.

    What cannot be removed now the next start removes.
    """
    lost = {token for token, holder in book.holders.items() if holder.is_revoked}
    if not lost:
        return
    try:
        names = {path.name for path in folders.shards.glob(f"{prefix}*")} | {*shards.elsewhere(prefix)}
        for name in sorted(names):
            if Token.of_shard(name) in lost and name.partition(".")[0] not in state.commits:
                shards.remove(name)
    except (SinkError, OSError) as error:
        _log.warning("shards_of_lost_nodes_stay reason=%r: the next start removes them", str(error))
