"""Servers' vectors of the canary texts beside those that the ledger has recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands.composition.canary import require_same_canary
from engine.errors import FingerprintMismatch
from engine.ledger.log import RunState
from engine.ledger.runfolder import RunFolders
from gpu_clients.servers.canary import Canary

SHORT, MEDIUM, LONG, LONG_ALONE = np.eye(4, 8, dtype=np.float32)
FOLDERS = RunFolders.of(Path("hot"), Path("cold"), "db", "c", "done")


def canary(short: Any, medium: Any, long: Any, equal: Any, limit: int | None = None) -> str:
    """Vectors of the three texts in the mixed arrangement, and of the long one twice."""
    return Canary.of(np.stack([short, medium, long]), np.stack([equal, equal]), limit).encode()


def begun_with(text: object) -> RunState:
    """A ledger's state with a RUN record."""
    state = RunState()
    state.apply({"type": "RUN", "canary": text})
    return state


@pytest.mark.parametrize("equal", [LONG, LONG_ALONE])
def test_the_same_vectors_are_accepted(equal: Any) -> None:
    """Also of a server that embeds the long text otherwise beside its equal."""
    text = canary(SHORT, MEDIUM, LONG, equal)

    require_same_canary(begun_with(text), text, FOLDERS)


def test_a_busy_server_that_mixes_requests_is_accepted() -> None:
    """What came in another arrangement at the first start may come in this one today."""
    state = begun_with(canary(SHORT, MEDIUM, LONG, LONG_ALONE))

    require_same_canary(state, canary(SHORT, MEDIUM, LONG_ALONE, LONG), FOLDERS)


@pytest.mark.parametrize(
    "text",
    [
        canary(MEDIUM, MEDIUM, LONG, LONG),
        canary(SHORT, SHORT, LONG, LONG),
        canary(SHORT, MEDIUM, SHORT, LONG),
        canary(SHORT, MEDIUM, LONG, SHORT),
    ],
)
def test_one_other_vector_is_enough_to_be_refused(text: str) -> None:
    """Whichever text it is of."""
    state = begun_with(canary(SHORT, MEDIUM, LONG, LONG))

    with pytest.raises(FingerprintMismatch, match=r"cosine 0\.0000, expected at least 0\.999"):
        require_same_canary(state, text, FOLDERS)


@pytest.mark.parametrize(("then", "now"), [(None, 256), (256, 512), (512, None)])
def test_a_server_that_gets_a_shorter_or_longer_text_than_then_is_judged_by_the_others(
    then: int | None, now: int | None
) -> None:
    """As one whose context is 512 tokens, and which has begun to say so."""
    state = begun_with(canary(SHORT, MEDIUM, LONG, LONG, then))

    require_same_canary(state, canary(SHORT, MEDIUM, LONG_ALONE, LONG_ALONE, now), FOLDERS)
    with pytest.raises(FingerprintMismatch):
        require_same_canary(state, canary(SHORT, LONG, LONG_ALONE, LONG_ALONE, now), FOLDERS)
    with pytest.raises(FingerprintMismatch):
        require_same_canary(state, canary(SHORT, MEDIUM, LONG_ALONE, LONG_ALONE, then), FOLDERS)


def test_small_differences_of_number_types_are_accepted() -> None:
    """As between two servers of one fleet."""
    near = SHORT + np.float32(0.01) * MEDIUM

    require_same_canary(begun_with(canary(SHORT, MEDIUM, LONG, LONG)), canary(near, MEDIUM, LONG, LONG), FOLDERS)


@pytest.mark.parametrize("text", [None, "", "not base64!", "AAAA", 7, "AADAfwAAwH8AAMB/AADAfwAAwH8="])
def test_a_ledger_without_a_canary_that_can_be_read_is_accepted(text: object) -> None:
    """There is nothing to compare with; the last one holds NaN."""
    require_same_canary(begun_with(text), canary(SHORT, MEDIUM, LONG, LONG), FOLDERS)
    require_same_canary(RunState(), canary(SHORT, MEDIUM, LONG, LONG), FOLDERS)
