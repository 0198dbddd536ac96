"""The page: whole, small, self-contained, readable, and without a complaint from a real browser where there is one."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.diagnosis.diagnosis import diagnose
from bench.page.page import page
from bench.page.style import CSS
from bench.page.subject import Price
from bench.recording.recording import Recording, read_recording
from tests.bench.diagnosis.model import Model, server_out
from tests.parts.chromium import CHROMIUM, title_by

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """Checks that elements close in order, and remembers what the page has."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.count: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.svg_without_words = 0
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.count[tag] += 1
        if "id" in found:
            self.ids.append(found["id"] or "")
        for name in ("href", "src"):
            if name in found:
                self.links.append(found[name] or "")
        if tag == "svg" and not (found.get("role") == "img" and found.get("aria-label")):
            self.svg_without_words += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(text: str) -> Outline:
    """The outline of a page; fails when it is not well formed."""
    found = Outline()
    found.feed(text)
    found.close()
    assert not found.open
    return found


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Half an hour with a server out in the middle."""
    folder = tmp_path_factory.mktemp("page") / "history"
    model = Model.of("page", n_servers=4)
    model.at(600, server_out)
    model.over(1200)
    model.write(folder, 1800)
    return read_recording(folder)


def test_it_is_well_formed_and_every_inner_link_leads_somewhere(recording: Recording) -> None:
    found = outline(page(recording, name="db.tweets.done"))

    assert found.count["h1"] == found.count["main"] == 1
    assert len(found.ids) == len(set(found.ids))
    inner = [link[1:] for link in found.links if link.startswith("#")]
    assert inner
    assert set(inner) <= set(found.ids)


def test_it_needs_nothing_else_and_runs_no_script(recording: Recording) -> None:
    text = page(recording)

    assert [link for link in outline(text).links if not link.startswith(("#", "data:"))] == []
    assert "<script" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_every_chart_has_words_for_who_cannot_see_it(recording: Recording) -> None:
    found = outline(page(recording))

    assert found.count["svg"] >= 6
    assert found.svg_without_words == 0
    assert found.count["desc"] == found.count["svg"]


def test_the_verdict_comes_first_and_names_the_server(recording: Recording) -> None:
    text = page(recording)
    said = " ".join(outline(text).text)

    assert "a server is out of service: http://gpu-" in said
    assert text.index('aria-label="Verdict"') < text.index("<svg")


@pytest.mark.seconds
def test_costs_are_there_when_a_price_is(recording: Recording) -> None:
    with_price = page(recording, price=Price(gpu_hour=0.5, n_gpus=4))

    assert "cost of slow stretches" in with_price
    assert "cost" not in " ".join(outline(page(recording)).text)


def test_what_others_named_is_escaped(recording: Recording) -> None:
    diagnosis = diagnose(recording)
    diagnosis.events.append(
        {"at": float(recording.at[-1]), "event": "server_out", "reason": "<script>alert(1)</script>"}
    )

    text = page(recording, diagnosis, name="<b>name</b>")

    assert "<script" not in text
    assert "<b>" not in text


def test_nothing_recorded_is_said(tmp_path: Path) -> None:
    (tmp_path / "history").mkdir()

    assert "Nothing was recorded yet." in page(read_recording(tmp_path / "history"))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(scheme: int) -> None:
    """Contrast of at least 4.5 to 1 (Source: WCAG 2.1, 1.4.3)."""
    colours = dict(re.findall(r"--(\w+):(#[0-9a-f]{6})", re.findall(r":root\{(.*?)\}", CSS, re.DOTALL)[scheme]))
    for ink in ("ink", "dim", "a", "slow"):
        for paper in ("paper", "panel"):
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)


def contrast(one: str, two: str) -> float:
    """How much lighter the lighter of two colours is."""
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.seconds
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian's package chromium)")
@pytest.mark.parametrize("width", [400, 1600])
def test_a_real_browser_shows_it_without_a_complaint_and_without_scrolling_sideways(
    recording: Recording, tmp_path: Path, width: int
) -> None:
    """A script that only this test adds writes the widths that the browser came to into the page."""
    script = (
        "document.title='width '+e.scrollWidth+' of '+e.clientWidth+' charts '+"
        "[...document.querySelectorAll('.chart svg')].filter(s=>s.getBoundingClientRect().width>200).length"
    )

    title = title_by(script, page(recording), tmp_path, width=width)

    scroll, client, charts = map(int, re.findall(r"^width (\d+) of (\d+) charts (\d+)$", title)[0])
    assert scroll <= client
    assert charts >= 6
