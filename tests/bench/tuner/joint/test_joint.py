"""Server flags and operating point together: what is started, what is left, and what is chosen."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from bench.measure.tuning.joint_in_model import CASES, FLAGS, joint_on_the_model
from bench.tuner.joint.joint import JointSearch, Tried
from bench.tuner.joint.settings import Setting, parse_axes, start_of
from bench.tuner.measure.statistics import Rate
from bench.tuner.measure.visit import Point, ServerSplit, StopReason, Visit
from bench.tuner.search.findings import Findings
from bench.tuner.search.record import Record
from bench.tuner.texts.corpus import Order
from commands.bench.joint import SettingsTried, as_text
from engine.errors import ConfigError, ServersUnavailable

POINT = Point(32, 8)


def record(per_s: float, *, full: bool = True) -> Record:
    """What servers did at the point: those that are full let a text wait for two GPU batches."""
    visit = Visit(
        point=POINT,
        stop_reason=StopReason.SETTLED,
        rate=Rate(per_s=per_s, half_width=0.0),
        coverage=1.0,
        latencies_s=np.full(10, 0.5),
        characters=np.full(10, 100.0),
        servers=np.zeros(10, dtype=np.int64),
        n_texts=320,
        n_tokens=0,
        n_counted_characters=0,
        errors=Counter(),
        steady_s=1.0,
        total_s=1.0,
        client_cpu=0.1,
        split=ServerSplit(tokenization_s=0.0, queue_s=2.0 if full else 0.5, inference_s=1.0),
        texts_by_server=(320,),
        order=Order.NATURAL,
    )
    return Record(POINT, [visit])


@dataclass
class World:
    """Servers whose rate is a function of their setting; it notes what was done."""

    rate: Callable[[Setting], float]
    full: bool = True
    found: dict[str, float] = field(default_factory=dict)
    """What a search makes of a setting, where luck makes it differ from what the servers do."""
    later: dict[str, float] = field(default_factory=dict)
    """What is certain once a setting was searched on; nothing of one that is not named."""

    def __post_init__(self) -> None:
        self.started: list[str] = []
        self.searched: list[str] = []
        self.budgets: list[float] = []

    @contextlib.contextmanager
    def run(self, setting: Setting) -> Iterator[World]:
        self.started.append(str(setting))
        self._setting = setting
        if self.rate(setting) < 0:
            raise ServersUnavailable("out of memory")
        yield self

    def sight(self, point: Point, *, bucketing: bool, expected_per_s: float) -> Record | None:
        assert point == POINT
        return record(self.rate(self._setting), full=self.full)

    def search(self, worth_beating: float | None) -> Findings:
        self.searched.append(str(self._setting))
        found = Findings(ended=True)
        if self.rate(self._setting) > 0:
            found.records[POINT] = record(self.rate(self._setting))
            found.chosen = record(self.found.get(str(self._setting), self.rate(self._setting)))
        return found

    def go_on(self, former: Findings, budgets: float, worth_beating: float | None) -> Findings:
        self.searched.append(f"{self._setting} again")
        self.budgets.append(budgets)
        per_s = self.later.get(str(self._setting))
        return Findings(ended=True, chosen=record(per_s) if per_s is not None else None)


def best(world: World, flags: str) -> Tried | None:
    return JointSearch(parse_axes(flags), world.run, refine=False).search().best


def test_numbers_are_climbed_from_the_middle_and_what_is_downhill_is_never_started() -> None:
    world = World(lambda setting: float(setting.value("a")))
    found = best(world, "a=1,2,3,4,5")
    assert found is not None
    assert str(found.setting) == "a=5"
    assert world.started == ["a=3", "a=4", "a=5"]


def test_the_best_may_lie_below_the_middle() -> None:
    world = World(lambda setting: 10 - float(setting.value("a")))
    found = best(world, "a=1,2,3")
    assert found is not None
    assert str(found.setting) == "a=1"
    assert world.started == ["a=2", "a=3", "a=1"]


def test_full_servers_that_do_clearly_less_are_left_after_a_look() -> None:
    world = World(lambda setting: {"x": 100.0, "y": 50.0, "z": 97.0}[setting.value("a")])
    found = best(world, "a=x,y,z")
    assert found is not None
    assert str(found.setting) == "a=x"
    assert world.started == ["a=x", "a=y", "a=z"]
    assert world.searched == ["a=x", "a=z"], "97 is too near to be left unsearched"


def test_servers_that_are_not_full_get_their_search_however_slow_they_look() -> None:
    """More in flight might bring more there."""
    world = World(lambda setting: {"x": 100.0, "y": 50.0}[setting.value("a")], full=False)
    best(world, "a=x,y")
    assert world.searched == ["a=x", "a=y"]


def test_a_flag_is_looked_at_again_when_another_one_has_found_its_value() -> None:
    """With y the best number is another than with x."""
    rates = {("1", "x"): 80.0, ("2", "x"): 100.0, ("3", "x"): 90.0, ("1", "y"): 180.0, ("2", "y"): 150.0}
    world = World(lambda setting: rates.get((setting.value("a"), setting.value("b")), 10.0))
    found = best(world, "a=1,2,3 b=x,y")
    assert found is not None
    assert str(found.setting) == "a=1 b=y"


def test_a_setting_that_does_not_start_is_noted_and_the_others_go_on() -> None:
    """As one whose GPU batches do not fit into memory."""
    world = World(lambda setting: -1.0 if setting.value("a") == "3" else float(setting.value("a")))
    search = JointSearch(parse_axes("a=1,2,3"), world.run, refine=False)
    found = search.search()
    assert found.best is not None
    assert str(found.best.setting) == "a=2"
    assert [one.trouble for one in found.tried if one.trouble] == ["out of memory"]


def test_when_no_setting_works_the_first_ones_trouble_is_said() -> None:
    with pytest.raises(ServersUnavailable, match="no setting of --server-flags works; out of memory"):
        best(World(lambda setting: -1.0), "a=1,2")


def test_a_setting_without_a_point_in_the_target_loses_against_any_that_has_one() -> None:
    world = World(lambda setting: 5.0 if setting.value("a") == "y" else 0.0)
    found = best(world, "a=x,y")
    assert found is not None
    assert str(found.setting) == "a=y"
    assert best(World(lambda setting: 0.0), "a=x,y") is None


def test_the_best_setting_is_searched_on_when_another_one_has_left_its_time() -> None:
    world = World(lambda setting: {"x": 100.0, "y": 50.0}[setting.value("a")], later={"a=x": 200.0})
    found = JointSearch(parse_axes("a=x,y"), world.run).search().best
    assert world.searched == ["a=x", "a=x again"]
    assert found is not None
    assert found.per_s == 200.0
    all_searched = World(lambda setting: {"x": 100.0, "y": 99.0}[setting.value("a")])
    JointSearch(parse_axes("a=x,y"), all_searched.run).search()
    assert all_searched.searched == ["a=x", "a=y"]


def test_the_setting_that_does_more_at_the_same_point_is_searched_on_first_whatever_luck_made_of_it() -> None:
    """A percentile is told to 7% and decides which point is chosen; rates at one point are told to 1%."""
    world = World(
        lambda setting: {"x": 100.0, "y": 103.0, "z": 50.0}[setting.value("a")],
        found={"a=y": 90.0},
        later={"a=y": 101.0, "a=x": 98.0},
    )
    found = JointSearch(parse_axes("a=x,y,z"), world.run).search().best
    assert world.searched == ["a=x", "a=y", "a=y again"]
    assert found is not None
    assert str(found.setting) == "a=y"


@pytest.mark.parametrize(("rival", "winner"), [(None, "a=x"), (100.5, "a=x"), (105.0, "a=y")])
def test_a_rival_that_is_searched_on_second_has_to_be_certain_to_bring_more(rival: float | None, winner: str) -> None:
    world = World(
        lambda setting: {"x": 100.0, "y": 99.0}.get(setting.value("a"), 50.0),
        found={"a=y": 104.0},
        later={"a=x": 100.0} | ({} if rival is None else {"a=y": rival}),
    )
    found = JointSearch(parse_axes("a=x,y,c,d,e,f,g"), world.run).search().best
    assert world.searched == ["a=x", "a=y", "a=x again", "a=y again"]
    assert found is not None
    assert str(found.setting) == winner
    assert sum(world.budgets) <= 4.0, "of seven budgets two are searches, and one is left for the restarts"


def test_a_setting_that_seems_to_bring_more_than_the_best_is_said_not_to_be_certain() -> None:
    world = World(lambda setting: {"x": 100.0, "y": 99.0}.get(setting.value("a"), 50.0))
    world.found, world.later = {"a=y": 104.0}, {"a=x": 100.0}
    axes = parse_axes("a=x,y,c,d,e,f,g")
    lines = as_text(SettingsTried(axes=axes, findings=JointSearch(axes, world.run).search(), flags=None)).splitlines()
    assert [line.split("  ")[-1] for line in lines[1:3]] == ["<- best", "(not certain to hold the target)"]


def test_a_point_that_does_not_hold_the_target_on_a_closer_look_is_given_up() -> None:
    world = World(lambda setting: {"x": 100.0, "y": 99.0, "z": 50.0}[setting.value("a")])
    found = JointSearch(parse_axes("a=x,y,z"), world.run).search().best
    assert world.searched == ["a=x", "a=y", "a=x again"]
    assert found is not None
    assert str(found.setting) == "a=y"


def test_flags_are_read_with_their_values_in_order() -> None:
    axes = parse_axes("--max-batch-tokens=16384,8192,32768 dtype=float32,float16,float32")
    assert [(axis.name, axis.values) for axis in axes] == [
        ("max-batch-tokens", ("8192", "16384", "32768")),
        ("dtype", ("float32", "float16")),
    ]
    assert str(start_of(axes)) == "max-batch-tokens=16384 dtype=float32"


@pytest.mark.parametrize("text", ["", "a", "a=", "=1", "a=1 a=2", "a=" + ",".join(map(str, range(300)))])
def test_flags_that_cannot_be_tried_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--server-flags"):
        parse_axes(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["equal-unpadded-0.6s-fixed", "unlike-padded-free-float32"])
def test_on_a_modelled_fleet_the_joint_point_is_near_the_best_in_a_quarter_of_the_grids_time(name: str) -> None:
    """In virtual time: no clock of this machine decides. `bench.measure.tuning.joint_in_model` has all fleets."""
    case = next(case for case in CASES if case.name == name)
    found = joint_on_the_model(case, parse_axes(FLAGS), seed=1, seconds=10.0)
    assert found is not None
    assert found.share >= 0.98
    assert found.grid_share <= 0.25
    assert found.holds


def test_a_visit_too_short_for_a_rate_is_no_point_that_works() -> None:
    """On a machine that hardly gets to it, all answers may come at one moment; nothing divides by such a rate."""
    assert record(10.0).works
    assert not record(0.0).works
