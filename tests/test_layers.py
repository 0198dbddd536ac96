"""Imports point down: between layers, between the wings of a layer, and nowhere in a circle.

A layer is a top-level package. A wing is a sub-package of one, or a file that stands beside its sub-packages. `LAYERS`
says which layers a layer may use, `FLOORS` on which floor of its package every wing stands: a file may import from its
own wing and from wings on lower floors, never from one beside or above. Imports inside functions and under
`TYPE_CHECKING` count like all others, so that none can hide a wrong direction.
"""

from __future__ import annotations

import ast
import functools
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
    "embedding_engine": frozenset({"engine", "readers", "gpu_clients", "writers", "bench", "commands", "cli"}),
}
FLOORS: dict[str, list[set[str]]] = {  # of each package with sub-packages, the lowest floor first
    "engine": [
        {"errors", "records", "words"},
        {"memory", "ports", "gpus", "objects", "part", "leases", "ray_address"},
        {"telemetry"},
        {"ledger"},
        {"config", "recording", "exposition"},
        {"supervision"},
        {"cluster"},
    ],
    "readers": [
        {"batching"},
        {"mongo", "files"},
        {"preflight", "ranges"},
        {"settings"},
        {"opening"},
        {"stage"},
    ],
    "gpu_clients": [
        {"errors"},
        {"http"},
        {"vectors"},
        {"server_facts"},
        {"settings"},
        {"servers"},
        {"batches"},
        {"diagnosis"},
        {"delivery"},
        {"stage"},
    ],
    "gpu_clients.servers": [
        {"canary", "probe_request", "routes"},
        {"canary_request", "identity", "measured", "requester"},
        {"repeated_looks", "side_requests"},
        {"tokenizer"},
        {"probe"},
        {"doctor"},
    ],
    "writers": [
        {"files", "workers"},
        {"shards"},
        {"settings", "cold"},
        {"stage", "proof"},
        {"parquet"},
        {"merge"},
        {"verify"},
        {"search"},
    ],
    "writers.merge": [
        {"ledger"},
        {"config"},
        {"start", "recovery"},
        {"planning"},
        {"outputs"},
        {"sorting", "sources"},
        {"run"},
        {"merge"},
    ],
    "commands.composition": [
        {"canary", "patience", "tuned", "marking", "own_servers", "cold"},
        {"servers"},
        {"data_set", "source"},
        {"files", "stages"},
        {"partners"},
    ],
    "commands": [
        {"options", "terminal", "reference"},
        {"composition"},
        {"report", "status", "cluster"},
        {
            "bench",
            "demo",
            "doctor",
            "index",
            "merge",
            "plan",
            "quarantine",
            "run",
            "search",
            "serve",
            "verify",
        },
    ],
    "bench": [
        {"data"},
        {"parts"},
        {"standin", "forecast", "recording"},
        {"fleet", "diagnosis"},
        {"page"},
        {"tuner"},
        {"measure"},
    ],
    "bench.measure": [
        {"load"},
        {"beside", "client_capacity", "client_cpu", "client_poison", "merge_bench", "passes", "tuning"},
        {"pipeline"},
        {"cold_store", "leases", "shares", "sources", "start_time", "without_text"},
    ],
    "bench.standin": [
        {"config", "errors", "http"},
        {"api"},
        {"backends"},
        {"faults"},
        {"server"},
        {"process", "arguments"},
        {"fleet", "__main__"},
    ],
    "bench.tuner": [
        {"texts"},
        {"measure"},
        {"search"},
        {"explain", "joint"},
        {"tuning"},
        {"report"},
    ],
}
FOREIGN_TO_ENGINE = {"pymongo", "bson", "pyarrow", "requests", "typer", "click", "numpy"}
MAX_FILES = 12
MAX_LINES = 400


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(path for layer in LAYERS for path in [*ROOT.glob(f"{layer}/**/*.py"), *ROOT.glob(f"{layer}.py")])
MODULES = {_module(path): path for path in FILES}


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Full names of every module that a file imports, wherever the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            for alias in node.names:  # `from package import module` imports the module
                inner = f"{module}.{alias.name}"
                names.add(inner if inner in MODULES else module)
    return frozenset(names)


def own(path: Path) -> list[str]:
    """Those of them that are the project's own."""
    return sorted(name for name in imported(path) if name in MODULES and name != _module(path))


def floor_of(package: str, wing: str) -> int:
    """The number of the floor of `package` on which `wing` stands."""
    return next(number for number, wings in enumerate(FLOORS[package]) if wing in wings)


def wing_of(package: str, module: str) -> str:
    """The wing of `package` that holds `module`; empty for the package itself."""
    return module.removeprefix(package).lstrip(".").partition(".")[0]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_file_imports_only_from_its_own_layer_and_those_below(layer: str) -> None:
    """Siblings never import each other, and nothing imports upwards."""
    files = [path for path in FILES if path.relative_to(ROOT).parts[0].removesuffix(".py") == layer]
    found = {path: {name.partition(".")[0] for name in imported(path)} & set(LAYERS) for path in files}

    assert files
    assert not {
        str(path.relative_to(ROOT)): wrong
        for path, layers in found.items()
        if (wrong := layers - LAYERS[layer] - {layer})
    }


@pytest.mark.parametrize("package", sorted(FLOORS))
def test_a_file_imports_only_from_its_own_wing_and_those_on_lower_floors(package: str) -> None:
    """Within each package of several wings, as between layers."""
    wrong = []
    for module, path in MODULES.items():
        wing = wing_of(package, module) if module.startswith(f"{package}.") else ""
        for name in own(path) if wing else ():
            other = wing_of(package, name) if name.startswith(f"{package}.") else ""
            if other and other != wing and floor_of(package, other) >= floor_of(package, wing):
                wrong.append(f"{module} -> {name}")
            elif name == package:
                wrong.append(f"{module} -> {name}: a wing does not import the package around it")
    assert not wrong


@pytest.mark.parametrize("package", sorted(FLOORS))
def test_every_wing_stands_on_one_floor_of_the_table(package: str) -> None:
    """The table knows every wing, and no wing that is gone."""
    folder = ROOT / package.replace(".", "/")
    there = {path.stem for path in folder.glob("*.py")} - {"__init__"} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    named = [wing for wings in FLOORS[package] for wing in wings]

    assert sorted(named) == sorted(there)


def test_every_package_with_wings_is_in_the_table() -> None:
    """A new sub-package asks for a floor."""
    packages = {
        _module(path.parent.parent / "__init__.py") for layer in LAYERS for path in ROOT.glob(f"{layer}/**/__init__.py")
    }
    assert {package for package in packages if package in MODULES} == set(FLOORS)


def test_no_import_goes_in_a_circle() -> None:
    """Files that need each other are one file, or share something that wants a file below both."""
    graph = {module: set(own(path)) for module, path in MODULES.items()}
    while leaves := [module for module, targets in graph.items() if not targets & graph.keys()]:
        for module in leaves:
            del graph[module]
    while tops := [module for module in graph if not any(module in targets for targets in graph.values())]:
        for module in tops:
            del graph[module]
    assert not graph, f"in a circle or between two: {sorted(graph)}"


def test_nobody_has_to_read_more_than_a_dozen_names_to_find_a_file() -> None:
    """A folder with more wants wings."""
    counts = {path.parent: len([*path.parent.glob("*.py")]) - 1 for path in FILES if path.parent != ROOT}
    assert not {str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n > MAX_FILES}


def test_a_file_is_short_or_says_why_it_is_not() -> None:
    """Of tests too. The reason stands in the docstring: `Long because ...`."""
    for path in [*FILES, *ROOT.glob("tests/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MAX_LINES:
            assert "Long because" in (ast.get_docstring(ast.parse(text)) or ""), path.relative_to(ROOT)


def test_the_engine_knows_no_mongodb_no_parquet_and_no_http_library() -> None:
    """It defines the protocols that the stages fulfil."""
    for path in FILES:
        if path.relative_to(ROOT).parts[0] == "engine":
            assert not {name.partition(".")[0] for name in imported(path)} & FOREIGN_TO_ENGINE, path


def test_the_check_sees_files_of_every_layer() -> None:
    """A check over nothing would always pass."""
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES} == set(LAYERS)
