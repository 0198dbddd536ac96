"""The lease machine, event by event."""

from __future__ import annotations

from typing import TypeVar

import pytest

from engine.errors import ProtocolError
from engine.leases.actions import (
    Action,
    Affirm,
    Append,
    Commit,
    Give,
    Joined,
    PassDone,
    Refuse,
    Revoke,
    Wait,
)
from engine.leases.book import Lease, LeaseBook, Orphan
from engine.leases.machine import Leases
from engine.leases.records import Record, Token
from engine.leases.sizing import LeasePolicy

ActionT = TypeVar("ActionT")
PIECES = 8


def machine(n_pieces: int = PIECES, *, is_marking: bool = True, policy: LeasePolicy | None = None) -> Leases:
    """A machine in its first epoch, with a pass begun: pieces of 100 documents, bounds 0, 1, 2 ..."""
    book = LeaseBook(is_marking=is_marking)
    book.apply({"type": "EPOCH", "epoch": 1})
    leases = Leases(book, policy)
    assert leases.begin_pass(range(n_pieces + 1), [100] * n_pieces, 0.0) == []
    return leases


def only(kind: type[ActionT], actions: list[Action]) -> ActionT:
    """The one action of a kind."""
    (found,) = [action for action in actions if isinstance(action, kind)]
    return found


def join(leases: Leases, node: str = "a", now: float = 0.0) -> Token:
    """The token of a node that joins."""
    return only(Joined, leases.join(node, now)).token


def lease(leases: Leases, token: Token, now: float = 0.0) -> Lease:
    """The lease of a node that asks."""
    return only(Give, leases.ask(token, now)).lease


def records(actions: list[Action]) -> list[Record]:
    """What is to be appended."""
    return [action.record for action in actions if isinstance(action, Append)]


def test_a_lease_is_durable_before_the_node_is_told() -> None:
    """The record stands before what rests on it, for tokens too."""
    leases = machine()
    joined = leases.join("a", 0.0)
    assert [type(action) for action in joined] == [Append, Joined]
    assert [type(action) for action in leases.ask(Token(1, 1), 0.0)] == [Append, Give]


def test_leases_get_smaller_and_lie_side_by_side_until_nothing_is_left() -> None:
    """No piece is left out, none is in two leases."""
    leases = machine(64)
    tokens = [join(leases, name) for name in "ab"]
    held = [lease(leases, token) for token in tokens]
    while any(leases.rate(token) is None for token in tokens):
        for number, token in enumerate(tokens):
            leases.heartbeat(token, 10.0, documents=0, holds=[held[number].number])
            leases.heartbeat(token, 20.0, documents=1_000, holds=[held[number].number])
    sizes = []
    while isinstance(leases.ask(tokens[0], 20.0)[-1], Give):
        newest = list(leases.book.holders[tokens[0]].leases.values())[-1]
        sizes.append(newest.last - newest.first)
        for old in leases.book.holders[tokens[0]].held:
            leases.done(tokens[0], old.number, 20.0)
    covered = [
        piece
        for token in tokens
        for one in leases.book.holders[token].leases.values()
        for piece in range(one.first, one.last)
    ]
    assert sorted(covered) == list(range(64))
    assert sizes[0] > sizes[-1] == 1
    assert sizes == sorted(sizes, reverse=True)


def test_a_fast_node_gets_more_than_a_slow_one() -> None:
    """What is left is shared by what nodes have shown to do."""
    leases = machine(1_000)
    fast, slow = join(leases, "fast"), join(leases, "slow")
    for token, rate in ((fast, 90), (slow, 10)):
        first = lease(leases, token)
        leases.heartbeat(token, 0.0, documents=0, holds=[first.number])
        leases.heartbeat(token, 10.0, documents=10 * rate, holds=[first.number])
        leases.done(token, first.number, 10.0)
    assert lease(leases, fast, 10.0).documents > 5 * lease(leases, slow, 10.0).documents


def test_the_first_node_whose_pace_is_known_does_not_take_the_share_of_the_others() -> None:
    """They are there, and count as nodes of its kind until they have shown what they do."""
    leases = machine(1_000)
    tokens = [join(leases, name) for name in "abcd"]
    held = {token: [lease(leases, token).number, lease(leases, token).number] for token in tokens}
    for token in tokens:
        assert leases.ask(token, 1.0) == [Wait(token)]
        assert leases.heartbeat(token, 1.0, documents=0, holds=held[token]) == []
    given = leases.heartbeat(tokens[0], 10.0, documents=150, holds=held[tokens[0]])
    assert only(Give, given).lease.documents <= 100_000 / 4 / 2


def test_a_node_whose_pace_is_not_known_yet_gets_as_much_again_as_it_has_embedded() -> None:
    """A fast node would otherwise begin with a lease for every hundredth of a second."""
    leases = machine(1_000)
    token = join(leases)
    sizes, embedded = [], 0
    for tenth in range(1, 9):
        given = lease(leases, token, tenth / 10)
        sizes.append(given.documents)
        embedded += given.documents
        leases.heartbeat(token, tenth / 10, documents=embedded, holds=[given.number])
        leases.done(token, given.number, tenth / 10)
    assert leases.rate(token) is None
    assert sizes == [100, 100, 200, 400, 800, 1_600, 3_200, 6_400]


def test_a_shard_is_committed_for_a_current_token_and_the_answer_stays() -> None:
    """L2: a call that raised although it was carried out is simply made again."""
    leases = machine()
    token = join(leases)
    assert leases.propose(token, "s1", 50, 1.0) == [Commit(token, "s1")]
    assert leases.propose(token, "s1", 50, 1.0) == [Affirm(token, "s1")]
    leases.lost(token, 2.0, "gone")
    assert leases.propose(token, "s1", 50, 3.0) == [Affirm(token, "s1")]


def test_g2_a_node_that_was_silent_for_too_long_commits_nothing_any_more() -> None:
    """L2: the zombie of a stopped machine, or behind a cut cable."""
    leases = machine()
    token = join(leases)
    lease(leases, token)
    assert only(Revoke, [action for second in range(32) for action in leases.tick(second)]).token == token
    refused = only(Refuse, leases.propose(token, "s1", 50, 32.0))
    assert "has ended" in refused.why and not refused.is_name_taken
    assert [type(action) for action in leases.heartbeat(token, 32.0, documents=1, holds=[])] == [Revoke]
    assert [type(action) for action in leases.ask(token, 32.0)] == [Revoke]
    assert [type(action) for action in leases.done(token, 1, 32.0)] == [Revoke]


def test_g2_what_a_lost_node_held_is_leased_again_only_when_all_it_committed_is_marked() -> None:
    """L3: else the next reader would read documents that are committed already."""
    leases = machine(1)
    token, other = join(leases), join(leases, "b")
    first = lease(leases, token)
    leases.propose(token, "s1", 30, 1.0)
    leases.propose(token, "s2", 30, 1.0)
    assert leases.ask(other, 1.0) == [Wait(other)]
    assert not [action for action in leases.lost(token, 2.0, "gone") if isinstance(action, Give)]
    assert leases.marked("s1", 3.0) == []
    given = only(Give, leases.marked("s2", 4.0))
    assert (given.token, given.lease.low, given.lease.high) == (other, first.low, first.high)
    assert given.lease.number != first.number
    assert given.lease.documents == 40


def test_without_marks_a_commit_settles() -> None:
    """`--no-mark`, and files: what the ledger says is passed over by the next reader."""
    leases = machine(1, is_marking=False)
    token, other = join(leases), join(leases, "b")
    lease(leases, token)
    leases.propose(token, "s1", 30, 1.0)
    leases.ask(other, 1.0)
    assert only(Give, leases.lost(token, 2.0, "gone")).token == other


def test_a_pass_is_over_when_every_part_is_done_and_every_shard_is_marked() -> None:
    """And the next may begin."""
    leases = machine(1)
    token = join(leases)
    held = lease(leases, token)
    leases.propose(token, "s1", 100, 1.0)
    done = leases.done(token, held.number, 2.0)
    assert records(done) == [{"type": "DONE", "token": "1-1", "lease": 1}] and len(done) == 1
    with pytest.raises(ProtocolError, match="is not done"):
        leases.begin_pass([0, 1], [5], 2.0)
    assert leases.done(token, held.number, 2.0) == []
    assert leases.marked("s1", 3.0) == [PassDone(1)]
    leases.ask(token, 4.0)
    assert only(Give, leases.begin_pass([0, 1], [5], 5.0)).lease.pass_number == 2


def test_a_node_that_does_not_know_of_its_lease_is_told_again() -> None:
    """The answer to its question was lost."""
    leases = machine()
    token = join(leases)
    held = lease(leases, token)
    assert leases.heartbeat(token, 1.0, documents=0, holds=[]) == []
    assert leases.heartbeat(token, 6.0, documents=0, holds=[]) == [Give(token, held)]
    assert leases.heartbeat(token, 12.0, documents=0, holds=[held.number]) == []


def test_a_node_gets_the_next_lease_before_it_has_read_the_one_at_hand() -> None:
    """So that it does not pause between two; while nothing is known of its pace a piece ahead is enough."""
    leases = machine(1_000)
    token = join(leases)
    first, second = lease(leases, token), lease(leases, token)
    assert (first.documents, second.low) == (100, first.high)
    assert leases.ask(token, 1.0) == [Wait(token)]
    holds = [first.number, second.number]
    assert leases.heartbeat(token, 2.0, documents=99, holds=holds) == []
    assert only(Give, leases.heartbeat(token, 3.0, documents=100, holds=holds)).lease.low == second.high


def test_a_node_holds_no_more_leases_than_the_policy_says() -> None:
    """Those that are read and not committed yet are among them."""
    leases = machine(1_000, policy=LeasePolicy(leases_a_node=2))
    token = join(leases)
    first, second = lease(leases, token), lease(leases, token)
    assert leases.ask(token, 1.0) == [Wait(token)]
    assert leases.heartbeat(token, 2.0, documents=200, holds=[first.number, second.number]) == []
    assert only(Give, leases.done(token, first.number, 4.0)).lease.number == 3


def test_a_driver_that_stood_still_does_not_blame_its_nodes() -> None:
    """Their messages have waited for it."""
    leases = machine()
    token = join(leases)
    leases.tick(1.0)
    assert leases.tick(100.0) == []
    assert [action.token for action in leases.tick(101.0) + leases.tick(114.0) if isinstance(action, Revoke)] == []
    assert only(Revoke, leases.tick(116.0)).token == token


def test_g2_no_token_of_an_earlier_start_is_ever_current() -> None:
    """L4: a zombie may outlive any number of drivers."""
    book = LeaseBook()
    ledger: list[Record] = [{"type": "EPOCH", "epoch": 1}]
    book.apply(ledger[0])
    leases = Leases(book)
    leases.begin_pass([0, 1], [5], 0.0)
    joined = leases.join("a", 0.0)
    ledger += records(joined)
    token = only(Joined, joined).token
    ledger.append({"type": "EPOCH", "epoch": 2})
    later = LeaseBook()
    for record in ledger:
        later.apply(record)
    again = Leases(later)
    assert join(again) == Token(2, 1) > token
    assert "another start" in only(Refuse, again.propose(token, "s1", 5, 0.0)).why


def test_leases_do_not_begin_before_recovery_has_marked_everything() -> None:
    """The rule of one machine, for many."""
    book = LeaseBook()
    book.apply({"type": "EPOCH", "epoch": 1})
    book.apply({"type": "COMMIT", "shard": "s0", "rows": 5})
    with pytest.raises(ProtocolError, match="behind a recovery"):
        Leases(book)


def test_g2_an_orphan_is_adopted_only_when_nobody_can_have_been_given_its_documents_since() -> None:
    """Current at the end of the epoch right before; anything else is set aside, or shows that records are missing."""
    book = LeaseBook()
    for record in (
        {"type": "EPOCH", "epoch": 4},
        {"type": "TOKEN", "token": "4-1", "node": "a"},
        {"type": "TOKEN", "token": "4-2", "node": "b"},
        {"type": "REVOKED", "token": "4-1", "why": "gone"},
        {"type": "EPOCH", "epoch": 5},
    ):
        book.apply(record)
    assert book.judge_orphan(Token(4, 1)) is Orphan.SET_ASIDE
    assert book.judge_orphan(Token(4, 2)) is Orphan.ADOPT
    assert book.judge_orphan(Token(4, 3)) is Orphan.LEDGER_IS_OLDER
    assert book.judge_orphan(Token(6, 1)) is Orphan.LEDGER_IS_OLDER
    book.apply({"type": "EPOCH", "epoch": 6})  # a run without nodes may have embedded everything meanwhile
    assert book.judge_orphan(Token(4, 2)) is Orphan.SET_ASIDE


def test_a_shard_that_a_recovery_adopted_is_affirmed_to_its_late_writer() -> None:
    """A no would have it remove the file."""
    book = LeaseBook()
    for record in (
        {"type": "EPOCH", "epoch": 1},
        {"type": "TOKEN", "token": "1-1", "node": "a"},
        {"type": "EPOCH", "epoch": 2},
        {"type": "COMMIT", "shard": "s1", "rows": 5},
        {"type": "MARKED", "shard": "s1", "gone": 0},
    ):
        book.apply(record)
    leases = Leases(book)
    assert leases.propose(Token(1, 1), "s1", 5, 0.0) == [Affirm(Token(1, 1), "s1")]


def test_a_name_of_another_tokens_shard_is_refused_and_its_file_left_alone() -> None:
    """Names hold the token, so this is a fault of somebody; never a reason to touch a committed file."""
    leases = machine()
    token, other = join(leases), join(leases, "b")
    leases.propose(token, "s1", 5, 0.0)
    assert only(Refuse, leases.propose(other, "s1", 5, 0.0)).is_name_taken
