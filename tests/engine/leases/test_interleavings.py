"""Whatever comes in whatever order: every document is settled once, no void token commits, and it ends."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.leases.actions import Action, Affirm, Commit, Refuse
from engine.leases.book import LeaseBook, Orphan
from engine.leases.machine import Leases
from engine.leases.records import Token
from tests.engine.leases.world import LEASE_S, Node, World

MOST_NODES = 4
STEPS = 200


class History:
    """Events in random order around one machine after the other; the seed says which."""

    def __init__(self, seed: int, make: Callable[..., Leases]) -> None:
        self.random = random.Random(seed)
        self.world = World(self.random.randint(1, 6), is_marking=self.random.random() < 0.7, make=make)
        self.steps: dict[Callable[[], None], float] = {
            self.a_node_joins: 2,
            self.a_node_works: 12,
            self.a_node_speaks: 6,
            self.a_node_hears: 10,
            self.a_message_arrives: 14,
            self.a_shard_is_marked: 8,
            self.all_goes_well_for_a_while: 3,
            self.documents_come: 2,
            self.time_goes_by: 3,
            self.a_message_gets_lost: 1,
            self.a_node_is_killed: 1,
            self.a_node_that_lives_is_taken_for_lost: 2,
            self.the_driver_is_killed: 1,
        }
        for step in list(self.steps)[1:]:  # every history has its own character, and some know no kills
            self.steps[step] *= self.random.choice((0 if self.steps[step] < 4 else 0.3, 1, 1, 3))

    def play(self) -> None:
        """Play it to its end."""
        for step in self.random.choices(list(self.steps), list(self.steps.values()), k=STEPS):
            step()
            self.world.check()
        self.world.check_rebuilt()
        self.world.finish()

    def number(self) -> int:
        """Which of some."""
        return self.random.randrange(1_000)

    def node(self) -> Node | None:
        """One of the nodes that live, whatever the driver thinks of them."""
        nodes = [node for node in self.world.nodes if not node.is_over]
        return self.random.choice(nodes) if nodes else None

    def a_node_joins(self) -> None:
        world = self.world
        if sum(not node.is_over for node in world.nodes) < MOST_NODES:
            world.hand_in(lambda: world.leases.join("node", world.now))
            if world.nodes:
                world.speak(world.nodes[-1])

    def a_node_works(self) -> None:
        if (node := self.node()) is not None:
            node.read_on(self.random.randint(1, 6), self.world.marks)
            if self.random.random() < 0.4:
                self.world.seal(node)

    def a_node_speaks(self) -> None:
        if (node := self.node()) is not None:
            self.world.speak(node)

    def a_node_hears(self) -> None:
        if (node := self.node()) is not None:
            for _ in range(self.random.choice((1, 9))):
                self.world.hear(node, self.number(), again=self.random.random() < 0.2)

    def a_message_arrives(self) -> None:
        for _ in range(self.random.choice((1, 9))):
            self.world.deliver(self.number(), again=self.random.random() < 0.2)

    def all_goes_well_for_a_while(self) -> None:
        """One node hears, works and is heard."""
        world, node = self.world, self.node()
        for _ in range(self.random.randint(1, 6)):
            if node is None or node.is_over:
                return
            while node.inbox and not node.is_over:
                world.hear(node, 0)
            node.read_on(self.random.randint(1, 6), world.marks)
            world.seal(node)
            world.speak(node)
            for at in reversed([at for at, message in enumerate(world.post) if message[1] == node.token]):
                world.deliver(at)
            if self.random.random() < 0.3:
                world.mark_one(self.number())

    def a_message_gets_lost(self) -> None:
        self.world.lose(self.number())

    def a_shard_is_marked(self) -> None:
        self.world.mark_one(self.number())

    def documents_come(self) -> None:
        self.world.add_documents()

    def time_goes_by(self) -> None:
        world = self.world
        world.now += self.random.choice((0.5, 2.0, LEASE_S / 2))
        world.hand_in(lambda: world.leases.tick(world.now))

    def a_node_is_killed(self) -> None:
        world, node = self.world, self.node()
        if node is not None:
            node.is_over = True
            if self.random.random() < 0.5:
                world.hand_in(lambda: world.leases.lost(node.token, world.now, "killed"))

    def a_node_that_lives_is_taken_for_lost(self) -> None:
        world, node = self.world, self.node()
        if node is not None:
            world.hand_in(lambda: world.leases.lost(node.token, world.now, "cut off"))

    def the_driver_is_killed(self) -> None:
        """At once, or between two of its next actions."""
        if self.random.random() < 0.5:
            self.world.start_driver()
        else:
            self.world.kill_after = self.random.randint(0, 3)


@pytest.mark.seconds
@example(0)
@settings(max_examples=250)
@given(st.integers(0, 2**32))
def test_g1_g2_every_document_is_settled_once_whatever_happens_in_whatever_order(seed: int) -> None:
    """Joins, kills, zombies, lost, doubled and late messages, drivers killed between any two actions."""
    History(seed, Leases).play()


class Unfenced(Leases):
    """Broken: commits for whoever asks."""

    def propose(self, token: Token, shard: str, rows: int, now: float) -> list[Action]:
        found = super().propose(token, shard, rows, now)
        if not isinstance(found[0], Refuse) or found[0].is_name_taken or not self.would_commit(token):
            return found
        self.book.apply({"type": "COMMIT", "shard": shard, "rows": rows, "token": str(token)})
        return [Commit(token, shard)]

    def would_commit(self, token: Token) -> bool:
        """Whether a shard of a void token would do."""
        return True


class ByPart(Unfenced):
    """Broken: commits by the part, as long as nobody else has it."""

    def would_commit(self, token: Token) -> bool:
        """Its parts have not been leased again yet."""
        before = self.book.holders.get(token)
        own = {piece for lease in before.held for piece in range(lease.first, lease.last)} if before else set()
        others = [who for who in self.book.holders.values() if not who.is_revoked]
        return bool(own) and not any(
            own & set(range(lease.first, lease.last)) for who in others for lease in who.leases.values()
        )


class WithoutEpochs(Unfenced):
    """Broken: commits for tokens of earlier starts."""

    def would_commit(self, token: Token) -> bool:
        """It was not revoked by this driver."""
        return token.epoch != self.book.epoch


class WithoutMarks(Leases):
    """Broken: leases again at once what a lost node held."""

    def _put_back(self, token: Token) -> None:
        unmarked, self.book.holders[token].unmarked = self.book.holders[token].unmarked, set()
        super()._put_back(token)
        self.book.holders[token].unmarked = unmarked


class Forgetful(Leases):
    """Broken: commits a shard as often as it is proposed."""

    def propose(self, token: Token, shard: str, rows: int, now: float) -> list[Action]:
        found = super().propose(token, shard, rows, now)
        return [Commit(token, shard)] if isinstance(found[0], Affirm) else found


class Losing(Leases):
    """Broken: what a lost node held is not leased again."""

    def _put_back(self, token: Token) -> None:
        self._returning.pop(token)


def histories_until_one_fails(make: type[Leases], n_histories: int = 3_000) -> str:
    """What the first history that fails says; fails when none does."""
    for seed in range(n_histories):
        try:
            History(seed, make).play()
        except AssertionError as error:
            return str(error)
    pytest.fail(f"{n_histories} histories have not noticed it")


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [
        (Unfenced, "a document is in two committed shards|a shard is committed without its file"),
        (ByPart, "a document is in two committed shards|a shard is committed without its file"),
        (WithoutEpochs, "a document is in two committed shards|a shard is committed without its file"),
        (WithoutMarks, "a document is in two committed shards"),
        (Forgetful, "a shard is committed once"),
        (Losing, "a document is lost"),
    ],
)
def test_the_histories_notice_a_machine_that_is_broken(broken: type[Leases], noticed: str) -> None:
    """A property that could not fail would say nothing."""
    assert re.match(noticed, histories_until_one_fails(broken))


def test_the_histories_notice_orphans_that_are_adopted_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zombie may name its shard long after its documents were given to others."""
    monkeypatch.setattr(LeaseBook, "judge_orphan", lambda self, token: Orphan.ADOPT)
    assert "a document is in two committed shards" in histories_until_one_fails(Leases)
