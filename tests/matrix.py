"""`make test-matrix`: all but the longest tests on every Python found, with the newest and the lowest dependencies.

    python -m tests.matrix [--pythons 3.13,3.10] [--resolutions newest,lowest] [--jobs 2] [-- PYTEST ARGUMENTS]

We test only what we have, so this goes and finds what others have: every interpreter from 3.10 to 3.14 in the folders
of pyenv and on the PATH. `newest` installs what pip would install on a fresh machine today; `lowest` the lowest
versions that setup.cfg allows and that exist for that interpreter as wheels. Each pair gets an environment of its own
below `.matrix/`, which is kept, and brought up to date when setup.cfg changes. Nothing is found, nothing is tested:
that is an error. The code is the checkout's, the suite all but what is marked `crash` or `slow`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".matrix"
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
RESOLUTIONS = {"newest": "highest", "lowest": "lowest-direct"}
QUICK = ("-m", "not crash and not slow and not servers and not recipes")
# as in the Makefile, and for the same reason
PARTS = tuple(re.findall(r"\S+==\S+", re.search(r"^PARTS := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]))  # type: ignore[index]


@dataclass(frozen=True)
class Cell:
    """One interpreter with one choice of dependencies."""

    version: str
    python: str
    resolution: str

    @property
    def name(self) -> str:
        """For people, and the name of its folder."""
        return f"{self.version}-{self.resolution}"

    @property
    def bin(self) -> Path:
        """Where its interpreter lies."""
        return FOLDER / self.name / "bin"


def find_pythons() -> dict[str, str]:
    """An interpreter for each version that is there, by version; pyenv's newest patch before what the PATH has."""
    found: dict[str, str] = {}
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    patches = [path for path in folder.glob("3.*") if re.fullmatch(r"3\.\d+\.\d+", path.name)]
    for path in sorted(patches, key=lambda path: int(path.name.rpartition(".")[2])):
        found[path.name.rpartition(".")[0]] = str(path / "bin" / "python")
    candidates = (
        [str(path) for path in found.values()] + [f"python{version}" for version in VERSIONS] + [sys.executable]
    )
    found = {}
    for candidate in candidates:  # a shim that leads nowhere and a half-built interpreter are passed over
        says = "import sys, ssl, ctypes; print('%d.%d' % sys.version_info[:2], sys._base_executable)"
        try:
            done = subprocess.run([candidate, "-I", "-c", says], capture_output=True, text=True, check=False)
        except OSError:
            continue
        version, _, path = done.stdout.strip().partition(" ")
        if done.returncode == 0 and version in VERSIONS:
            found.setdefault(version, path)
    return found


def prepare(cell: Cell) -> None:
    """Make or renew the environment of a cell.

    Raises:
        subprocess.CalledProcessError: something cannot be installed; the installer has said what.
    """
    ready = cell.bin.parent / ".ready"
    setup = ROOT / "setup.cfg"
    if ready.exists() and ready.stat().st_mtime > setup.stat().st_mtime:
        return
    uv = [sys.executable, "-m", "uv"]
    if subprocess.run([*uv, "--version"], capture_output=True, check=False).returncode:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "uv"], check=True)
    quiet = ("--quiet", "--no-progress")
    subprocess.run([*uv, "venv", *quiet, "--clear", "--python", cell.python, str(cell.bin.parent)], check=True)
    install = [*uv, "pip", "install", *quiet, "--python", str(cell.bin / "python")]
    wheels = ("--only-binary", ":all:", "--no-binary", "embedding-engine")
    chosen = ("--resolution", RESOLUTIONS[cell.resolution])
    subprocess.run([*install, *wheels, *chosen, "--editable", f"{ROOT}[serve,plot,reading,dev]"], check=True)
    for part in PARTS:
        subprocess.run([*install, "--no-deps", part], check=False)
    ready.touch()


def test(cell: Cell, jobs: int, arguments: list[str]) -> bool:
    """Run the suite in a cell; whether it passed."""
    command = [str(cell.bin / "python"), "-m", "pytest", "-q", "--numprocesses", str(jobs), "--dist", "worksteal"]
    command += ["-o", f"cache_dir={FOLDER / cell.name / 'pytest'}", *(arguments or QUICK)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    """Test the cells that were asked for, one after the other, and say how each went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", default="", help="versions, or `newest` [default: all that are found]")
    parser.add_argument("--resolutions", default=",".join(RESOLUTIONS), help="newest, lowest or both")
    parser.add_argument("--jobs", type=int, default=2, help="processes of pytest")
    parser.add_argument("--prepare", action="store_true", help="only make the environments")
    parser.add_argument("pytest", nargs="*", help="instead of the quick suite")
    options = parser.parse_args()
    found = find_pythons()
    newest = max(found, key=VERSIONS.index, default="none")
    wanted = [newest if name == "newest" else name for name in options.pythons.split(",") if name] or list(found)
    if missing := [name for name in wanted if name not in found] or not wanted:
        sys.exit(f"no Python {missing}: found {', '.join(found) or 'none'} in pyenv's folders and on the PATH")
    outcomes: dict[str, str] = {}
    for version in sorted(wanted, key=VERSIONS.index):
        for resolution in options.resolutions.split(","):
            cell = Cell(version, found[version], resolution)
            started = time.monotonic()
            print(f"== Python {version} ({cell.python}), {resolution} dependencies", flush=True)
            try:
                prepare(cell)
                passed = options.prepare or test(cell, options.jobs, options.pytest)
                outcomes[cell.name] = "passed" if passed else "FAILED"
            except subprocess.CalledProcessError:
                outcomes[cell.name] = "CANNOT BE INSTALLED"
            outcomes[cell.name] += f" in {time.monotonic() - started:.0f} s"
    print("\n".join(f"{name:12} {outcome}" for name, outcome in outcomes.items()))
    return int(any(not outcome.startswith("passed") for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
