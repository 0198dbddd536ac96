"""Stand-in processes: command line, readiness, the life-line, and an orderly end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

import orjson
import psutil
import pytest
import requests

from bench.standin import Dialect, FleetError, GpuConfig, StandinConfig, StandinFleet
from bench.standin import fleet as fleet_module
from bench.standin.arguments import parse_arguments, parse_ports, parse_speeds, to_arguments
from engine.errors import ConfigError
from tests.bench.standin.client import embed, get, request_bytes


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.standin", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ready_line(process: subprocess.Popen[bytes]) -> dict[str, list[int]]:
    assert process.stdout is not None
    found: dict[str, list[int]] = orjson.loads(process.stdout.readline())
    return found


@pytest.mark.seconds
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_command_prints_its_ports_serves_them_and_ends_with_0_on_a_signal(stop: signal.Signals) -> None:
    with start("--ports", "0,0", "--backend", "sim") as process:
        ports = ready_line(process)["ports"]
        assert len(set(ports)) == 2
        for port in ports:
            assert get(f"http://127.0.0.1:{port}", "/info").status_code == 200
        process.send_signal(stop)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_signal_ends_a_server_with_requests_in_flight() -> None:
    with StandinFleet(StandinConfig(faults=("black_hole",))) as fleet:
        with socket.create_connection(("127.0.0.1", fleet.ports[0])) as sock:
            sock.sendall(request_bytes("/embed", {"inputs": "a"}))
            while fleet.control(fleet.ports[0])["in_flight_inputs"] != 1:
                time.sleep(0.002)
        assert fleet.stop() == [0]


@pytest.mark.seconds
def test_with_a_lifeline_the_end_of_stdin_ends_the_server() -> None:
    with start("--lifeline") as process:
        ready_line(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.seconds
def test_the_servers_of_a_fleet_end_when_its_owner_is_killed() -> None:
    script = (
        "import sys, time; from bench.standin import StandinFleet; fleet = StandinFleet().start(); "
        "sys.stdout.write(f'{fleet.pid}\\n'); sys.stdout.flush(); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        server = psutil.Process(int(owner.stdout.readline()))
        owner.kill()
        owner.wait(60)
    gone, alive = psutil.wait_procs([server], timeout=60)
    assert not alive
    assert len(gone) == 1


def test_a_taken_port_is_one_sentence_and_exit_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(FleetError, match=r"cannot listen on 127\.0\.0\.1:\d+ \(Address already in use\)"):
            StandinFleet(StandinConfig(ports=(taken.getsockname()[1],))).start()


@pytest.mark.seconds
def test_a_bad_fault_on_the_command_line_is_one_sentence_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.standin", "--fault", "nonsense"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"fault 'nonsense': unknown kind")
    assert done.stderr.count(b"\n") == 1


def test_every_setting_survives_the_way_through_the_command_line() -> None:
    config = StandinConfig(
        backend="sim",
        ports=(0, 18080),
        speeds=(1.0, 2.5),
        dialect=Dialect.V1_8,
        model_id="a/model",
        model_sha=None,
        dtype="float16",
        dim=96,
        max_input_length=128,
        max_batch_requests=8,
        auto_truncate=True,
        prompts=(("query", "query: "), ("doc", "a=b, c")),
        default_prompt_name="doc",
        gpu=GpuConfig(tokens_per_s=123.5, padded=False),
        faults=("status:code=503,every=3", '{"kind":"delay","s":1}'),
        count_texts=True,
        lifeline=True,
    )
    assert parse_arguments(to_arguments(config)) == config
    assert parse_arguments([]) == StandinConfig()


def test_the_api_key_of_a_fleet_is_in_no_process_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a command line of its own."""
    monkeypatch.setattr(fleet_module._Child, "popen", subprocess.Popen)
    with StandinFleet(StandinConfig(api_key="hush-hush")) as fleet:
        command = " ".join(psutil.Process(fleet.pid).cmdline())
        assert "bench.standin" in command
        assert "hush-hush" not in command
        assert get(fleet.urls[0], "/info").status_code == 401
        assert get(fleet.urls[0], "/info", Authorization="Bearer hush-hush").status_code == 200
    assert "hush-hush" not in repr(StandinConfig(api_key="hush-hush"))


def test_a_fleet_of_several_processes_keeps_the_order_and_survives_the_death_of_one() -> None:
    config = StandinConfig(
        backend="sim", ports=(0, 0, 0), speeds=(1.0, 2.0, 4.0), gpu=GpuConfig(fixed_overhead_s=0.008)
    )
    with StandinFleet(config, processes=3) as fleet:
        for url in fleet.urls:
            assert embed(url, "a").status_code == 200
        busy_s = [report["backend"]["standin_busy_seconds_total"] for report in fleet.reports()]
        assert busy_s[0] == pytest.approx(2 * busy_s[1]) == pytest.approx(4 * busy_s[2])
        assert len(set(fleet.pids)) == 3
        fleet.kill(fleet.ports[1])
        with pytest.raises(requests.ConnectionError):
            embed(fleet.urls[1], "a")
        assert embed(fleet.urls[2], "a").status_code == 200
        assert fleet.stop() == [0, -9, 0]


def test_control_through_the_port_and_through_the_fleet_is_the_same() -> None:
    with StandinFleet(StandinConfig(ports=(0, 0))) as fleet:
        answer = requests.post(fleet.urls[0] + "/_control", json={"faults": ["status:code=500"]}, timeout=60)
        assert answer.json()["faults"] == ["status"]
        assert [report["faults"] for report in fleet.reports()] == [["status"], []]
        refused = requests.post(fleet.urls[0] + "/_control", json={"faults": ["nonsense"]}, timeout=60)
        assert (refused.status_code, "unknown kind" in refused.json()["error"]) == (400, True)
        fleet.control(fleet.ports[0], max_concurrent_requests=2, max_client_batch_size=3, clear_faults=True)
        assert embed(fleet.urls[0], ["x"] * 3).status_code == 429
        assert embed(fleet.urls[0], ["x"] * 4).status_code == 422
        assert get(fleet.urls[0], "/info").json()["max_concurrent_requests"] == 2
        fleet.control(fleet.ports[0], reset_connections=True, reset_counters=True)
        assert fleet.control(fleet.ports[0])["requests"] == 0
        with pytest.raises(FleetError, match="No server of this fleet"):
            fleet.control(1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"backend": "gpu"}, "backend is 'gpu', expected one of canned, sim, minilm"),
        ({"ports": ()}, "ports"),
        ({"ports": (70_000,)}, "0 to 65535"),
        ({"ports": (5_000, 5_000)}, "each port once"),
        ({"speeds": (1.0, 2.0)}, "one factor for each of the 1 ports"),
        ({"speeds": (0.0,)}, "numbers above 0"),
        ({"dim": 0}, "dim is 0"),
        ({"max_concurrent_requests": 0}, "max_concurrent_requests is 0"),
        ({"slow_factor": 0}, "slow_factor"),
        ({"default_prompt_name": "x"}, "a name among prompts"),
        ({"backend": "minilm", "dim": 768}, "384"),
        ({"backend": "minilm", "max_input_length": 1024}, "512"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        StandinConfig(**changes)  # type: ignore[arg-type]


def test_ports_and_speeds_are_read_as_people_write_them() -> None:
    assert parse_ports("18080-18082,0") == (18080, 18081, 18082, 0)
    assert parse_speeds("1,1,2,4") == (1.0, 1.0, 2.0, 4.0)
    for text in ("abc", "1-x", "1,,2"):
        with pytest.raises(ConfigError, match="is not a port"):
            parse_ports(text)
    with pytest.raises(ConfigError, match="expected numbers"):
        parse_speeds("fast")


def test_more_input_length_than_batch_tokens_is_cut_silently_or_refused_as_on_the_real_server() -> None:
    config = StandinConfig(max_batch_tokens=100, max_input_length=200)
    with StandinFleet(config) as fleet:
        assert get(fleet.urls[0], "/info").json()["max_input_length"] == 100
    with pytest.raises(FleetError, match="above max_batch_tokens"):
        StandinFleet(StandinConfig(max_batch_tokens=100, max_input_length=200, auto_truncate=False)).start()
