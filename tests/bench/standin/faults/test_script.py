"""How faults are written, and which requests they choose."""

from __future__ import annotations

import json

import pytest

from bench.standin import StandinConfig, StandinFleet
from bench.standin.faults.script import KINDS, parse_fault
from bench.standin.faults.selection import FaultSet
from engine.errors import ConfigError
from tests.bench.standin.client import embed, get
from tests.bench.standin.target import Target


def test_every_after_and_first_choose_requests_by_number(target: Target) -> None:
    target.fault("status:every=3")
    assert [target.ask().status_code for _ in range(6)] == [200, 200, 503, 200, 200, 503]
    target.fault("status:after=1,first=2")
    assert [target.ask().status_code for _ in range(4)] == [200, 503, 503, 200]
    assert target.fleet.control(target.port)["faults_fired"] == {"status": 2}


def test_contains_counts_only_requests_with_the_text(target: Target) -> None:
    target.fault("status:contains=needle,every=2")
    asked = ["needle", "hay", "a needle too", "hay"]
    assert [embed(target.url, [text]).status_code for text in asked] == [200, 200, 503, 200]


def test_probability_is_drawn_from_the_seed(target: Target) -> None:
    def draw(seed: int) -> list[int]:
        target.fault(f"status:probability=0.5,seed={seed}")
        return [target.ask().status_code for _ in range(20)]

    first = draw(1)
    assert set(first) == {200, 503}
    assert draw(1) == first
    assert draw(2) != first


def test_route_aims_at_other_routes(target: Target) -> None:
    target.fault("html200:route=/info", "status:route=/health,code=500")
    assert get(target.url, "/info").headers["content-type"].startswith("text/html")
    assert get(target.url, "/health").status_code == 500
    assert target.ask().status_code == 200
    target.fault("truncated_json:route=/info")
    with pytest.raises(json.JSONDecodeError):
        json.loads(get(target.url, "/info").content)


def test_period_and_for_s_limit_a_fault_in_time() -> None:
    faults = FaultSet()
    faults.add(parse_fault("status:period_s=2,duty=0.5,for_s=10"), 100.0)

    def hit(at_s: float) -> bool:
        return bool(faults.due_for_request("/embed", embedding=True, texts=[], now_s=at_s))

    assert [hit(100.0 + after_s) for after_s in (0.0, 0.9, 1.1, 1.9, 2.1, 10.5)] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]


def test_on_aims_at_servers_by_their_place() -> None:
    with StandinFleet(StandinConfig(ports=(0, 0, 0), faults=("status:on=0+2",))) as fleet:
        assert [embed(url, "a").status_code for url in fleet.urls] == [503, 200, 503]


def test_on_keeps_its_meaning_when_each_server_has_its_own_process() -> None:
    config = StandinConfig(ports=(0, 0, 0), faults=("status:on=1", '{"kind":"html200","on":"2"}'))
    with StandinFleet(config, processes=3) as fleet:
        answers = [embed(url, "a") for url in fleet.urls]
    assert [answer.status_code for answer in answers] == [200, 503, 200]
    assert [answer.headers["content-type"][:9] for answer in answers][2] == "text/html"


def test_several_faults_act_together(target: Target) -> None:
    target.fault("delay:s=0.1", "count:delta=-1", "index:how=reorder")
    assert [item["index"] for item in target.ask().json()["data"]] == [2, 1, 0]
    assert target.fleet.control(target.port)["faults_fired"] == {"delay": 1, "count": 1, "index": 1}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nonsense", "unknown kind 'nonsense'"),
        ("status:code=abc", "code='abc'"),
        ("status:colour=red", "no parameter 'colour'"),
        ("status:code", "not name=value"),
        ("poison:code=424", "needs contains"),
        ("drip:bytes_per_s=0", "bytes_per_s='0'"),
        ("reset:at=never", "at='never'"),
        ("status:probability=2", "probability='2'"),
        ('{"kind":"status","retry_after":"a\\r\\nb"}', "one line"),
        ("{not json", "not a JSON object"),
    ],
)
def test_a_fault_that_cannot_be_used_is_one_sentence(spec: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_fault(spec)


def test_every_kind_of_fault_can_be_written_with_its_defaults() -> None:
    for kind in KINDS:
        assert parse_fault({"kind": kind, "contains": "x"}).kind == kind
