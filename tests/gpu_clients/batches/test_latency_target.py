"""The bound that a latency target puts on a window: what a few late answers may do to it, and what many must."""

from __future__ import annotations

import pytest

from gpu_clients.batches.latency_target import KEPT, LEAST, LONG_RUN, MOST_LATE, LatencyTarget

TARGET_S = 1.0


def answer(
    target: LatencyTarget, n: int, latency_s: float, *, requests: int, late: int = 0, late_s: float = 5.0
) -> None:
    """So many answers, of which the first ones are late, with `requests` of 32 texts in flight."""
    for number in range(n):
        target.answered(late_s if number < late else latency_s, 32 * requests)


def test_nothing_is_said_before_there_are_answers_enough() -> None:
    target = LatencyTarget(TARGET_S, 2)
    answer(target, LEAST - 1, 0.01, requests=2)
    target.look(2, 32.0)
    assert (target.requests, target.is_known) == (2, False)

    answer(target, 1, 0.01, requests=2)
    target.look(2, 32.0)
    assert target.is_known
    assert target.requests == 194, "97% of the target, by Little's law"


def test_as_many_late_answers_as_one_gpu_batch_makes_do_not_move_a_window() -> None:
    """The long text of a canary, or a document's: it was taken for the percentile, and the window stayed small."""
    target = LatencyTarget(TARGET_S, 8)
    answer(target, KEPT, 0.95, requests=8)
    answer(target, 2 * MOST_LATE, 0.95, requests=8, late=2 * MOST_LATE)
    target.look(8, 32.0)
    assert target.requests == 8


def test_one_late_answer_more_shrinks_it_by_littles_law() -> None:
    target = LatencyTarget(TARGET_S, 8)
    answer(target, KEPT, 0.95, requests=8)
    answer(target, 2 * MOST_LATE + 1, 2.0, requests=8)
    target.look(8, 32.0)
    assert target.requests == 3


def test_a_server_that_slows_down_for_good_is_given_way_to_and_the_window_comes_back_with_it() -> None:
    target = LatencyTarget(TARGET_S, 8)
    answer(target, KEPT, 0.9, requests=8)
    answer(target, 3 * MOST_LATE, 1.8, requests=8)
    target.look(8, 32.0)
    shrunk = target.requests
    assert shrunk == 4

    answer(target, LONG_RUN, 0.45, requests=shrunk)  # as quick as before
    target.look(shrunk, 32.0)
    assert target.requests == 8


def test_a_window_of_one_request_stays_however_late_answers_are() -> None:
    target = LatencyTarget(TARGET_S, 1)
    answer(target, KEPT, 9.0, requests=1)
    target.look(1, 32.0)
    assert target.requests == 1


def test_one_request_more_is_tried_where_the_law_would_not_allow_it_and_kept_if_it_holds() -> None:
    """An answer's way and GPU batches that grow with the window make latency grow less than the window."""
    target = LatencyTarget(TARGET_S, 1)
    answer(target, KEPT, 0.9, requests=1)
    target.look(1, 32.0)
    assert target.requests == 2

    for _ in range(4):
        answer(target, KEPT, 0.98, requests=2)
        target.look(2, 32.0)
    assert target.requests == 2


def test_a_try_that_fails_is_given_up_and_not_repeated_until_it_is_forgotten() -> None:
    target = LatencyTarget(TARGET_S, 1)
    answer(target, KEPT, 0.9, requests=1)
    target.look(1, 32.0)
    answer(target, 2 * MOST_LATE + 1, 1.2, requests=2)
    target.look(2, 32.0)
    assert target.requests == 1

    tries = 0
    for _ in range(2 * LONG_RUN // LEAST):
        answer(target, LEAST, 0.9, requests=1)
        target.look(1, 32.0)
        if target.requests == 2:
            tries += 1
            answer(target, 2 * MOST_LATE + 1, 1.2, requests=2)
            target.look(2, 32.0)
            assert target.requests == 1
    assert 1 <= tries <= 4, "of a hundred answers no more than two or three are late for it"


def test_a_bound_far_above_the_window_follows_what_the_law_says() -> None:
    """It has never been used: texts that grow longer make it smaller before anything is late."""
    target = LatencyTarget(TARGET_S, 2)
    answer(target, KEPT, 0.05, requests=2)
    target.look(2, 32.0)
    assert target.requests == 38

    answer(target, KEPT, 0.2, requests=2)
    target.look(2, 32.0)
    assert target.requests == 9


@pytest.mark.parametrize("request_texts", [32.0, 21.7, 8.3])
def test_whole_requests_are_compared_whatever_they_hold(request_texts: float) -> None:
    target = LatencyTarget(TARGET_S, 3)
    for _ in range(KEPT):
        target.answered(0.99, round(3 * request_texts))
    target.look(3, request_texts)
    assert target.requests == 3
