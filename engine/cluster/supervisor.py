"""The supervisor of a run over many nodes: one ledger, one lock, one recovery path, and a pipeline on every node.

Everything that makes a run exact is what it is on one machine: a shard is committed by this process alone, its
documents are marked by this process alone. What is added is who may have a shard committed (`engine.leases`): the
nodes read parts of the queue that they hold by leases, and a shard of a node whose token has ended is refused.
A node that dies costs its open shard; the others do not notice.
"""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Callable, Iterable
from typing import Any

from engine.cluster.budget import Budget
from engine.cluster.ending import account, bottleneck_of, let_finish, sweep
from engine.cluster.figures import AllNodes
from engine.cluster.giving import Giving
from engine.cluster.node import Given, Node, NodeState
from engine.cluster.node_events import NodeEvents
from engine.cluster.ports import Cut, SessionLost, SharedQueue
from engine.cluster.remote import NodeLifecycle, RemoteGeneration
from engine.cluster.roster import Roster
from engine.errors import ServersUnavailable, SinkError
from engine.leases.actions import Action, Append, Commit, Give, PassDone, Refuse, Revoke, Wait
from engine.leases.book import LeaseBook
from engine.leases.machine import Leases
from engine.leases.records import Token
from engine.leases.sizing import LeasePolicy
from engine.ledger import durable
from engine.ledger.commits import Ranges, Settling
from engine.ledger.log import each_record
from engine.memory.channels import Message
from engine.records import ShardFacts
from engine.supervision.lifecycle import MAX_PASSES, Phase, Stop
from engine.supervision.pipeline import Crashed, Pipeline
from engine.supervision.proof import RowsRefused
from engine.supervision.supervisor import FINISH_S, TICK_S, Supervisor

_log = logging.getLogger("engine.cluster")

POLICY = LeasePolicy(lease_s=20.0)
_UNREAD_PARTS = 2
"""Parts that a node has before it: one that it reads, and one that it goes on with at once."""

Receipt = tuple[str, Node, int, Ranges]


class ClusterSupervisor(Supervisor):
    """The supervisor of one run over many nodes."""

    _leases: Leases  # there is none before the recovery, which leases begin behind

    def __init__(
        self,
        *,
        roster: Roster,
        queue: SharedQueue,
        why_not: Callable[[Message], str | None],
        job: Callable[[Token], Message],
        **common: Any,
    ) -> None:
        """
        Args:
            roster: The nodes, with those that are ready already.
            queue: What the nodes work on.
            why_not: Why a node with such servers cannot take part, or None.
            job: What a node is told when its generation is to begin.
            common: See `Supervisor`.
        """
        super().__init__(**common)
        self._roster = roster
        self._queue = queue
        self._why_not = why_not
        self._job = job
        self._budget = Budget(self._plan.limit)
        self._giving = Giving(roster, self._quarantine, queue, self._budget)
        self._found = 0
        self._is_pass_done = False
        self._is_over = False
        self._alone_since_s: float | None = None
        self._totals.nodes = lambda: [node.as_dict() for node in self._roster.by_name]

    # -- the run ------------------------------------------------------------------------------------------------

    def _run_generation(self) -> None:
        self._tally.generations += 1
        self._lifecycle.begin(limit=None)
        self._commits.begin()
        book = LeaseBook(is_marking=self._marker is not None)
        for record in each_record(self._ledger.path):
            book.apply(record)
        self._leases = Leases(book, POLICY)
        self._begin_pass(self._queue.cut(max(1, len(self._roster.in_state(NodeState.READY)))))
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals.fd, selectors.EVENT_READ)
            selector.register(self._roster.cluster.wake_fd, selectors.EVENT_READ)
            if self._commits.wake_fd is not None:
                selector.register(self._commits.wake_fd, selectors.EVENT_READ)
            while not self._is_over:
                selector.select(TICK_S)
                self._take_news()
                self._handle_signals()
                self._collect_marks()
                self._act(self._leases.tick(time.monotonic()))
                self._admit()
                for node in self._working():
                    self._advance(node)
                self._look_whether_it_is_over()
                self._tick_all()
        let_finish(self._roster, self._working(), 2 * FINISH_S)
        self._end_generation(kill=False)
        sweep(self._folders, self._shards, self._plan.prefix, self._leases.book, self._ledger.state)

    def _working(self) -> list[Node]:
        return self._roster.in_state(NodeState.WORKING)

    def _begin_pass(self, cut: Cut) -> None:
        self._found, self._is_pass_done = 0, False
        bounds, documents = cut
        self._act(self._leases.begin_pass(bounds, documents, time.monotonic()))

    def _look_whether_it_is_over(self) -> None:
        if self._stop is not None:
            self._is_over = all(node.lifecycle.phase is Phase.FINISHED for node in self._working() if node.lifecycle)
            return
        if self._budget.is_spent and self._commits.is_over and all(node.is_settled for node in self._working()):
            self._is_over = self._lifecycle.work_left = True
            return
        if not self._is_pass_done:
            return
        if self._marker is None or not self._found or self._lifecycle.pass_number >= MAX_PASSES:
            self._is_over = True
            return
        self._lifecycle.pass_number += 1
        self._begin_pass(([None, None], [self._found]))

    # -- what nodes tell ----------------------------------------------------------------------------------------

    def _take_news(self) -> None:
        for node, news in self._roster.advance():
            if isinstance(news, SessionLost):
                self._lose(node, news.why)
                continue
            try:
                self._take(node, news)
            except RowsRefused as refused:
                self._totals.failed("refusal", f"{node.name}: {refused}")
                self._tally.refusals += 1
                self._lose(node, str(refused), is_crash=False)
            except Crashed as crashed:
                self._lose(node, str(crashed))

    def _take(self, node: Node, message: Message) -> None:
        generation, pipeline, token = node.generation, node.pipeline, node.token
        assert generation is not None and pipeline is not None and token is not None  # it is working
        event = message["event"]
        if event == "from":
            child = generation.role(message["role"])
            child.heard_at_s = time.monotonic()
            pipeline.take(child, message["message"])
        elif event == "figures":
            generation.take_figures(message)
            node.agent_cpu_s = message["agent_cpu_s"]
            for role, facts in message["facts"]:
                pipeline.take(generation.role(role), facts)
            documents = sum(child.facts.get("client", {}).get("rows", 0) for child in generation.clients())
            holds = [given.lease.number for given in node.given]
            self._act(self._leases.heartbeat(token, time.monotonic(), documents=documents, holds=holds))
        elif event == "child_ended":
            child = generation.role(message["role"])
            child.ended = message["code"]
            pipeline.child_ended(child)
        elif event == "unfit":
            raise Crashed(f"{node.name} cannot begin: {message['message']}")

    def part_read(self, node: Node, message: Message) -> None:
        """The reader of a node has read a part to its end."""
        assert node.generation is not None and node.lifecycle is not None  # it is working
        node.lifecycle.part_read(node.generation)
        self._giving.part_read(node, message)
        self._found += message["found"]
        self._note_done(node)

    def commit_shard(self, node: Node, facts: ShardFacts, ranges: Ranges) -> None:
        """Commit a shard of a node, if its token is current."""
        assert node.token is not None  # it is working
        (answer,) = self._leases.propose(node.token, facts.shard, facts.rows, time.monotonic())
        if isinstance(answer, Refuse):
            raise Crashed(f"its shard {facts.shard} is refused: {answer.why}")
        if not isinstance(answer, Commit):
            return
        self._require_there(node, facts)
        self._commits.commit(facts, (facts.shard, node, node.session, ranges), token=str(node.token))
        node.commits += 1
        node.committed_rows += facts.rows
        node.documents += facts.rows

    def note_quarantined(self, node: Node, entries: list[dict[str, Any]]) -> None:
        """Take documents of a node that could not be embedded."""
        node.quarantined += self._quarantine.add(entries)

    def _require_there(self, node: Node, facts: ShardFacts) -> None:
        """Refuse a shard that this machine does not see as its node does: then the place is not the same everywhere."""
        size = self._shards.size_there(facts.file)
        if size != facts.bytes:
            here = "it is not there" if size is None else f"it has {size}"
            raise SinkError(
                f"{node.name} has written {facts.bytes} bytes of {facts.file}, but in {self._folders.where}, as the "
                f"driver sees it, {here}: --cold-dir has to be one folder that all nodes share, or a URL"
            )

    def _shard_settled(self, receipt: Receipt) -> None:
        shard, node, session, ranges = receipt
        self._act(self._leases.marked(shard, time.monotonic()))
        if node.session == session and node.settling is not None:
            node.commits -= 1
            node.settling.settle(ranges)
            self._note_done(node)

    def _note_done(self, node: Node) -> None:
        """Give back the leases of which all that was read is settled."""
        settling, lifecycle = node.settling, node.lifecycle
        assert settling is not None and lifecycle is not None  # it is working
        is_drained = lifecycle.phase in (Phase.SETTLING, Phase.FINISHED) and not node.commits
        while node.given and node.token is not None:
            first = node.given[0]
            if first.sequence is None or not (is_drained or first.sequence <= settling.settled_to):
                return
            node.given.popleft()
            node.parts += 1
            node.skipped_done = first.skipped
            self._act(self._leases.done(node.token, first.lease.number, time.monotonic()))

    # -- what nodes are told ------------------------------------------------------------------------------------

    def _act(self, actions: Iterable[Action]) -> None:
        """Carry out what the lease machine says, in its order."""
        for action in actions:
            if isinstance(action, Append):
                durable.point("lease.before")
                self._ledger.append(action.record)
                durable.point("lease.after")
            elif isinstance(action, Give):
                self._give(action)
            elif isinstance(action, Wait):
                self._of_token(action.token).is_waiting = True
            elif isinstance(action, Revoke):
                for node in self._working():
                    if node.token == action.token:
                        self._after_loss(node, action.why)
            elif isinstance(action, PassDone):
                self._is_pass_done = True

    def _of_token(self, token: Token) -> Node:
        return next(node for node in self._roster.nodes.values() if node.token == token)

    def _give(self, action: Give) -> None:
        node = self._of_token(action.token)
        node.is_waiting = False
        if all(given.lease.number != action.lease.number for given in node.given):
            node.given.append(Given(action.lease))

    def _admit(self) -> None:
        """Let nodes in whose servers are the right ones; the others are refused by name."""
        for node in self._roster.in_state(NodeState.READY):
            if self._stop is not None or self._is_pass_done:
                return
            assert node.brief is not None  # it is ready
            if (why := self._why_not(node.brief)) is not None:
                self._roster.refuse(node, why)
                self._totals.failed("node_refused", f"{node.name}: {why}")
                continue
            self._begin_on(node, node.brief)

    def _begin_on(self, node: Node, brief: Message) -> None:
        self._act(self._leases.join(node.name, time.monotonic()))
        node.token = self._leases.tokens[-1]
        session = node.session

        def send(message: Message) -> None:
            self._roster.cluster.send(session, message)

        node.generation = RemoteGeneration(node.token.number, node.name, brief["n_clients"], send)
        node.lifecycle = NodeLifecycle(is_marking=self._marker is not None, has_more=lambda: node.has_parts_to_read)
        node.settling = Settling(lambda command: send({"do": "command", "role": "reader", "command": command}))
        suspects = node.proofs.begin()
        node.pipeline = Pipeline(node.generation, node.lifecycle, node.proofs, NodeEvents(self, node))
        node.is_waiting = False
        node.quarantine_offset = 0
        self._roster.set_state(node, NodeState.WORKING, "")
        self._giving.introduce(node)
        job = self._job(node.token)
        send({**job, "do": "begin", "suspects": suspects, "quarantine_before": self._giving.quarantine_before})
        _log.info("node_working node=%s token=%s servers=%d", node.name, node.token, brief["n_clients"])

    def _advance(self, node: Node) -> None:
        """Let a node's generation move on, and see that it has something to read."""
        generation, lifecycle = node.generation, node.lifecycle
        assert generation is not None and lifecycle is not None  # it is working
        lifecycle.advance(generation, self._stop, marks_are_over=not node.commits or self._commits.is_over)
        self._note_done(node)
        if self._stop is not None or node.token is None:
            return
        if not node.is_waiting and node.n_unread < _UNREAD_PARTS:
            self._act(self._leases.ask(node.token, time.monotonic()))
        self._giving.give_parts(node, self._leases.book)

    def _tell_reader(self, command: Message) -> None:
        for node in self._working():
            if node.generation is not None:
                node.generation.command("reader", **command)

    # -- stopping, the clock, ends ------------------------------------------------------------------------------

    def _stop_reading(self) -> None:
        for node in self._working():
            if node.lifecycle is not None and node.generation is not None:
                node.lifecycle.stop(node.generation)
        if self._lifecycle.has_rows_to_come:
            self._lifecycle.phase = Phase.STOPPING

    def _tick_all(self) -> None:
        self._stop_in_time()
        for node in self._working():
            if node.pipeline is not None:
                try:
                    node.pipeline.watch()
                except Crashed as crashed:
                    self._lose(node, str(crashed))
        self._stop_without_nodes()
        view = AllNodes(self._working(), estimate=self._leases.documents_left)
        committed = sum(node.committed_rows for node in self._working())
        self._totals.publish_when_due(
            view, self._lifecycle, committed_rows=committed, unmarked_rows=self._commits.unmarked_rows
        )

    def _stop_without_nodes(self) -> None:
        """Stop when no node has been at work, with a healthy server, for too long."""
        outages = [node.pipeline.outage_s for node in self._working() if node.pipeline is not None]
        now = time.monotonic()
        if outages:
            self._alone_since_s = None
        elif self._alone_since_s is None:
            self._alone_since_s = now
        alone_s = 0.0 if self._alone_since_s is None else now - self._alone_since_s
        if min(outages, default=alone_s) < self._plan.max_outage_s or self._stop is not None:
            return
        whom = "embedding server was healthy on any node" if outages else "node was at work"
        self._request_stop(
            Stop(
                ServersUnavailable.exit_code,
                f"no {whom} for {self._plan.max_outage_s:g} seconds ({self._totals.last_error or 'no answer'}); what "
                "was embedded is committed; run the same command again when there is one",
            )
        )

    def _lose(self, node: Node, why: str, *, is_crash: bool = True) -> None:
        """A node has died, or what it has open is refused: its token ends, and it may begin anew."""
        if is_crash:
            self._totals.failed("restart", f"{node.name}: {why}")
            self._tally.restarts += 1
        token = node.token
        assert token is not None  # it is working
        actions = self._leases.lost(token, time.monotonic(), why)
        self._act(action for action in actions if isinstance(action, Append))
        self._after_loss(node, why)
        self._act(action for action in actions if not isinstance(action, Append | Revoke))

    def _after_loss(self, node: Node, why: str) -> None:
        _log.error("node_lost node=%s token=%s reason=%r: the others go on", node.name, node.token, why)
        self._budget.lost(node.session, node.committed_rows + node.quarantined)
        account(node, self._totals, crashed=True, stopped=self._stop is not None)
        if self._stop is not None:
            self._roster.end(node)
            self._roster.set_state(node, NodeState.LOST, why)
        else:
            self._roster.begin_again(node, why)

    def _end_generation(self, *, kill: bool, crashed: bool = False) -> None:
        for node in list(self._roster.nodes.values()):
            if node.state is NodeState.WORKING:
                account(node, self._totals, crashed=crashed, stopped=self._stop is not None)
            if node.state in (NodeState.WORKING, NodeState.READY, NodeState.STARTING):
                self._roster.end(node)
                self._roster.set_state(node, NodeState.DONE, "")
        self._totals.bottleneck = bottleneck_of(self._roster.nodes.values())
        self._lifecycle.phase = Phase.FINISHED
