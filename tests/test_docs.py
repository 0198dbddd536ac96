"""The documents say what the program does: every command, every option, every exit code, every fail point."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from commands.reference import commands, reference
from engine.errors import Exit

ROOT = Path(__file__).resolve().parent.parent
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def read(name: str) -> str:
    """A document of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_reference_is_what_help_says() -> None:
    """`make docs` writes it anew."""
    assert read("docs/cli.md") == reference(), "docs/cli.md is stale: run `make docs`"


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_help_with_an_example_and_stands_in_the_readme(name: str) -> None:
    """A newcomer finds it."""
    text = commands()[name]

    assert name.split(maxsplit=1)[0] in re.findall(r"`engine (\w+)", read("README.md"))
    assert "Example" in text, text


def test_every_exit_code_stands_in_the_readme() -> None:
    """With a meaning."""
    table = read("README.md")
    for code in Exit:
        assert re.search(rf"^\| (\d+, )?{int(code)}(, \d+)? \|", table, re.MULTILINE), code


def test_every_fail_point_in_the_commit_protocol_is_in_the_code_and_the_other_way_round() -> None:
    """A renamed step must not leave a crash test that never fires."""
    page = set(re.findall(r"`((?:recovery|writer|commit|mark|marked)\.[a-z_]+)`", read("docs/protocols/commit.md")))
    code = set()
    for folder in ("engine", "writers"):
        for path in (ROOT / folder).rglob("*.py"):
            code |= set(re.findall(r'point\("((?:recovery|writer|commit|mark|marked)\.[a-z_]+)"\)', path.read_text()))
    assert page == code


def test_every_guarantee_names_tests_that_are_there() -> None:
    """A renamed test must not leave a guarantee without proof."""
    page = read("docs/design.md")
    guarantees = re.findall(r"^\| (G\d+) [a-z]", page, re.MULTILINE)
    rows = dict(re.findall(r"^\| (G\d+) \| (.*`test_.*) \|$", page, re.MULTILINE))
    sources = [(ROOT / name).read_text(encoding="utf-8") for name in TRACKED if re.match(r"tests/.*test_\w+\.py", name)]
    there = set(re.findall(r"^def (test_\w+)\(", "\n".join(sources), re.MULTILINE))

    assert list(rows) == guarantees
    for guarantee, row in rows.items():
        named = re.findall(r"`(test_\w+)`", row)
        assert named, guarantee
        assert set(named) <= there, f"{guarantee}: {set(named) - there}"


def test_every_dependency_earns_a_line() -> None:
    """setup.cfg and docs/dependencies.md name the same packages."""
    options = configparser.ConfigParser()
    options.read_string(read("setup.cfg"))
    needed = [options["options"]["install_requires"], *options["options.extras_require"].values()]
    names = {re.split(r"[<>=;\s]", line)[0] for lines in needed for line in lines.strip().splitlines()}
    tools = {"hypothesis", "mypy", "pytest", "pytest-timeout", "pytest-xdist", "ruff", "types-psutil", "types-requests"}
    assert tools < names
    for name in names - tools:
        assert f"| {name}" in read("docs/dependencies.md"), name


def test_every_link_between_documents_leads_somewhere() -> None:
    """Relative links only."""
    for name in TRACKED:
        if not name.endswith(".md"):
            continue
        for target in re.findall(r"\]\(([^)#]+)\)", read(name)):
            if not target.startswith("http"):
                assert ((ROOT / name).parent / target).exists(), f"{name} -> {target}"


def test_no_file_names_this_machine() -> None:
    """No absolute path of a developer's machine travels with the project."""
    own = str(ROOT)
    for name in TRACKED:
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".cfg", ".toml", ""):
            assert own not in path.read_text(encoding="utf-8", errors="replace"), name


def test_help_works_without_the_extras() -> None:
    """The runtime install alone: neither the stand-in's parser nor a plotting library is imported by --help."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('httptools', 'tokenizers', 'matplotlib', 'duckdb', 'polars'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "sys.argv = ['engine', 'run', '--help']\n"
        "import cli\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)

    assert done.returncode == 0, done.stderr
    assert "--tei-urls" in done.stdout
