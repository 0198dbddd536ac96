"""The diagnosis over recordings of a modelled run: causes, beginnings, and silence where nothing happened."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.diagnosis.causes import CAUSES
from bench.diagnosis.diagnosis import diagnose
from bench.diagnosis.verdict import verdict
from bench.recording.recording import read_recording
from engine.recording.history import History
from tests.bench.diagnosis.model import START, TROUBLES, Model, Trouble, World, server_out, servers_slower

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_a_trouble_is_named_with_its_beginning(tmp_path: Path, trouble: Trouble, seed: int) -> None:
    """Within 30 s, and nothing else is blamed before or after it."""
    rng = random.Random(f"{trouble.__name__} {seed}")
    model = Model.of(f"{trouble.__name__} {seed}", n_servers=rng.randrange(2, 7))
    begin = rng.uniform(600, 900)
    cause = model.at(begin, trouble)
    if rng.random() < 0.5:
        model.over(begin + 600)
    model.write(tmp_path / "history", begin + 1200)

    found = diagnose(read_recording(tmp_path / "history")).stretches

    troubles = [stretch for stretch in found if stretch.cause != "none"]
    assert [stretch.cause for stretch in troubles] == [cause], [(s.cause, s.begin - START, s.evidence) for s in found]
    assert abs(troubles[0].begin - START - begin) <= 30
    assert troubles[0].evidence


@pytest.mark.parametrize("seed", range(12))
def test_a_steady_run_has_one_stretch_and_no_cause(tmp_path: Path, seed: int) -> None:
    Model.of(f"steady {seed}", n_servers=1 + seed % 6).write(tmp_path / "history", 1800)

    assert [stretch.cause for stretch in diagnose(read_recording(tmp_path / "history")).stretches] == ["none"]


@pytest.mark.parametrize("seconds", [3, 9])
def test_a_run_of_a_few_seconds_is_one_stretch_and_said_to_be_too_short(tmp_path: Path, seconds: int) -> None:
    Model.of("short", every_s=1.0).write(tmp_path / "history", seconds)

    found = diagnose(read_recording(tmp_path / "history"))

    assert [stretch.cause for stretch in found.stretches] == ["none"]
    assert verdict(found)[0].startswith("Too short to judge")


def test_two_troubles_at_once_are_both_named(tmp_path: Path) -> None:
    model = Model.of("two", n_servers=4)
    model.world, usual = model.world, model.world
    model.at(600, server_out)
    both = model.script[0][1]
    servers_slower(both, model.rng)
    model.world = usual
    model.write(tmp_path / "history", 1500)

    (_, found) = diagnose(read_recording(tmp_path / "history")).stretches

    assert {found.cause, *(other.cause for other in found.also)} >= {"server_out", "servers_slower"}


def test_a_loss_that_nothing_recorded_explains_is_unknown_and_says_what_it_is_not(tmp_path: Path) -> None:
    """The engine itself begins to dawdle: nobody waits for anybody, and nothing takes longer."""
    model = Model.of("unknown", n_servers=3)

    def dawdle(world: World, _: random.Random) -> str:
        world.dawdles = 0.5
        return "unknown"

    model.at(600, dawdle)
    model.write(tmp_path / "history", 1500)

    (_, found) = diagnose(read_recording(tmp_path / "history")).stretches

    assert found.cause == "unknown"
    assert any(sentence.startswith("not seconds a page") for sentence in found.evidence)


def test_a_run_that_stands_still_to_its_end_says_since_when(tmp_path: Path) -> None:
    """It is not over: documents are left."""
    model = Model.of("still", n_servers=3)

    def stand_still(world: World, _: random.Random) -> str:
        world.dawdles = 0.0
        return "unknown"

    model.at(600, stand_still)
    model.write(tmp_path / "history", 900)

    (_, found) = diagnose(read_recording(tmp_path / "history")).stretches

    assert found.figures.rows_s == 0
    assert abs(found.begin - START - 600) <= 30
    assert found.end - START >= 890


def test_servers_that_are_all_out_are_not_told_as_one(tmp_path: Path) -> None:
    model = Model.of("all out", n_servers=3)

    def all_out(world: World, _: random.Random) -> str:
        world.up = [0.0] * len(world.up)
        return "server_out"

    model.at(600, all_out)
    model.write(tmp_path / "history", 900)

    found = diagnose(read_recording(tmp_path / "history"))

    assert [(stretch.cause, stretch.subject) for stretch in found.stretches[1:]] == [("server_out", "all servers")]
    assert any(sentence.endswith("because a server is out of service: all servers.") for sentence in verdict(found))


@pytest.mark.parametrize(("cores", "cause"), [(12.0, "busy_machine"), (0.5, "servers_slower")])
def test_on_a_machine_that_was_full_before_newcomers_are_blamed_by_what_they_take(
    tmp_path: Path, cores: float, cause: str
) -> None:
    """Servers of the same machine had filled it; they are slower because they get less of it."""
    model = Model.of("newcomers", n_servers=2)
    model.world.others = 16.0
    model.at(600, servers_slower)
    model.write(tmp_path / "history", 1500)
    history = History(tmp_path / "history")
    known = {"pid": 1, "name": "server", "cores": 3.0}
    for second in range(15, 1500, 15):
        new = [{"pid": 2, "name": "build", "cores": cores}] if second > 600 else []
        history.note({"at": START + second, "event": "busy_processes", "processes": [known, *new]})
    history.close()

    (_, found) = diagnose(read_recording(tmp_path / "history")).stretches

    assert found.cause == cause
    assert any("build (1)" in sentence for sentence in found.evidence) == (cause == "busy_machine")


def test_a_throttled_gpu_is_told_before_the_server_that_it_makes_slow(tmp_path: Path) -> None:
    """And whose it is."""
    model = Model.of("hot", n_servers=3)
    model.at(600, servers_slower)
    model.throttled_from = 600.0
    model.write(tmp_path / "history", 1500)
    history = History(tmp_path / "history")
    history.note({"at": START + 1, "event": "gpu", "index": 0, "name": "GPU", "url": "http://gpu-0:8080"})
    history.close()

    (_, found) = diagnose(read_recording(tmp_path / "history")).stretches

    assert (found.cause, found.subject) == ("gpu_throttled", "gpu-0")
    assert "gpu-0 is the GPU of http://gpu-0:8080" in found.evidence
    assert [one.cause for one in found.also] == ["servers_slower"]


def test_every_cause_stands_in_the_document() -> None:
    page = (ROOT / "docs/report.md").read_text(encoding="utf-8")

    assert {cause for cause in CAUSES if f"| `{cause}` |" not in page} == set()
