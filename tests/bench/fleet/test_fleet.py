"""Servers started by us: healthy before anybody asks them, started again, and gone with whoever started them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from bench.fleet import fleet as fleet_module
from bench.fleet.flags import Place, as_words, defaults, parse_flags
from bench.fleet.fleet import ServerFleet
from bench.fleet.plan import FleetPlan, server_specs
from engine.errors import ConfigError, ServersUnavailable
from engine.supervision.interpreter import python
from tests.parts.gpus import fake_gpus
from tests.parts.server_binaries import write_binary


def plan(folder: Path, **fields: Any) -> FleetPlan:
    known: dict[str, Any] = {"backend": "tei", "model": "some/model", "ports": (0,), "logs": folder / "servers"}
    if fields.get("backend", "tei") in ("tei", "vllm") and "docker" not in fields:
        known["binary"] = str(write_binary(folder, fields.get("backend", "tei")))
    return FleetPlan(**{**known, **fields})


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    deadline_s = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.02)


def info(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/info", timeout=30) as answer:
        found: dict[str, Any] = orjson.loads(answer.read())
    return found


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.seconds
def test_each_gpu_gets_a_server_with_flags_that_fit_and_those_that_were_given(tmp_path: Path) -> None:
    """Given flags go over ours; each process sees its own GPU alone; leaving ends them all."""
    (tmp_path / "gpus").mkdir()
    with fake_gpus(tmp_path / "gpus", {}, {}, {}):
        wanted = plan(tmp_path, gpus=(0, 2), ports=(0, 0), flags=parse_flags(["--max-batch-tokens", "4096"]))
        with ServerFleet(wanted) as fleet:
            facts = [info(url) for url in fleet.urls]
            report = fleet.report()
    assert [fact["max_batch_tokens"] for fact in facts] == [4096, 4096]
    assert [fact["model_dtype"] for fact in facts] == ["float16", "float16"]
    assert [server["gpu"] for server in report] == [0, 2]
    said = [Path(server["log"]).read_text(encoding="utf-8") for server in report]
    assert [re.findall(r"CUDA_VISIBLE_DEVICES=(\S+)", text) for text in said] == [["0"], ["2"]]
    assert all(gone(server["pid"]) for server in report)


@pytest.mark.seconds
def test_without_gpus_one_server_takes_each_port(tmp_path: Path) -> None:
    with ServerFleet(plan(tmp_path, ports=(0, 0))) as fleet:
        assert [info(url)["model_dtype"] for url in fleet.urls] == ["float32", "float32"]
        assert [server["gpu"] for server in fleet.report()] == [None, None]


@pytest.mark.seconds
def test_vllm_is_told_in_its_own_words(tmp_path: Path) -> None:
    with ServerFleet(plan(tmp_path, backend="vllm", model="google/embeddinggemma-300m")) as fleet:
        (server,) = fleet.report()
        assert info(server["url"])["model_id"] == "google/embeddinggemma-300m"
    assert "--dtype=bfloat16" in server["flags"]
    assert "--runner=pooling" in server["flags"]


@pytest.mark.seconds
def test_a_server_that_ends_is_started_again_on_its_port(tmp_path: Path) -> None:
    with ServerFleet(plan(tmp_path), first_rest_s=0.01) as fleet:
        (before,) = fleet.report()
        os.kill(before["pid"], signal.SIGKILL)
        wait_for(lambda: fleet.report()[0]["state"] == "serving" and fleet.report()[0]["pid"] != before["pid"])
        assert info(before["url"])["model_id"] == "some/model"
        assert fleet.report()[0]["restarts"] == 1


@pytest.mark.seconds
def test_a_keeper_that_is_killed_takes_its_server_along_and_both_come_again(tmp_path: Path) -> None:
    with ServerFleet(plan(tmp_path), first_rest_s=0.01) as fleet:
        (before,) = fleet.report()
        keeper = psutil.Process(before["pid"]).ppid()
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: gone(before["pid"]))
        wait_for(lambda: fleet.report()[0]["state"] == "serving")


@pytest.mark.seconds
def test_one_that_ends_again_and_again_is_given_up_and_the_others_serve_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fleet_module, "MAX_RESTARTS", 1)
    with ServerFleet(plan(tmp_path, ports=(0, 0)), first_rest_s=0.01) as fleet:
        for restarts in (1, 1):
            wait_for(lambda: fleet.report()[0]["state"] == "serving")
            os.kill(fleet.report()[0]["pid"], signal.SIGKILL)
            wait_for(lambda: fleet.report()[0]["state"] != "serving")
            assert fleet.report()[0]["restarts"] == restarts
        wait_for(lambda: fleet.report()[0]["state"] == "given up")
        assert fleet.report()[1]["state"] == "serving"
        assert info(fleet.urls[1])
        read_fd, write_fd = os.pipe()
        os.write(write_fd, b"x")
        assert fleet.wait_while_serving(read_fd)
        os.close(read_fd), os.close(write_fd)
    assert "server_given_up" in caplog.text


def test_a_server_that_ends_before_it_is_healthy_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong flag or model: to start it again would change nothing."""
    monkeypatch.setenv("FAKE_SERVER_MODE", "refuses")
    with pytest.raises(ServersUnavailable, match=r"ended with code 3 .*: error: the model cannot be found"):
        ServerFleet(plan(tmp_path)).start()


@pytest.mark.seconds
def test_a_server_that_is_never_healthy_is_named_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SERVER_MODE", "never healthy")
    with pytest.raises(ServersUnavailable, match="not healthy after 2 s: downloading the model"):
        ServerFleet(plan(tmp_path, start_timeout_s=2.0)).start()


@pytest.mark.seconds
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_child_of_a_server_that_leaves_its_session_is_ended_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """As vLLM's engine core might: whatever ends the server, nothing of it may keep the GPU's memory."""
    monkeypatch.setenv("FAKE_SERVER_MODE", "has a child")
    with ServerFleet(plan(tmp_path), first_rest_s=600) as fleet:
        (server,) = fleet.report()
        child = int(re.findall(r"child (\d+)", Path(server["log"]).read_text(encoding="utf-8"))[0])
        assert not gone(child)
        if how == "kill":
            os.kill(server["pid"], signal.SIGKILL)
            wait_for(lambda: fleet.report()[0]["state"] == "resting")
            assert gone(child)
    assert gone(child)


@pytest.mark.seconds
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_g6_the_servers_end_with_their_owner_whatever_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    """The life-line: within two seconds, as every child of the engine."""
    binary = write_binary(tmp_path, "tei")
    owner = subprocess.Popen(
        python("tests.bench.fleet.test_fleet", str(tmp_path), str(binary)),  # main() below
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FAKE_SERVER_MODE": "has a child"},
    )
    assert owner.stdout is not None
    server = psutil.Process(int(owner.stdout.readline()))
    family = [server, *server.children(recursive=True), server.parent() or server]
    owner.send_signal(number)
    owner.wait()
    owner.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


def main() -> None:
    """Own a server and do nothing more, for the test above."""
    folder, binary = map(Path, sys.argv[1:])
    fleet = ServerFleet(FleetPlan(backend="tei", model="m", ports=(0,), logs=folder, binary=str(binary))).start()
    sys.stdout.write(f"{fleet.report()[0]['pid']}\n")
    sys.stdout.flush()
    time.sleep(600)


@pytest.mark.seconds
def test_a_container_is_ended_by_name_since_it_is_no_child_of_the_program_that_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = write_binary(tmp_path, "docker")
    monkeypatch.setenv("FAKE_DOCKER", str(tmp_path))
    model = tmp_path / "model"
    model.mkdir()
    wanted = plan(tmp_path, docker="tei:1.9", binary=str(binary), model=str(model), gpus=(1,))
    with ServerFleet(wanted) as fleet:
        said = (tmp_path / "run.txt").read_text(encoding="utf-8").splitlines()
        (name,) = (word.partition("=")[2] for word in said if word.startswith("--name="))
        container = int((tmp_path / name).read_text(encoding="utf-8"))
        assert info(fleet.urls[0])["model_id"] == str(model)
        assert not gone(container)
    assert gone(container)
    assert f"--volume={model}:{model}:ro" in said
    assert "--gpus=device=1" in said
    assert said.index("tei:1.9") < said.index(f"--model-id={model}")


@pytest.mark.seconds
def test_a_log_keeps_what_came_last_and_never_grows_beyond_its_bound(tmp_path: Path) -> None:
    """text-embeddings-inference says a line for every request."""
    log = tmp_path / "1.log"
    noisy = "import sys; [sys.stdout.write('x' * 999 + '\\n') for _ in range(30_000)]; print('the end')"
    job = {"name": "1", "command": [sys.executable, "-c", noisy], "log": str(log), "container": []}
    keeper = subprocess.Popen(
        python("bench.fleet.keeper", orjson.dumps(job).decode()), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert keeper.wait(120) == 0
    assert log.read_text(encoding="utf-8").endswith("the end\n")
    sizes = [path.stat().st_size for path in (log, tmp_path / "1.log.1")]
    assert sum(sizes) < 18 << 20
    assert keeper.stdin is not None
    keeper.stdin.close()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"backend": "tgi"}, "--backend is 'tgi'; allowed is one of tei, vllm"),
        ({"model": None}, "needs --model"),
        ({"gpus": (0, 1), "ports": (0,)}, "--gpus names 2 GPUs and --ports 1 ports"),
        ({"binary": "no-such-router"}, "there is no program 'no-such-router'"),
        ({"flags": {"port": "1"}}, "--port is settled by"),
        ({"start_timeout_s": 0}, "--start-timeout is 0"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_before_anything_starts(
    tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        server_specs(plan(tmp_path, **fields))


@pytest.mark.seconds
def test_a_port_that_is_taken_and_a_gpu_that_is_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "gpus").mkdir()
    with ServerFleet(plan(tmp_path)) as fleet, fake_gpus(tmp_path / "gpus", {}, {}):
        port = int(fleet.urls[0].rpartition(":")[2])
        with pytest.raises(ConfigError, match=rf"port {port} cannot be used .*name other --ports"):
            server_specs(plan(tmp_path, ports=(port,), gpus=(1,)))
        with pytest.raises(ConfigError, match="--gpus names 7; this machine has 0, 1"):
            server_specs(plan(tmp_path, gpus=(7,)))


def test_all_gpus_in_sight_are_used_unless_the_environment_hides_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpus").mkdir()
    with fake_gpus(tmp_path / "gpus", {}, {}, {}):
        assert [spec.gpu for spec in server_specs(plan(tmp_path, ports=(0, 0, 0)))] == [0, 1, 2]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
        assert [spec.gpu for spec in server_specs(plan(tmp_path, ports=(0, 0)))] == [2, 0]


def test_flags_are_read_as_a_shell_hands_them_over() -> None:
    flags = parse_flags(["--a", "1", "--b=2", "--c", "-d", "--low", "-5"])
    assert flags == {"a": "1", "b": "2", "c": None, "d": None, "low": "-5"}
    assert as_words(flags) == ["--a=1", "--b=2", "--c", "--d", "--low=-5"]
    with pytest.raises(ConfigError, match="'x' is no flag"):
        parse_flags(["x"])


def test_default_flags_follow_from_model_and_memory() -> None:
    """Permits count texts and have to fill GPU batches of short ones; Gemma runs in float32 and needs memory."""
    small, large = Place(port=1, gpu=0, memory_bytes=16 << 30), Place(port=1, gpu=0, memory_bytes=80 << 30)
    assert defaults("tei", "m", small)["max-batch-tokens"] == "16384"
    assert defaults("tei", "m", large)["max-batch-tokens"] == "65536"
    assert defaults("tei", "google/embeddinggemma-300m", large)["max-batch-tokens"] == "16384"
    assert defaults("tei", "google/embeddinggemma-300m", large)["dtype"] == "float32"
    assert defaults("tei", "m", large)["dtype"] == "float16"
    assert int(defaults("tei", "m", large)["max-concurrent-requests"] or 0) * 20 >= 2 * 65_536
    shared = Place(port=1, gpu=0, memory_bytes=80 << 30, n_on_gpu=2)
    assert defaults("vllm", "m", shared)["gpu-memory-utilization"] == "0.45"
