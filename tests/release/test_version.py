"""One version, wherever it is written."""

from __future__ import annotations

import configparser
import datetime
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from engine import __version__

ROOT = Path(__file__).resolve().parents[2]
RELEASE = re.compile(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)$", re.M)
HEADING = re.compile(r"^## (.*)$", re.M)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_changelog_begins_with_what_is_unreleased_then_has_this_version_and_its_day() -> None:
    headings = HEADING.findall(text("CHANGELOG.md"))
    releases = RELEASE.findall(text("CHANGELOG.md"))
    assert headings[0] == "Unreleased"
    assert len(releases) == len(headings) - 1, "a heading that is no release"
    assert releases[0][0] == __version__
    numbers = [tuple(map(int, version.split("."))) for version, _ in releases]
    days = [datetime.date.fromisoformat(day) for _, day in releases]
    assert numbers == sorted(set(numbers), reverse=True)
    assert days == sorted(days, reverse=True)


def test_a_release_says_its_essence_before_its_details() -> None:
    first = text("CHANGELOG.md").split(f"\n## {__version__} - ")[1].split("\n## ")[0]
    essence, _, details = first.partition("\n### ")
    assert 5 <= len(re.findall(r"^- ", essence, re.M)) <= 12
    assert len(details) > len(essence)


def test_citation_and_policy_say_this_version_and_the_day_of_its_release() -> None:
    (day,) = [day for version, day in RELEASE.findall(text("CHANGELOG.md")) if version == __version__]
    citation = dict(re.findall(r"^([\w-]+): ?(.*)$", text("CITATION.cff"), re.M))
    assert citation["version"] == __version__
    assert citation["date-released"] == day
    assert f"\nThis is {__version__};" in text("docs/versioning.md")


def test_the_package_and_the_command_say_this_version() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: engine.__version__"
    assert metadata.version("embedding-engine") == __version__
    said = subprocess.run(
        [sys.executable, "-m", "cli", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.split()[-1] == __version__


def test_the_manual_is_of_this_version() -> None:
    assert __version__ in text("docs/engine.1").split("\n")[0]
