"""Scripted troubles on real parts, told blind: the cause, what it is about, and since when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.diagnosis.diagnosis import diagnose
from bench.parts.local_mongod import LocalMongod
from bench.recording.recording import read_recording
from bench.standin import StandinFleet
from tests.bench.diagnosis.troubles import SERVERS, TROUBLES, play
from tests.conftest import outlives_tests

SLOW = [name for name in TROUBLES if name not in ("server_gone", "slow_reads")]
NOT_SEEN = pytest.mark.skip(reason="pages that are slow do not reach these servers within so short a run")
SEED = 1


@pytest.fixture(scope="module")
def plain_fleet() -> Iterator[StandinFleet]:
    """Servers for every trouble that asks for no others."""
    with StandinFleet(SERVERS) as fleet, outlives_tests(fleet.pid):
        yield fleet


@pytest.mark.parametrize(
    "name",
    [
        "server_gone",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
        pytest.param("slow_reads", marks=NOT_SEEN),
    ],
)
def test_a_real_run_tells_what_went_wrong(
    name: str, tmp_path: Path, mongod: LocalMongod, plain_fleet: StandinFleet
) -> None:
    """Within 30 s of its beginning, and a steady run tells of nothing."""
    trouble = TROUBLES[name]
    seconds = 24.0 if name == "server_gone" else 40.0
    if trouble.servers is SERVERS:
        played = play(name, SEED, tmp_path, mongod, plain_fleet, seconds=seconds)
    else:
        with StandinFleet(trouble.servers) as fleet:
            played = play(name, SEED, tmp_path, mongod, fleet, seconds=seconds)

    found = diagnose(read_recording(played.folder / "history")).stretches

    told = [(stretch.cause, stretch.subject, round(stretch.begin - played.began_at)) for stretch in found]
    troubles = [stretch for stretch in found if stretch.cause != "none"]
    if not trouble.causes:
        assert not troubles, told
        return
    assert troubles, told
    assert troubles[0].cause in trouble.causes, told
    assert abs(troubles[0].begin - played.began_at) <= 30, told
    if played.subject is not None:
        assert troubles[0].subject == played.subject, told
