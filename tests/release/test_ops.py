"""What operates the engine elsewhere: images, compose file, unit, workflows. Each passes its own checker."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup

from cli import app
from commands.options.declared import DEFAULT_URI
from engine import __version__
from engine.errors import Exit
from engine.ray_address import RayAddress

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
    copied = {
        word
        for line in re.findall(r"^COPY (.*)$", (ROOT / "ops/Dockerfile").read_text(), re.M)
        for word in line.split()
    }
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    packages = {line for line in metadata["options.packages.find"]["include"].split() if "." not in line}
    data = {file.strip() for files in metadata["options.data_files"].values() for file in files.split(",")}
    assert packages and data
    assert packages | data | {"cli.py", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= copied


@pytest.mark.seconds
def test_the_compose_file_is_one() -> None:
    _of_schema("compose-spec", ROOT / "ops" / "compose.yaml")


def _manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "ops" / "kuberay" / name).read_text(encoding="utf-8")))


@pytest.fixture
def ray_job() -> dict[str, Any]:
    """The only object of its file: whoever deletes what is in it keeps the volumes."""
    (job,) = _manifests("rayjob.yaml")
    assert job["kind"] == "RayJob"
    return job


def _pods(ray_job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the head's and the workers' pods are made of."""
    cluster = ray_job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    return cluster["headGroupSpec"]["template"]["spec"], group["template"]["spec"]


def _script(ray_job: dict[str, Any]) -> str:
    """What the entrypoint has bash do."""
    bash, option, script = shlex.split(ray_job["spec"]["entrypoint"])
    assert (bash, option) == ("bash", "-c")
    return script


def _run_of(ray_job: dict[str, Any]) -> dict[str, Any]:
    """The options of the entrypoint's `engine run`, as the command itself understands them."""
    engine, *words = shlex.split(_script(ray_job).partition(";")[0])
    assert engine == "engine"
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    with command.make_context("engine", list(words), ignore_unknown_options=False) as context:
        name, run, rest = command.resolve_command(context, words)
        assert name == "run" and run is not None
        with run.make_context(name, list(rest), parent=context) as asked:
            assert not asked.args
            return asked.params


def _env(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_the_entrypoint_of_the_ray_job_is_a_run_that_finds_its_nodes_and_their_server(ray_job: dict[str, Any]) -> None:
    options = _run_of(ray_job)
    RayAddress(address=options["ray"], resource=options["ray_resource"])
    _, worker = _pods(ray_job)
    (group,) = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (tei,) = worker["initContainers"]

    offered = json.loads(json.loads(group["rayStartParams"]["resources"]))
    assert options["ray"] == "auto" and options["ray_resource"] in offered
    assert options["tei_urls"] == f"http://localhost:{tei['args'][tei['args'].index('--port') + 1]}"
    assert [port["containerPort"] for port in tei["ports"]] == [80]


@pytest.mark.parametrize("code", [0, *sorted(set(Exit) - {Exit.DONE})])
def test_the_ray_job_fails_exactly_where_a_run_does(ray_job: dict[str, Any], tmp_path: Path, code: int) -> None:
    (tmp_path / "engine").write_text(f"#!/bin/sh\nexit {int(code)}\n")
    (tmp_path / "engine").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"

    done = subprocess.run(["bash", "-c", _script(ray_job)], env={"PATH": path}, check=False)

    assert done.returncode == (0 if code in (Exit.QUARANTINED, Exit.LIMIT) else code)


def test_the_ray_job_has_its_secrets_from_secrets_alone(ray_job: dict[str, Any]) -> None:
    options = _run_of(ray_job)
    head, worker = _pods(ray_job)
    (driver,), (tei,) = head["containers"], worker["initContainers"]

    assert options["mongo_uri_"] == DEFAULT_URI and not options["mongo_uri_file"]
    assert _env(driver)["ENGINE_MONGO_URI"] == {"secretKeyRef": {"name": "engine", "key": "ENGINE_MONGO_URI"}}
    assert _env(tei)["HF_TOKEN"]["secretKeyRef"]["name"] == "engine"
    assert "Secret" not in {each["kind"] for each in [ray_job, *_manifests("volumes.yaml")]}
    assert "ENGINE_MONGO_URI=" in _kubernetes_page() and "secret generic engine --from-env-file" in _kubernetes_page()


def test_the_ray_job_has_one_version_of_ray_which_its_image_is_built_with(ray_job: dict[str, Any]) -> None:
    head, worker = _pods(ray_job)
    version = ray_job["spec"]["rayClusterSpec"]["rayVersion"]
    images = {container["image"] for pod in (head, worker) for container in pod["containers"]}

    assert images == {f"engine-ray:{version}"}
    assert f"--build-arg RAY={version} -t engine-ray:{version} ." in _kubernetes_page()
    assert {"EXTRAS=", "RAY="} <= set(re.findall(r"^ARG (.*)$", (ROOT / "ops/Dockerfile").read_text(), re.M))


def test_the_ray_job_is_of_one_piece_with_the_dockerfile_and_the_compose_file(ray_job: dict[str, Any]) -> None:
    head, worker = _pods(ray_job)
    (driver,), (node,), (tei,) = head["containers"], worker["containers"], worker["initContainers"]
    compose = yaml.safe_load((ROOT / "ops" / "compose.yaml").read_text(encoding="utf-8"))
    dockerfile = (ROOT / "ops" / "Dockerfile").read_text()
    folders = dict(re.findall(r"ENGINE_(HOT|COLD)_DIR=(\S+)", dockerfile))
    uid = int(re.findall(r"^USER (\d+)$", dockerfile, re.M)[0])

    assert _defaults(compose["x-tei"]["image"]) == tei["image"]
    assert [_defaults(word) for word in compose["x-tei"]["command"]] == tei["args"]
    assert compose["services"]["engine"]["command"][:3] == ["run", "--http", _run_of(ray_job)["http"]]
    assert {"name": "engine", "containerPort": 9100} in driver["ports"]
    mounts = {mount["name"]: mount["mountPath"] for mount in driver["volumeMounts"]}
    assert mounts == {"hot": folders["HOT"], "cold": folders["COLD"]}
    assert {name: _env(driver)[f"ENGINE_{name.upper()}_DIR"] for name in mounts} == mounts
    assert {"name": "cold", "mountPath": folders["COLD"]} in node["volumeMounts"]
    assert _env(node)["ENGINE_NODE_HOT_DIR"] in {mount["mountPath"] for mount in node["volumeMounts"]}
    assert {pod["securityContext"]["fsGroup"] for pod in (head, worker)} == {uid}
    for pod in (head, worker):
        mounted = {mount["name"] for each in pod["containers"] for mount in each["volumeMounts"]}
        mounted |= {mount["name"] for each in pod.get("initContainers", []) for mount in each["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"]: claim["spec"]["accessModes"] for claim in _manifests("volumes.yaml")}
    assert claims == {"engine-hot": ["ReadWriteOncePod"], "engine-cold": ["ReadWriteMany"]}
    claimed = {each.get("persistentVolumeClaim", {}).get("claimName") for each in head["volumes"]}
    assert claimed == set(claims)


def test_a_stop_of_the_ray_job_has_the_time_that_the_unit_gives_and_the_pods_more(ray_job: dict[str, Any]) -> None:
    pods = _pods(ray_job)
    (driver,) = pods[0]["containers"]
    stop_s = int(_env(driver)["RAY_JOB_STOP_WAIT_TIME_S"])

    assert stop_s >= int(_value((ROOT / "ops" / "engine@.service").read_text(), "TimeoutStopSec"))
    assert all(pod["terminationGracePeriodSeconds"] > stop_s for pod in pods)


def test_the_hooks_of_the_ray_job_wait_until_the_engines_processes_have_ended(ray_job: dict[str, Any]) -> None:
    named = (
        "from engine.supervision.interpreter import tie_to_parent\n"
        "tie_to_parent('node', None)\nprint(flush=True)\ninput()"
    )
    for pod in _pods(ray_job):
        (container,) = pod["containers"]
        *_, script = container["lifecycle"]["preStop"]["exec"]["command"]
        _checked("bash", "-n", "-c", script)
        (loop,) = re.findall(r"while .*; do sleep 1; done$", script, re.M)
        with subprocess.Popen(
            [sys.executable, "-c", named], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None and process.stdout is not None  # pipes
            process.stdout.readline()
            of_one = loop.replace("/proc/[0-9]*/comm", f"/proc/{process.pid}/comm")
            assert of_one != loop
            (question,) = re.findall(r"while (.*); do ", of_one)
            _checked("bash", "-c", question)
            process.stdin.write("end\n")
        _checked("bash", "-c", of_one)


def _kubernetes_page() -> str:
    return (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").partition("## On Kubernetes")[2]


def _defaults(text: str) -> str:
    """Compose's variables as they are when nobody sets them."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.mark.seconds
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


@pytest.mark.seconds
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
