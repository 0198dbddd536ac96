"""What a start costs before a command does anything: only what the command that is called needs is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

LATE = {"numpy", "orjson", "psutil", "pyarrow", "pymongo", "requests", "rich", "tomllib", "tomli"}
OWN_LATE = {"bench", "gpu_clients", "readers", "writers"}


def modules_after(code: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter has imported after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_command_line_imports_no_library_and_no_stage_before_a_command_is_called() -> None:
    """`engine --help` and a mistyped option answer at once."""
    there = modules_after("import cli, typer\ntyper.main.get_command(cli.app)")

    assert "commands" in there
    assert not there & (LATE | OWN_LATE)


@pytest.mark.seconds
@pytest.mark.parametrize(
    "module",
    ["commands.run.run", "writers.stage", "writers.merge.run", "writers.merge.outputs.group", "writers.verify.verify"],
)
def test_a_folder_as_cold_does_not_pay_for_object_stores(module: str) -> None:
    """The library is imported with a URL only, in every process."""
    late = "{'obstore', 'engine.objects.object_store'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}, sys\nprint(sorted({late} & set(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.seconds
@pytest.mark.parametrize("module", ["commands.run.run", "commands.status.status"])
def test_a_command_does_not_pay_for_the_tuner(module: str) -> None:
    """A run looks into a tuned file only when it is given one; `engine status` needs nothing but the run folder."""
    assert "bench" not in modules_after(f"import {module}")
