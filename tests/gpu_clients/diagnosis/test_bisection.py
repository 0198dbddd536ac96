"""The bisection for a bad document, against servers that are functions: how many questions, and who is blamed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from gpu_clients.batches.batch import BatchHistory, Suspicion
from gpu_clients.diagnosis.bisection import bisect, embed_suspect, recheck_rows
from gpu_clients.errors import FailureKind
from tests.gpu_clients.diagnosis.fleet import (
    Fleet,
    Verdict,
    batch,
    check,
    context,
    failure,
    refuses,
    sound,
    vector,
)


@pytest.mark.parametrize("size", [1, 2, 3, 31, 32, 64, 128])
@pytest.mark.parametrize("kind", [FailureKind.REJECTED, FailureKind.BACKEND, FailureKind.EMPTY, FailureKind.PAYLOAD])
def test_one_bad_text_is_found_with_few_questions(size: int, kind: FailureKind) -> None:
    texts = batch(size)
    for bad in {0, size // 2, size - 1}:
        fleet = Fleet([refuses(texts[bad], kind=kind)] * 2)
        check(fleet.run(bisect(texts, failure(kind), context(1))), texts, {bad})
        assert fleet.questions(0) <= 2 * size.bit_length() + 1
        assert fleet.questions(1) == 1


@pytest.mark.parametrize("bad", [{0, 1}, {0, 63}, {31, 32, 33}, set(range(0, 64, 9)), set(range(64))])
def test_any_number_of_bad_texts_is_found(bad: set[int]) -> None:
    texts = batch(64)
    server = refuses(*(texts[number] for number in bad), kind=FailureKind.BACKEND)
    check(Fleet([server, server]).run(bisect(texts, failure(FailureKind.BACKEND), context(1))), texts, bad)


def test_a_batch_that_was_only_near_a_bad_one_costs_one_more_question() -> None:
    texts = batch(32)
    fleet = Fleet([sound, sound])
    check(fleet.run(bisect(texts, failure(FailureKind.BACKEND), context(1))), texts, set())
    assert fleet.questions(0) == 1


def test_a_text_that_the_second_server_can_embed_keeps_that_vector() -> None:
    texts = batch(32)
    fleet = Fleet([refuses(texts[5]), sound])
    check(fleet.run(bisect(texts, failure(FailureKind.REJECTED), context(1))), texts, set())


def test_a_server_that_fails_its_canary_blames_nobody() -> None:
    texts = batch(32)
    for kind in (FailureKind.BACKEND, FailureKind.REJECTED, FailureKind.TIMEOUT, FailureKind.UNAUTHORIZED):

        def dead(_: list[str], kind: FailureKind = kind) -> Verdict:
            return kind

        finding = Fleet([dead, sound]).run(bisect(texts, failure(FailureKind.REJECTED), context(1)))
        assert not finding.complete
        assert finding.sick is not None
        assert not finding.rejected


def test_a_second_server_that_fails_its_canary_is_not_heard() -> None:
    texts = batch(8)

    def dead(_: list[str]) -> Verdict:
        return FailureKind.BACKEND

    fleet = Fleet([refuses(texts[3]), dead, sound])
    check(fleet.run(bisect(texts, failure(FailureKind.REJECTED), context(1, 2))), texts, set())


def test_without_another_server_our_own_is_asked_twice() -> None:
    texts = batch(8)
    finding = Fleet([refuses(texts[3])]).run(bisect(texts, failure(FailureKind.REJECTED), context()))
    check(finding, texts, {3})
    assert finding.rejected[3].attempts == 2
    assert "no other server" in finding.rejected[3].detail


def test_on_an_unsteady_server_a_text_has_to_fail_every_time() -> None:
    texts = batch(8)
    seen = 0

    def moody(asked: list[str]) -> Verdict:
        nonlocal seen
        if texts[3] not in asked:
            return None
        seen += 1
        return FailureKind.BACKEND if seen % 8 else None

    once = Fleet([moody, moody]).run(bisect(texts, failure(FailureKind.BACKEND), context(1)))
    assert set(once.rejected) == {3}, "a steady server is believed"
    seen = 0
    check(Fleet([moody, moody]).run(bisect(texts, failure(FailureKind.BACKEND), context(1, rounds=4))), texts, set())


def test_rows_that_are_no_vectors_are_asked_for_alone_and_the_others_kept() -> None:
    texts = batch(16)
    matrix = np.array([vector(text) for text in texts], dtype=np.float32)
    fleet = Fleet([sound, sound])
    check(fleet.run(recheck_rows(texts, matrix, [2, 9], context(1))), texts, set())
    assert fleet.questions(0) == 2


@dataclass
class Mortal:
    """A server that dies of a text; then it does not answer any more, or a proxy answers for it."""

    poison: str
    dying: FailureKind = FailureKind.LOST
    dead: FailureKind = FailureKind.REFUSED
    alive: bool = True

    def __call__(self, texts: list[str]) -> Verdict:
        if not self.alive:
            return self.dead
        if self.poison in texts:
            self.alive = False
            return self.dying
        return None


@pytest.mark.parametrize(
    "looks", [(FailureKind.LOST, FailureKind.REFUSED), (FailureKind.UNAVAILABLE, FailureKind.UNAVAILABLE)]
)
def test_a_text_that_kills_is_found_with_three_deaths_after_the_first(looks: tuple[FailureKind, FailureKind]) -> None:
    texts = batch(32)
    servers = [Mortal(texts[17], *looks) for _ in range(4)]
    near = BatchHistory(Suspicion.NEARBY)

    first = Fleet([servers[0], servers[1]]).run(embed_suspect(texts, near, context(1)))
    assert (first.complete, first.history) == (False, BatchHistory(Suspicion.ALONE))

    assert first.history is not None
    second = Fleet([servers[1], servers[2]]).run(embed_suspect(texts, first.history, context(1)))
    assert (second.complete, second.history) == (False, BatchHistory(Suspicion.TEXT, server=0, text=17))

    assert second.history is not None
    third = Fleet([servers[2], servers[3]]).run(embed_suspect(texts, second.history, context(1)))
    check(third, texts, {17})
    assert sum(not server.alive for server in servers) == 3


def test_an_innocent_batch_that_was_nearby_passes_with_one_question() -> None:
    texts = batch(32)
    fleet = Fleet([sound])
    check(fleet.run(embed_suspect(texts, BatchHistory(Suspicion.NEARBY), context())), texts, set())
    assert len(fleet.asked) == 1


def test_a_connection_lost_beside_a_living_server_is_no_death() -> None:
    texts = batch(4)
    lost = iter([FailureKind.LOST])

    def hiccup(_: list[str]) -> Verdict:
        return next(lost, None)

    check(Fleet([hiccup]).run(embed_suspect(texts, BatchHistory(Suspicion.NEARBY), context())), texts, set())
