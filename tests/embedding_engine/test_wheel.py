"""What is built for others: a wheel with one name in it, which works where the user's own modules lie about."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pymongo
import pytest

from bench.parts.local_mongod import LocalMongod
from bench.parts.tweets import documents
from bench.standin import StandinConfig, StandinFleet
from setup import under_one_name

ROOT = Path(__file__).resolve().parents[2]
TRAPS = ("engine", "readers", "writers", "cli", "numpy", "pyarrow")
IMPORT_ALL = """
import importlib, pkgutil, sys
import embedding_engine
for module in pkgutil.walk_packages(embedding_engine.__path__, "embedding_engine."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
taken = {name.partition(".")[0] for name in sys.modules}
print(*sorted(taken & {"engine", "readers", "gpu_clients", "writers", "bench", "commands", "cli"}))
"""


def _build(kind: str, source: Path, out: Path) -> Path:
    """Build with this environment's setuptools: nothing is fetched."""
    out.mkdir()
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.iterdir())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    tree = folder / "tree"  # a copy of what is tracked or new: a build writes into the tree
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    names = [name for name in files.stdout.decode().split("\0") if name]
    if not names:
        pytest.skip("not a git checkout: what belongs to the source is not known")
    for name in names:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    archive = _build("sdist", tree, folder / "dist")
    subprocess.run(["tar", "xzf", str(archive), "-C", str(folder)], check=True)
    return next(path for path in folder.iterdir() if path.name.startswith(("embedding_engine-", "embedding-engine-")))


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel that the source distribution builds."""
    return _build("wheel", sdist, sdist.parent / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Python finds the wheel's package and none of the source tree's."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENGINE_")}
    return {**environment, "PYTHONPATH": str(site)}


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, with modules of his own that end whoever imports them."""
    folder = tmp_path_factory.mktemp("trap")
    for name in TRAPS:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user was imported')")
    return folder


@pytest.mark.seconds
def test_the_wheel_installs_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        promised = archive.read(next(name for name in names if name.endswith("top_level.txt"))).decode()
    beside = {name.partition("/")[2] for name in names if ".data/" in name}
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name and ".data/" not in name}
    assert tops == {"embedding_engine"}
    assert beside == {"data/share/man/man1/engine.1"}, "the manual page, which does not lie among the packages"
    assert promised.split() == ["embedding_engine"]
    assert "embedding_engine/py.typed" in names
    assert "embedding_engine/_layers/bench/data/tweets.jsonl" in names


@pytest.mark.seconds
def test_the_wheel_of_the_tree_is_the_wheel_of_the_sdist(wheel: Path, sdist: Path) -> None:
    again = _build("wheel", sdist.parent / "tree", sdist.parent / "again")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        contents = [{name: archive.read(name) for name in archive.namelist()} for archive in (one, other)]
    assert contents[0].keys() == contents[1].keys()
    assert [name for name in contents[0] if contents[0][name] != contents[1][name]] == []


@pytest.mark.seconds
def test_every_module_of_the_wheel_imports_nothing_under_the_source_trees_names(
    installed: dict[str, str], trap: Path, tmp_path: Path
) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(IMPORT_ALL)
    done = subprocess.run(
        [sys.executable, str(probe)], cwd=trap, env=installed, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.seconds
def test_a_run_a_merge_and_a_verification_from_the_wheel_pass_by_the_users_modules(
    installed: dict[str, str], trap: Path, tmp_path: Path, mongod: LocalMongod
) -> None:
    database = "wheel"
    with pymongo.MongoClient(mongod.uri) as client, StandinFleet(StandinConfig(ports=(0,), dim=8)) as fleet:
        client.drop_database(database)
        client[database]["tweets"].insert_many(list(documents(200)))
        environment = {
            **installed,
            "ENGINE_MONGO_URI": mongod.uri,
            "ENGINE_DATABASE": database,
            "ENGINE_TEI_URLS": ",".join(fleet.urls),
            "ENGINE_HOT_DIR": str(tmp_path / "hot"),
            "ENGINE_COLD_DIR": str(tmp_path / "cold"),
        }
        for arguments in (["--version"], ["index"], ["run"], ["merge"], ["verify", "--level", "4"]):
            done = subprocess.run(
                [sys.executable, "-m", "embedding_engine", *arguments],
                cwd=trap,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{arguments}: {done.stderr}"
        client.drop_database(database)
    assert list((tmp_path / "cold" / f"{database}.tweets" / "consolidated").glob("*.parquet"))


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ("from engine import __version__", "from embedding_engine._layers.engine import __version__"),
        (
            "    from readers.mongo.ids import key_of",
            "    from embedding_engine._layers.readers.mongo.ids import key_of",
        ),
        ("from engineering import x", "from engineering import x"),
        ("from embedding_engine.library import run", "from embedding_engine.library import run"),
    ],
)
def test_imports_of_the_layers_move_under_the_packages_name(line: str, moved: str) -> None:
    source = f"if True:\n{line}\n" if line.startswith(" ") else f"{line}\n"
    assert moved in under_one_name(source, "x.py")


@pytest.mark.parametrize("line", ["import engine", "import writers.merge.run", "import os, engine.config as c"])
def test_an_import_that_cannot_be_moved_ends_the_build(line: str) -> None:
    with pytest.raises(ValueError, match=r"x\.py:1 imports"):
        under_one_name(f"{line}\n", "x.py")
