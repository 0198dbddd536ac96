"""Whatever a server answers, a batch is settled after a bounded number of requests, or its server is out."""

from __future__ import annotations

import pytest

from gpu_clients.diagnosis.bisection import bisect
from gpu_clients.errors import Failure, FailureKind, classify
from tests.gpu_clients.diagnosis.fleet import CANARIES, Fleet, Verdict, batch, check, context, sound

N = 32
MOST_REQUESTS = 2 * 2 * (2 * N - 1)
"""Each piece of a batch that is halved down to single texts, asked for twice, each time beside a canary."""
STATUSES = range(300, 600)
NO_ANSWERS = [
    Failure(kind=kind, detail=f"no answer: {kind.value}")
    for kind in (
        FailureKind.REFUSED,
        FailureKind.LOST,
        FailureKind.TIMEOUT,
        FailureKind.MALFORMED,
        FailureKind.OVERSIZED,
        FailureKind.UNSOUND,
    )
]
BODIES = (b"", b"<html>Forbidden</html>", b'{"error": "no", "error_type": "overloaded"}')


def answers() -> list[Failure]:
    """Everything that a server may answer, or not."""
    return [*(classify(status, body) for status in STATUSES for body in BODIES), *NO_ANSWERS]


@pytest.mark.seconds
@pytest.mark.parametrize("others", [(), (1,), (1, 2, 3)])
def test_whatever_becomes_of_one_text_always_it_is_found_and_every_other_is_embedded(others: tuple[int, ...]) -> None:
    texts = batch(N)
    for answer in answers():

        def server(asked: list[str], answer: Failure = answer) -> Verdict:
            return answer if texts[17] in asked else None

        fleet = Fleet([server] * (1 + len(others)))
        finding = fleet.run(bisect(texts, answer, context(*others, rounds=4)))
        check(finding, texts, {17})
        assert finding.sick is None, answer
        assert answer.detail in finding.rejected[17].detail
        assert len(fleet.asked) <= MOST_REQUESTS, answer


def test_whatever_becomes_of_every_request_to_one_server_nothing_is_blamed_and_it_is_out() -> None:
    """The other servers are sound; of overload the server's own bound takes care."""
    texts = batch(N)
    for answer in answers():
        fleet = Fleet([lambda _, answer=answer: answer, sound])  # type: ignore[misc]
        finding = fleet.run(bisect(texts, answer, context(1)))
        assert not finding.complete
        assert not finding.rejected
        assert finding.sick is not None
        assert finding.sick.detail == answer.detail
        assert len(fleet.asked) <= 8, answer


def test_whatever_every_server_answers_to_everything_nothing_is_blamed() -> None:
    """All four of them: the batch goes back, our server is out, and so are the others by the same reasoning."""
    texts = batch(N)
    for answer in answers():
        fleet = Fleet([lambda _, answer=answer: answer] * 4)  # type: ignore[misc]
        finding = fleet.run(bisect(texts, answer, context(1, 2, 3, rounds=4)))
        assert not finding.complete and not finding.rejected, answer
        assert finding.sick is not None
        assert len(fleet.asked) <= 8, answer


def test_whatever_one_server_of_four_answers_to_one_text_another_server_embeds_it() -> None:
    texts = batch(N)
    for answer in answers():

        def server(asked: list[str], answer: Failure = answer) -> Verdict:
            return answer if texts[17] in asked else None

        check(Fleet([server, sound, sound, sound]).run(bisect(texts, answer, context(1, 2, 3))), texts, set())


@pytest.mark.parametrize("status", [403, 413, 414, 429, 431])
def test_a_request_that_only_its_size_keeps_from_passing_is_divided_and_nothing_is_blamed(status: int) -> None:
    texts = batch(N)

    def server(asked: list[str]) -> Verdict:
        return classify(status, b"request too large, must be reduced") if len(asked) > 5 else None

    fleet = Fleet([server, server])
    check(fleet.run(bisect(texts, classify(status, b""), context(1))), texts, set())
    assert fleet.questions(0) <= 2 * N


def test_overload_that_the_canary_meets_too_blames_nothing_and_is_given_up_after_a_while() -> None:
    """Somebody else has the permits: one request in three passes, whatever stands in it."""
    texts = batch(N)
    n_asked = 0

    def busy(_: list[str]) -> Verdict:
        nonlocal n_asked
        n_asked += 1
        return None if n_asked % 3 == 1 else FailureKind.OVERLOADED

    fleet = Fleet([busy])
    finding = fleet.run(bisect(texts, classify(429, b""), context()))
    assert not finding.rejected
    assert any(set(asked) <= CANARIES for _, asked in fleet.asked)
    assert fleet.paused_s < 60.0
