"""GPUs for tests: the library of `fake_nvml`, in this process or in a command that a test starts."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.gpus import driver, nvml
from engine.supervision.interpreter import python

LIBRARY = Path(__file__).resolve().parent / "fake_nvml"


@contextlib.contextmanager
def fake_gpus(folder: Path, *gpus: dict[str, Any]) -> Iterator[Path]:
    """Give this process GPUs; the file that describes them may be written anew at any time."""
    file = write_gpus(folder, *gpus)
    before = {name: os.environ.get(name) for name in ("FAKE_NVML",)}
    former, files = sys.modules.pop("pynvml", None), driver.DEVICE_FILES
    os.environ["FAKE_NVML"] = str(file)
    sys.path.insert(0, str(LIBRARY))
    importlib.invalidate_caches()
    driver.DEVICE_FILES = (file,)
    nvml.forget()
    try:
        yield file
    finally:
        sys.path.remove(str(LIBRARY))
        sys.modules.pop("pynvml", None)
        if former is not None:
            sys.modules["pynvml"] = former
        driver.DEVICE_FILES = files
        nvml.forget()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def write_gpus(folder: Path, *gpus: dict[str, Any]) -> Path:
    """Describe the GPUs."""
    file = folder / "gpus.json"
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(gpus), encoding="utf-8")
    draft.replace(file)
    return file


def engine_with_gpus(*arguments: str) -> list[str]:
    """The command `engine ARGUMENTS` on a machine whose GPUs stand in the file that FAKE_NVML names."""
    return python("tests.parts.gpus", *arguments)


def main() -> None:
    """Be the engine with those GPUs in sight."""
    from cli import main as engine

    with fake_gpus_of_the_environment():
        engine()


@contextlib.contextmanager
def fake_gpus_of_the_environment() -> Iterator[None]:
    """As `fake_gpus`, for GPUs that stand in a file already."""
    sys.path.insert(0, str(LIBRARY))
    driver.DEVICE_FILES = (Path(os.environ["FAKE_NVML"]),)
    yield


if __name__ == "__main__":
    main()
