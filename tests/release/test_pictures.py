"""The pictures of the documents: all of them are made by a script, small, and where somebody looks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ops.pictures.__main__ import FOLDER, NAMES
from ops.pictures.architecture import architecture
from ops.pictures.terminal import as_svg, frames, written_to_terminal
from tests.test_docs import ROOT, THERE

DOCUMENTS = sorted(name for name in THERE if name.endswith(".md"))


def shown_in(name: str) -> list[Path]:
    """The pictures that a document shows."""
    page = ROOT / name
    found = re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert all(words for words, _ in found), f"{name}: a picture without words for those who cannot see it"
    return [(page.parent / target).resolve() for _, target in found if "://" not in target]


def test_every_picture_is_made_by_the_script_and_shown_somewhere() -> None:
    shown = {picture for name in DOCUMENTS for picture in shown_in(name)}
    made = {FOLDER / name for name in NAMES}
    assert shown == made
    assert set(FOLDER.iterdir()) == made


def test_pictures_are_small_and_what_their_names_say() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 300_000
    for path in FOLDER.iterdir():
        if path.suffix == ".svg":
            text = path.read_text(encoding="utf-8")
            assert "<svg" in text and "</svg>" in text
            assert not re.search(r'(?:href|src)="http|url\("?http', text), f"{path.name} fetches something"
        else:
            with Image.open(path) as picture:
                assert picture.width > 800


def test_the_architecture_is_the_one_that_the_code_draws_and_names_the_designs_processes() -> None:
    drawn = (FOLDER / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == architecture(), "stale: run `python -m ops.pictures architecture.svg`"
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\w+)[^|]* \|.*\|.*\|$", design.split("| process |")[1].split("\n\n")[0], re.M)
    processes = [name for name in table if name != "---"]
    assert {"supervisor", "reader", "client", "writer"} == set(processes)
    assert all(f">{name}" in drawn for name in processes)


def test_the_panel_shows_a_run_and_all_its_servers() -> None:
    words = re.sub(r"<[^>]+>", " ", (FOLDER / "panel.svg").read_text(encoding="utf-8")).replace("&#160;", " ")
    assert re.search(r"[\d,]+ +of [\d,]+ documents", words)
    assert len(re.findall(r"http://127\.0\.0\.1:\d+ +(?:ok|out|starting|probing)\b", words)) == 4


LIVE = (
    "from rich.console import Console; from rich.live import Live; from rich.text import Text\n"
    "console = Console(); console.print('heading')\n"
    "with Live(console=console, auto_refresh=False, transient=True) as live:\n"
    "    for number in range(3):\n"
    "        live.update(Text(f'first {number}\\nsecond', style='red'), refresh=True)\n"
)


def test_frames_of_a_live_display_are_taken_apart_as_they_were_on_the_terminal() -> None:
    written = "".join(written_to_terminal([sys.executable, "-c", LIVE], {}))
    found = [re.sub(r"\x1b\[[\d;]*m", "", frame) for frame in frames(written)]
    assert found[0] == "heading\n"
    for number in range(3):
        assert f"first {number}\nsecond" in [frame.strip() for frame in found]
    last = next(frame for frame in frames(written) if "first 2" in frame)
    svg = as_svg(last.split("\n"), "a title")
    assert "first&#160;2" in svg and "a&#160;title" in svg
    assert "url(http" not in svg and "font-face" not in svg


def test_a_command_that_fails_says_what_it_wrote() -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        list(written_to_terminal([sys.executable, "-c", "print('why'); raise SystemExit(3)"], {}))
    assert failed.value.returncode == 3
    assert failed.value.output == "why\r\n"
