"""One scripted trouble on real parts, told blind; `make troubles` plays all of them (docs/report.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.diagnosis.diagnosis import diagnose
from bench.parts.local_mongod import LocalMongod
from bench.recording.recording import read_recording
from bench.standin import StandinFleet
from tests.bench.diagnosis.judging import WITHIN_S
from tests.bench.diagnosis.plays import play, servers_of_a_play
from tests.bench.diagnosis.troubles import TROUBLES
from tests.conftest import outlives_tests

SECONDS = 24.0


@pytest.fixture(scope="module")
def fleet() -> Iterator[StandinFleet]:
    """Servers of a play."""
    with servers_of_a_play() as fleet, outlives_tests(*fleet.pids):
        yield fleet


@pytest.mark.slow
def test_a_real_run_tells_which_server_went_out_and_when(
    tmp_path: Path, mongod: LocalMongod, fleet: StandinFleet
) -> None:
    """What else it tells of is this machine's business, which other tests keep busy."""
    trouble = TROUBLES["server_gone"]
    played = play(trouble, "server_gone in a test", tmp_path, mongod, fleet, SECONDS)

    stretches = diagnose(read_recording(played.folder / "history")).stretches

    told = [
        (one.cause, one.subject, round(stretch.begin - played.began_at))
        for stretch in stretches
        for one in (stretch, *stretch.also)
    ]
    about = [off_s for cause, subject, off_s in told if (cause, subject) == ("server_out", played.subject)]
    assert about, told
    assert abs(about[0]) <= WITHIN_S, told
