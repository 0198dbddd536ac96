"""Imports point down only: cli -> commands -> bench -> readers | gpu_clients | writers -> engine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS: dict[str, frozenset[str]] = {
    "engine": frozenset(),
    "readers": frozenset({"engine"}),
    "gpu_clients": frozenset({"engine"}),
    "writers": frozenset({"engine"}),
    "bench": frozenset({"engine", "readers", "gpu_clients", "writers"}),
    "commands": frozenset({"engine", "readers", "gpu_clients", "writers", "bench"}),
    "cli": frozenset({"engine", "readers", "gpu_clients", "writers", "bench", "commands"}),
}
FILES = sorted(path for layer in LAYERS for path in [*ROOT.glob(f"{layer}/**/*.py"), *ROOT.glob(f"{layer}.py")])
FOREIGN_TO_ENGINE = {"pymongo", "bson", "pyarrow", "requests", "typer", "click", "numpy"}


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_from_its_own_layer_and_those_below(path: Path) -> None:
    """Siblings never import each other, and nothing imports upwards."""
    layer = path.relative_to(ROOT).parts[0].removesuffix(".py")

    assert imported(path) & set(LAYERS) <= LAYERS[layer] | {layer}


def test_the_engine_knows_no_mongodb_no_parquet_and_no_http_library() -> None:
    """It defines the protocols that the stages fulfil."""
    for path in FILES:
        if path.relative_to(ROOT).parts[0] == "engine":
            assert not imported(path) & FOREIGN_TO_ENGINE, path


def test_the_check_sees_files_of_every_layer() -> None:
    """A check over nothing would always pass."""
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES} == set(LAYERS)
