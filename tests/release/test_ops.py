"""What operates the engine elsewhere: images, compose file, unit, workflows. Each passes its own checker."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine import __version__
from engine.errors import Exit

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TOOLS = ROOT / ".parts" / "go"


def _tool(name: str) -> str:
    """A checker on the PATH, or where `make lint-ops` builds it; empty when it is nowhere."""
    return shutil.which(name) or shutil.which(name, path=str(TOOLS)) or ""


ACTIONLINT, COMPOSE = _tool("actionlint"), _tool("compose-config")
FORMS = [ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml" for name in ("bug", "idea")]


def _checked(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _of_schema(schema: str, *paths: Path) -> None:
    assert paths
    _checked(str(BIN / "check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *map(str, paths))


def test_the_dockerfile_passes_its_linter() -> None:
    _checked(str(BIN / "hadolint"), "ops/Dockerfile")


def test_the_dockerfile_copies_all_that_the_wheel_is_made_of() -> None:
    copied = set(
        re.findall(r"[\w.]+", " ".join(re.findall(r"^COPY (.*)$", (ROOT / "ops/Dockerfile").read_text(), re.M)))
    )
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    packages = {line for line in metadata["options.packages.find"]["include"].split() if "." not in line}
    assert packages | {"cli.py", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= copied


def test_the_compose_file_is_one() -> None:
    _of_schema("compose-spec", ROOT / "ops" / "compose.yaml")


def test_workflows_and_forms_are_valid() -> None:
    _of_schema("github-workflows", *WORKFLOWS)
    _of_schema("github-issue-forms", *FORMS)


@pytest.mark.skipif(not ACTIONLINT, reason="`make lint-ops` builds actionlint, for which it needs Go")
def test_workflows_pass_actionlint() -> None:
    _checked(ACTIONLINT, *map(str, WORKFLOWS))


@pytest.mark.skipif(not COMPOSE, reason="`make lint-ops` builds the loader of docker compose, for which it needs Go")
def test_docker_composes_own_loader_resolves_the_compose_file() -> None:
    """With every set of profiles; `docker compose config` says what this says."""
    plain = _composed(ROOT / "ops" / "compose.yaml")
    services = json.loads(plain.stdout)["services"]
    assert plain.returncode == 0 and set(services) == {"mongodb", "engine"}, plain.stderr
    assert services["engine"]["build"]["context"] == str(ROOT)
    everything = _composed(ROOT / "ops" / "compose.yaml", "tei", "monitoring")
    assert everything.returncode == 0, everything.stderr
    more = {"prometheus", "grafana", *(f"tei-{gpu}" for gpu in range(4))}
    assert set(json.loads(everything.stdout)["services"]) == {*services, *more}


@pytest.mark.skipif(not COMPOSE, reason="`make lint-ops` builds the loader of docker compose, for which it needs Go")
@pytest.mark.parametrize(("there", "lost"), [("- models:", "- modelz:"), ("      mongodb:\n", "      mongo:\n")])
def test_a_volume_or_a_service_that_is_not_there_would_be_seen(tmp_path: Path, there: str, lost: str) -> None:
    text = (ROOT / "ops" / "compose.yaml").read_text()
    assert there in text
    (tmp_path / "compose.yaml").write_text(text.replace(there, lost))
    done = _composed(tmp_path / "compose.yaml", "tei")
    assert done.returncode == 1
    assert "undefined" in done.stderr


def _composed(path: Path, *profiles: str) -> subprocess.CompletedProcess[str]:
    home = {"HOME": os.environ.get("HOME", "/")}
    return subprocess.run([COMPOSE, str(path), *profiles], env=home, capture_output=True, text=True, check=False)


def test_workflows_pin_their_actions_and_ask_for_no_more_than_they_need() -> None:
    _checked(str(BIN / "zizmor"), "--offline", "--no-progress", ".github/workflows")
    for path in WORKFLOWS:
        for action in re.findall(r"uses: (\S+)", path.read_text()):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), f"{path.name}: {action}"


def test_workflows_call_targets_that_the_makefile_has() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    called = {target for path in WORKFLOWS for target in re.findall(r"run: make ([a-z-]+)", path.read_text())}
    assert called
    assert called <= targets


def test_the_citation_is_valid_and_of_this_version() -> None:
    path = ROOT / "CITATION.cff"
    _of_schema("citation-file-format", path)
    assert f"\nversion: {__version__}\n" in path.read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_the_unit_passes_systemds_own_check(tmp_path: Path) -> None:
    text = (ROOT / "ops" / "engine@.service").read_text()
    unit = tmp_path / "engine@.service"
    unit.write_text(text.replace("/opt/engine/bin/engine", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(unit.name) not in done.stderr, done.stderr


def test_the_unit_restarts_what_a_restart_can_mend() -> None:
    text = (ROOT / "ops" / "engine@.service").read_text()
    prevented = {int(code) for code in _value(text, "RestartPreventExitStatus").split()}
    success = {int(code) for code in _value(text, "SuccessExitStatus").split()}
    again = {int(code) for code in Exit} - prevented - success - {0, Exit.NO_OPERATING_POINT}
    assert again == {Exit.UNEXPECTED, Exit.OUTPUT_DEVICE, Exit.MONGODB, Exit.SERVERS}
    assert success == {Exit.QUARANTINED, Exit.LIMIT, Exit.SIGINT, Exit.SIGTERM}
    assert _value(text, "KillSignal") == "SIGTERM"
    assert int(_value(text, "TimeoutStopSec")) > 150


def _value(unit: str, name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", unit, re.M)
    return str(value)
