"""The page of a tuning: whole, self-contained, readable, and without a complaint from a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.page.plane import Axis, axis_of
from bench.tuner.report.page import Table, page
from bench.tuner.tuning import Outcome
from tests.bench.page.test_page import outline
from tests.bench.tuner.report.test_report import outcome_on
from tests.parts.chromium import CHROMIUM, title_by


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """A tuning with a target that some points hold."""
    return outcome_on("one", 0.5)


def words(text: str) -> str:
    """What a page says."""
    return " ".join(outline(text).text)


def test_it_says_what_was_chosen_and_shows_every_point(outcome: Outcome) -> None:
    text = page(outcome)
    said = words(text)

    assert outcome.findings.chosen is not None
    assert all(sentence in said for sentence in outcome.verdict.sentences)
    assert text.index('aria-label="Verdict"') < text.index("<svg")
    works = [record for record in outcome.findings.records.values() if record.works]
    assert text.count('<i class="dot') == 2 * len(works)  # both charts have all of them
    assert len(re.findall(r'<i class="dot c\d chosen"', text)) == 2
    assert text.count('<tr class="chosen">') == 1
    assert "dashed: the target, 0.5 s" in said


def test_it_is_well_formed_needs_nothing_else_and_runs_no_script(outcome: Outcome) -> None:
    text = page(outcome, other=outcome_on("four unlike that pad", None))
    found = outline(text)

    assert found.count["h1"] == found.count["main"] == 1
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert [link for link in found.links if not link.startswith(("#", "data:"))] == []
    assert "<script" not in text
    assert found.count["svg"] == found.count["desc"] == 4
    assert found.svg_without_words == 0


def test_when_no_point_holds_the_target_nothing_is_called_chosen() -> None:
    text = page(outcome_on("one", 0.004))

    assert 'class="verdict bad"' in text
    assert "<dt>nearest</dt>" in text
    assert not re.search(r'class="[^"]*\bchosen\b', text)


def test_what_others_named_is_escaped(outcome: Outcome) -> None:
    table = Table(place="more", title="<b>", head=("a",), rows=[["<script>"]], sentences=["<i>"])

    text = page(outcome, tables=[table])

    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (Axis("x", 0.0, 1700.0), [0, 500, 1000, 1500]),
        (Axis("x", 0.0, 0.42), [0, 0.1, 0.2, 0.3, 0.4]),
        (Axis("x", 0.016, 0.6, is_log=True), [0.02, 0.05, 0.1, 0.2, 0.5]),
        (Axis("x", 0.0009, 140.0, is_log=True), [0.001, 0.01, 0.1, 1, 10, 100]),
        (axis_of("x", [3.0, 3.0], is_log=True), []),
    ],
)
def test_an_axis_is_marked_at_round_values(axis: Axis, expected: list[float]) -> None:
    assert axis.marks() == pytest.approx(expected)
    assert all(0 <= axis.place(value) <= 1 for value in [*axis.marks(), axis.low, axis.high, -1.0, 1e9])


@pytest.mark.seconds
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian's package chromium)")
@pytest.mark.parametrize("width", [400, 1600])
def test_a_real_browser_shows_it_without_a_complaint_and_without_scrolling_sideways(
    outcome: Outcome, tmp_path: Path, width: int
) -> None:
    """And every point of a chart is in its field: a script that only this test adds measures."""
    script = (
        "const out=[...document.querySelectorAll('.field')].flatMap(f=>{const r=f.getBoundingClientRect();"
        "return [...f.querySelectorAll('.dot')].filter(d=>{const s=d.getBoundingClientRect();const m=12;"
        "return s.left<r.left-m||s.right>r.right+m||s.top<r.top-m||s.bottom>r.bottom+m||s.width<5})});"
        "document.title='width '+e.scrollWidth+' of '+e.clientWidth+' out '+out.length"
    )

    title = title_by(script, page(outcome), tmp_path, width=width)

    scroll, client, out = map(int, re.findall(r"^width (\d+) of (\d+) out (\d+)$", title)[0])
    assert scroll <= client
    assert out == 0
