"""The documentation as a site: it builds strictly, every command has its page, and a browser shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from commands.reference import commands
from tests.parts.chromium import CHROMIUM, shown

ROOT = Path(__file__).resolve().parents[2]
PROBE = (
    "<script>addEventListener('load',()=>{const e=document.documentElement;"
    "const i=[...document.querySelectorAll('article img')];"
    "const seen=i.filter(p=>p.naturalWidth>0&&p.clientWidth>200&&p.clientWidth<=e.clientWidth).length;"
    "document.title='width '+e.scrollWidth+' of '+e.clientWidth+', pictures '+seen+' of '+i.length})</script>"
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make site` builds it, elsewhere; a warning ends the build."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_command_and_every_document_has_a_page_that_can_be_searched_without_a_network(site: Path) -> None:
    found = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    pages = {entry["location"].partition("#")[0] for entry in found["docs"]}
    expected = {f"commands/{name.replace(' ', '-')}.html" for name in commands()}
    expected |= {
        str(path.relative_to(ROOT / "docs").with_suffix(".html"))
        for path in (ROOT / "docs").rglob("*.md")
        if path.name != "cli.md"
    }
    assert expected - pages == set()
    assert "index.html" in pages


def test_no_page_asks_another_machine_for_a_script_a_style_or_a_font(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        asked = re.findall(
            r'<(?:script|img)[^>]+src="(https?:[^"]+)|<link[^>]+rel="stylesheet"[^>]+href="(https?:[^"]+)', text
        )
        assert not asked, f"{path.name}: {asked}"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian's package chromium)")
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize(
    ("name", "n_pictures"),
    [("index.html", 2), ("commands/run.html", 0), ("guides/tweets.html", 1), ("report.html", 1), ("tuning.html", 1)],
)
def test_a_browser_shows_a_page_and_its_pictures_without_scrolling_sideways(
    site: Path, tmp_path: Path, name: str, n_pictures: int, width: int
) -> None:
    page = site / name
    probed = page.with_name(f"probe-{width}-{page.name}")
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    document, _ = shown(
        probed, tmp_path / "profile", width=width, height=1200, options=("--allow-file-access-from-files",)
    )
    title = r"<title>width (\d+) of (\d+), pictures (\d+) of (\d+)</title>"
    scroll, client, seen, there = map(int, re.findall(title, document)[0])
    assert scroll <= client
    assert seen == there == n_pictures
