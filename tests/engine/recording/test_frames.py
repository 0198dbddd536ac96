"""Frames: what is read back, and what is passed over."""

from __future__ import annotations

import random

import pytest

from engine.recording.frames import EVENT, SAMPLE, SCHEMA, each_frame, event_frame, frame, sample_frame, schema_frame

FRAMES = [schema_frame(1, ["rows"], "c", {}), *(sample_frame(float(at), 5.0, 1, [at * 2.0]) for at in range(20))]


def read(data: bytes) -> list[int]:
    """The kinds of the sound frames."""
    return [kind for kind, _ in each_frame(data)]


def test_frames_are_read_back_in_order() -> None:
    assert read(b"".join([*FRAMES, event_frame({"at": 1.0, "event": "x"})])) == [SCHEMA, *[SAMPLE] * 20, EVENT]


def test_a_tail_that_is_torn_at_any_byte_costs_that_frame_alone() -> None:
    data = b"".join(FRAMES[:4])
    for size in range(len(data)):
        n_whole = sum(size >= len(b"".join(FRAMES[: index + 1])) for index in range(4))
        assert len(read(data[:size])) == n_whole


@pytest.mark.parametrize("seed", range(20))
def test_damage_in_the_middle_costs_the_frames_that_it_hits_and_no_other(seed: int) -> None:
    rng = random.Random(seed)
    hit = rng.randrange(1, len(FRAMES))
    damaged = bytearray(FRAMES[hit])
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)

    found = [bytes(payload) for _, payload in each_frame(b"".join([*FRAMES[:hit], bytes(damaged), *FRAMES[hit + 1 :]]))]

    assert found == [part[12:] for part in FRAMES[:hit] + FRAMES[hit + 1 :]]


def test_what_a_torn_frame_left_does_not_hide_those_that_a_later_run_appended() -> None:
    assert len(read(b"".join([*FRAMES[:5], FRAMES[5][:-3], *FRAMES[6:]]))) == len(FRAMES) - 1


def test_a_kind_of_a_newer_version_is_passed_on_for_readers_to_leave_alone() -> None:
    assert read(FRAMES[0] + frame(9, b"whatever") + FRAMES[1]) == [SCHEMA, 9, SAMPLE]
