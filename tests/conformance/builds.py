"""The Java and the Rust program, built once from the sources beside this file, by the tests themselves.

Libraries come from the public registries through `mvn` and `cargo`. What is built is kept in `.parts/` at the
root of the repository under a digest of the sources, behind a lock: two test workers, or two runs, build it once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".parts" / "conformance"
BUILD_SECONDS = 1500
COPY_JARS = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class Unavailable(Exception):
    """A tool is not on this machine, or its registry cannot be reached; the text is the reason for skipping."""


class BuildFailed(Exception):
    """A command of a build ended with an error; its last words are the text."""


def java_command() -> list[str]:
    """The command that runs `ReadRows`; Unavailable without a JDK, Maven or its registry."""
    _require("mvn", "javac", "java")
    built = _built("java", _build_java)
    flags = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]  # it runs for two seconds
    return ["java", *flags, "-cp", f"{built}/classes{os.pathsep}{built}/jars/*", "ReadRows"]


def rust_command() -> list[str]:
    """The command that runs `read-rows`; Unavailable without cargo or its registry."""
    _require("cargo", "rustc")
    return [str(_built("rust", _build_rust) / "read-rows")]


def _require(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"{' and '.join(missing)}: not on PATH")


def _build_java(source: Path, into: Path) -> None:
    jars, classes = into / "jars", into / "classes"
    _download("Maven Central", ["mvn", "-B", "-q", COPY_JARS, f"-DoutputDirectory={jars}"], source)
    _run(["javac", "--release", "17", "-Xlint:all", "-cp", f"{jars}/*", "-d", str(classes), "ReadRows.java"], source)


def _build_rust(source: Path, into: Path) -> None:
    target = CACHE / "rust-target"  # kept: a change of our own source then costs seconds
    host = next(line for line in _run(["rustc", "-vV"], source).splitlines() if line.startswith("host: ")).split()[1]
    _download("the registry of Rust crates", ["cargo", "fetch", "--locked", "--target", host], source)
    _run(["cargo", "build", "--locked", "--offline", "--target-dir", str(target)], source)
    into.mkdir()
    shutil.copy2(target / "debug" / "read-rows", into / "read-rows")


def _built(name: str, build: Callable[[Path, Path], None]) -> Path:
    """The folder of what `build` makes of the sources of that name; made by the first who needs it."""
    source = HERE / name
    files = sorted(path for path in source.rglob("*") if path.is_file() and "target" not in path.parts)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(source)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    made = CACHE / f"{name}-{digest.hexdigest()[:16]}"
    with _lock(name):
        if not made.is_dir():
            for old in CACHE.glob(f"{name}-{'[0-9a-f]' * 16}"):
                shutil.rmtree(old)
            with tempfile.TemporaryDirectory(dir=CACHE) as work:
                build(source, Path(work) / name)
                (Path(work) / name).rename(made)
    return made


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(registry: str, command: list[str], folder: Path) -> None:
    try:
        _run(command, folder)
    except BuildFailed as error:
        raise Unavailable(f"{registry} cannot be reached, or lacks what is needed: {error}") from error


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BuildFailed(
            f"{' '.join(command[:2])} ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"
        )
    return done.stdout
