"""A driver around the lease machine, and a fleet of nodes, in virtual time: the machine is the one of a run."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

from bench.measure.load.lease_nodes import Held, Node, Stretch, Stretches, length
from bench.measure.load.virtual_time import Clock, Ideal
from engine.leases.actions import Action, Affirm, Append, Commit, Give, Joined, PassDone, Refuse, Revoke, Wait
from engine.leases.book import LeaseBook
from engine.leases.machine import Leases
from engine.leases.records import Record, Token
from engine.leases.sizing import LeasePolicy
from engine.ledger.log import frame
from engine.ledger.recovery import commit_record
from engine.records import ShardFacts

HEARTBEAT_S, TICK_S, NOTICED_S, RESTART_S = 5.0, 1.0, 5.0, 30.0
SAMPLES_A_PIECE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """What is modelled.

    Attributes:
        rate: Documents a second of a server, on average.
        spread: How much faster the fastest node is than the slowest.
        failure_every: Seconds between two failures in the fleet, 0 for none; in turn a kill that is not noticed, a node
            that is cut off for `cut_off_s` and goes on, and a kill that is noticed.
        replace_s: Until a node that was killed is replaced.
        driver_kills: How often the driver is killed; `recovery_s` later it has recovered.
        pieces_a_node: Pieces of the cut for each node.
        shard_rows, shard_s: When a shard is sealed; `seal_s` later it is proposed.
        message_s: What a message takes.
        mark_s: What marks of a shard take; with `marks_per_s` (0: no limit) they are set one shard after the other.
    """

    nodes: int = 500
    servers: int = 4
    documents: int = 1_000_000_000
    rate: float = 100.0
    spread: float = 3.0
    failure_every: float = 600.0
    replace_s: float = 120.0
    cut_off_s: float = 180.0
    driver_kills: int = 1
    recovery_s: float = 60.0
    pieces_a_node: int = 128
    shard_rows: int = 100_000
    shard_s: float = 60.0
    seal_s: float = 2.0
    message_s: float = 0.01
    mark_s: float = 2.0
    marks_per_s: float = 0.0
    seed: int = 1


class Fleet:
    """The driver and its nodes.

    Attributes:
        counts: Records by their type, `messages`, `failures` and the like.
        bytes: Of records, by their type.
        machine_s, ledger_s: Processor time of the lease machine, and of framing records.
        rebuild_s: Processor time of making the book of a ledger, the last time.
    """

    def __init__(self, config: FleetConfig, policy: LeasePolicy | None = None) -> None:
        self.config, self._policy = config, policy
        self.clock = Clock()
        self.random = random.Random(config.seed)
        spread = config.spread**0.5
        rates = [self.random.uniform(1 / spread, spread) for _ in range(config.nodes)]
        mean = sum(rates) / len(rates) / (config.servers * config.rate)
        self.nodes = [Node(f"node-{number:03d}", rate / mean) for number, rate in enumerate(rates)]
        self.counts: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.machine_s = self.ledger_s = self.rebuild_s = 0.0
        self.ideal = Ideal(config.documents)
        self.committed = Stretches()
        self.is_done = False
        self._marked = Stretches()
        # what lies in the cold folder and is not committed: a proposal on its way outlives the node that made it
        self._files: dict[str, list[tuple[int, Stretch]]] = {}
        self._unmarked: dict[str, list[Stretch]] = {}
        self._marks_free_at = 0.0
        self._cut()
        self._ledger: list[Record] = []
        self._epoch = 0
        self._is_driver_up = False
        self._node_of: dict[Token, Node] = {}
        self._returned: list[Stretch] = []

    def _cut(self) -> None:
        """Pieces that a sample of the keys takes for equal, and that are not."""
        n_pieces = self.config.pieces_a_node * self.config.nodes
        gaps = [self.random.gammavariate(SAMPLES_A_PIECE, 1) for _ in range(n_pieces)]
        scale = self.config.documents / sum(gaps)
        self._starts = [round(scale * found) for found in accumulate(gaps, initial=0.0)]
        self._bounds = [{"lang": "en", "classified": None, "_id": {"$oid": f"{start:024x}"}} for start in self._starts]

    def run(self) -> None:
        """Run a pass from its first to its last document."""
        config = self.config
        self.start_driver()
        if config.failure_every:
            self.clock.at(config.failure_every, self.fail)
        expected_s = config.documents / (config.nodes * config.servers * config.rate)
        for number in range(config.driver_kills):
            self.clock.at(expected_s * (number + 1) / (config.driver_kills + 1), self.kill_driver)
        while not self.is_done:
            self.clock.step()

    # -- the driver ---------------------------------------------------------------------------------------------

    def start_driver(self) -> None:
        """Recover, cut, and have every node join."""
        self._epoch += 1
        self._append({"type": "EPOCH", "epoch": self._epoch, "at": 1.7e9})
        for shard in list(self._unmarked):
            self._mark(shard)
        self._marked.merge()
        began = time.thread_time()
        book = LeaseBook()
        for record in self._ledger:
            book.apply(record)
        self.rebuild_s = time.thread_time() - began
        self.leases = Leases(book, self._policy)
        left = [sum(high - low for low, high in self._marked.missing_in(*piece)) for piece in pairwise(self._starts)]
        mean = sum(left) // max(1, sum(map(bool, left)))
        self._is_driver_up, self._returned = True, []
        self._do(lambda: self.leases.begin_pass(self._bounds, [mean if n else 0 for n in left], self.clock.now))
        for node in self.nodes:
            self.clock.at(self.random.random(), self.start_node, node, node.version)
        self.clock.at(TICK_S, self._tick, self._epoch)

    def kill_driver(self) -> None:
        """The driver is killed, and every node ends with it; it is started again."""
        self.counts["drivers killed"] += 1
        self._is_driver_up = False
        for node in self.nodes:
            self._end(node)
        self.clock.at(self.config.recovery_s, self.start_driver)

    def _tick(self, epoch: int) -> None:
        if self._is_driver_up and epoch == self._epoch:
            self._do(lambda: self.leases.tick(self.clock.now))
            self.clock.at(TICK_S, self._tick, epoch)

    def _do(self, event: Callable[[], list[Action]]) -> None:
        began = time.thread_time()
        actions = event()
        self.machine_s += time.thread_time() - began
        for action in actions:
            self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Append):
            self._append(action.record)
            if action.record["type"] == "REVOKED":
                held = self.leases.book.holders[Token.parse(action.record["token"])].leases.values()
                self._returned += [(lease.first, lease.last) for lease in held]
        elif isinstance(action, PassDone):
            self.is_done = True
            self.ideal.add(0.0, self.clock.now)
        elif isinstance(action, Joined):
            node = next(node for node in self.nodes if node.name == action.node)
            self._node_of[action.token] = node
            node.begin(action.token, self.clock.now)
        else:
            if isinstance(action, Commit):
                self._commit(action)
            self.counts["messages"] += 1
            node = self._node_of[action.token]
            self.clock.at(self._delay_s(), self._hear, node, action)

    def _append(self, record: Record) -> None:
        began = time.thread_time()
        line = frame(record)
        self.ledger_s += time.thread_time() - began
        self._ledger.append(record)
        self.counts[record["type"]] += 1
        self.bytes[record["type"]] += len(line)

    def _commit(self, action: Commit) -> None:
        rows = self._files.pop(action.shard)
        facts = ShardFacts(
            shard=action.shard,
            file=f"{action.shard}.parquet",
            bytes=2_600 * length(rows),
            sha256="0" * 64,
            rows=length(rows),
            id_digest="0" * 64,
            first_id=f"{rows[0][1][0]:024x}",
            last_id=f"{rows[-1][1][1]:024x}",
            truncated=0,
            sequences=(rows[0][1][0] // 32, rows[-1][1][1] // 32),
            epoch=self._epoch,
        )
        self._append({**commit_record(facts), "token": str(action.token)})
        stretches = [stretch for _, stretch in rows]
        self.committed.add(stretches)
        self._unmarked[action.shard] = stretches
        self._marks_free_at = max(self._marks_free_at, self.clock.now)
        if self.config.marks_per_s:
            self._marks_free_at += facts.rows / self.config.marks_per_s
        waits_s = self._marks_free_at - self.clock.now + self.config.mark_s
        self.clock.at(waits_s, self._marks_are_set, self._epoch, action.shard)

    def _marks_are_set(self, epoch: int, shard: str) -> None:
        if self._is_driver_up and epoch == self._epoch:
            self._mark(shard)
            self._do(lambda: self.leases.marked(shard, self.clock.now))

    def _mark(self, shard: str) -> None:
        stretches = self._unmarked.pop(shard)
        self._marked.add(stretches)
        n_rows = sum(high - low for low, high in stretches)
        record = {"type": "MARKED", "shard": shard, "matched": n_rows, "already": 0, "gone": 0, "epoch": self._epoch}
        self._append(record)

    # -- nodes --------------------------------------------------------------------------------------------------

    def start_node(self, node: Node, version: int) -> None:
        """A node is there: it joins and asks."""
        if not self._is_driver_up or node.version != version or node.token is not None:
            return
        self._count(node, True)
        self._do(lambda: self.leases.join(node.name, self.clock.now))
        self._ask(node)
        self.clock.at(HEARTBEAT_S * self.random.random(), self._heartbeat, node, node.token)

    def fail(self) -> None:
        """One of the nodes fails, in one of three ways."""
        self.clock.at(self.config.failure_every, self.fail)
        nodes = [node for node in self.nodes if node.token is not None and not node.is_cut_off]
        if not nodes or not self._is_driver_up:
            return
        node = self.random.choice(nodes)
        self.counts["failures"] += 1
        if self.counts["failures"] % 3 == 2:
            self._count(node, False)
            node.is_cut_off = True
            self.clock.at(self.config.cut_off_s, self._reconnect, node, node.token)
            return
        token = node.token
        assert token is not None
        self._end(node)
        if self.counts["failures"] % 3 == 0:
            self.clock.at(NOTICED_S, self._notice, token)
        self.clock.at(self.config.replace_s, self.start_node, node, node.version)

    def _notice(self, token: Token) -> None:
        if self._is_driver_up:
            self._do(lambda: self.leases.lost(token, self.clock.now, "it was killed"))

    def _reconnect(self, node: Node, token: Token) -> None:
        if node.token == token:
            node.is_cut_off = False
            self.counts["zombies"] += 1

    def _end(self, node: Node) -> None:
        if node.token is None:
            return
        self._count(node, False)
        node.advance(self.clock.now, self.config.shard_rows)
        self.counts["embedded again"] += node.end()

    def _count(self, node: Node, is_there: bool) -> None:
        """What an ideal fleet has of a node; one that is cut off can do nothing for it."""
        if node.is_counted != is_there:
            node.is_counted = is_there
            self.ideal.add(node.rate if is_there else -node.rate, self.clock.now)

    def _delay_s(self) -> float:
        return self.config.message_s * self.random.uniform(0.2, 3.0)

    def _say(self, node: Node, event: Callable[[Token], list[Action]]) -> None:
        token = node.token
        if token is not None and not node.is_cut_off:
            self.clock.at(self._delay_s(), self._arrive, token, event)

    def _arrive(self, token: Token, event: Callable[[Token], list[Action]]) -> None:
        if self._is_driver_up:
            self.counts["messages"] += 1
            self._do(lambda: event(token))

    def _heartbeat(self, node: Node, token: Token) -> None:
        if node.token != token:
            return
        node.advance(self.clock.now, self.config.shard_rows)
        documents, holds = node.embedded, tuple(node.leases)
        self._say(node, lambda token: self.leases.heartbeat(token, self.clock.now, documents=documents, holds=holds))
        self._plan(node)
        self.clock.at(HEARTBEAT_S, self._heartbeat, node, token)

    def _ask(self, node: Node) -> None:
        if not node.is_asking and node.wants_more:
            node.is_asking = True
            self._say(node, lambda token: self.leases.ask(token, self.clock.now))

    def _hear(self, node: Node, action: Action) -> None:
        if isinstance(action, Wait) or node.token != getattr(action, "token", None) or node.is_cut_off:
            return
        node.advance(self.clock.now, self.config.shard_rows)
        if isinstance(action, Revoke | Refuse):
            if isinstance(action, Refuse):
                self.counts["refused"] += 1
            self._end(node)
            self.clock.at(RESTART_S, self.start_node, node, node.version)
            return
        if isinstance(action, Give) and action.lease.number not in node.seen:
            lease = action.lease
            if any(first < lease.last and lease.first < last for first, last in self._returned):
                self._marked.merge()
            unread = self._marked.missing_in(self._starts[lease.first], self._starts[lease.last])
            node.seen.add(lease.number)
            node.leases[lease.number] = Held(deque(unread))
            node.is_asking = False
        elif isinstance(action, Commit | Affirm):
            node.commit(action.shard)
        self._plan(node)

    def _plan(self, node: Node) -> None:
        """Seal what is to be sealed, say what is done, and see when there will be more of that."""
        now, config = self.clock.now, self.config
        unread = node.unread
        is_due = node.open_rows >= config.shard_rows or now >= node.open_since + config.shard_s - 1e-6 or not unread
        if node.open and is_due and not node.pending:
            shard = node.seal()
            self.clock.at(config.seal_s, self._propose, node, node.token, shard)
        for number in node.pop_done():
            self._say_done(node, number)
        self._ask(node)
        if not unread or node.pending:
            return
        node.version += 1
        since = node.open_since if node.open else now
        due_s = min(unread / node.rate, (config.shard_rows - node.open_rows) / node.rate, since + config.shard_s - now)
        self.clock.at(max(due_s, 0.001) + 1e-3, self._wake, node, node.version)

    def _say_done(self, node: Node, number: int) -> None:
        self._say(node, lambda token: self.leases.done(token, number, self.clock.now))

    def _wake(self, node: Node, version: int) -> None:
        if node.version == version and node.token is not None:
            node.advance(self.clock.now, self.config.shard_rows)
            self._plan(node)

    def _propose(self, node: Node, token: Token, shard: str) -> None:
        """Propose a shard, again and again until there is an answer."""
        if node.token == token and shard in node.pending:
            self._files[shard] = node.pending[shard]
            n_rows = length(node.pending[shard])
            self._say(node, lambda token: self.leases.propose(token, shard, n_rows, self.clock.now))
            self.clock.at(HEARTBEAT_S, self._propose, node, token, shard)
