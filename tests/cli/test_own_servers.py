"""`engine serve` and `engine run --serve`: servers from the command line, from a file, and what ends them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from commands.options.declared import gpu_count
from engine.telemetry.status import read_status
from tests.cli.terminal import Terminal
from tests.crash.job import DIM, Job, finish
from tests.parts.listening_program import free_port
from tests.parts.server_binaries import write_binary

QUICK = f"--dim={DIM} --tokens-per-s=1e7 --fixed-overhead-s=0.0002"
SLOW = f"--dim={DIM} --fixed-overhead-s=0.05 --max-batch-requests=8"
N = 400


@pytest.fixture
def job(tmp_path: Path, mongod: LocalMongod, mongo_db: Database[dict[str, Any]]) -> Iterator[Job]:
    """Some tweets, and no servers; programs that look like real ones are on PATH."""
    for backend in ("tei", "vllm"):
        write_binary(tmp_path, backend)
    found = Job(folder=tmp_path, uri=mongod.uri, database=mongo_db, urls=("http://127.0.0.1:1",))
    found.environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "FAKE_SERVER_FLAGS": QUICK,
        "CUDA_VISIBLE_DEVICES": "",
    }
    found.insert([{"_id": number, "text": f"tweet {number}", "lang": "en"} for number in range(N)])
    yield found


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    deadline_s = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.02)


def listeners(port: int) -> set[int]:
    return {one.pid for one in psutil.net_connections("tcp") if one.laddr and one.laddr.port == port and one.pid}


def servers_at(port: int) -> list[psutil.Process]:
    found = []
    for pid in listeners(port):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if "bench.standin" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.seconds
def test_one_command_starts_the_servers_embeds_and_ends_them(job: Job) -> None:
    ports = (free_port(), free_port())
    words = ("--serve", "--backend", "tei", "--model", "some/model", "--ports", f"{ports[0]},{ports[1]}")
    done = job.run(*words, "--", "--max-client-batch-size", "4")
    assert done.code == 0, done.err
    assert done.summary["embedded"] == N
    assert [server["url"] for server in done.summary["servers"]] == [f"http://127.0.0.1:{port}" for port in ports]
    assert "batch size lowered from 8 to 4" in done.err, "a flag behind -- reached the servers"
    assert "--max-batch-tokens=16384" in done.err, "flags are printed"
    assert not listeners(ports[0])
    logs = sorted(path.name for path in (job.folders.hot.parent / "servers").iterdir())
    assert logs == sorted(f"{port}.log" for port in ports)


@pytest.mark.seconds
def test_a_serve_table_is_enough_and_servers_that_run_already_are_used(job: Job) -> None:
    """One file for `engine serve` in one terminal and `engine run` in another, and for `engine run` alone."""
    port = free_port()
    file = job.folder / "engine.toml"
    file.write_text(
        f'[serve]\nbackend = "vllm"\nmodel = "some/model"\nports = "{port}"\nflags = "--dtype=float16"\n'
        '[run]\nshard_bytes = "64KiB"\n',
        encoding="utf-8",
    )
    alone = job.run("--config", str(file), "--limit", "20")
    assert alone.code == 8, alone.err
    assert alone.summary["embedded"] == 20
    serving = job.start("serve", "--config", str(file), "--json")
    try:
        assert serving.stdout is not None
        (server,) = json.loads(serving.stdout.readline())["servers"]
        assert "--dtype=float16" in server["flags"]
        with_it = job.run("--config", str(file))
        assert (with_it.code, with_it.summary["embedded"]) == (0, N - 20), with_it.err
        assert "starting http" not in with_it.err
        assert psutil.pid_exists(server["pid"])
    finally:
        serving.send_signal(signal.SIGTERM)
        ended = finish(serving)
    assert ended.code == 0, ended.err
    assert not psutil.pid_exists(server["pid"])


@pytest.mark.crash
def test_g6_a_run_that_is_killed_leaves_no_server_and_the_same_command_goes_on(job: Job) -> None:
    port = free_port()
    words = ("--serve", "--backend", "tei", "--model", "some/model", "--ports", str(port))
    run = job.start_run(*words, FAKE_SERVER_FLAGS=SLOW)
    wait_for(lambda: (read_status(job.folders.status) or {}).get("embedded_now"))
    servers = servers_at(port)
    assert servers
    os.kill(run.pid, signal.SIGKILL)
    finish(run)
    _, alive = psutil.wait_procs(servers, timeout=30)
    assert not alive
    done = job.run(*words)
    assert done.code == 0, done.err
    assert len(job.rows()) == N


@pytest.mark.crash
def test_a_server_that_dies_during_a_run_is_started_again_and_nothing_is_lost(job: Job) -> None:
    port = free_port()
    words = ("--serve", "--backend", "tei", "--model", "some/model", "--ports", str(port))
    run = job.start_run(*words, FAKE_SERVER_FLAGS=SLOW)
    wait_for(lambda: (read_status(job.folders.status) or {}).get("embedded_now"))
    for server in servers_at(port):  # the first one's end is that of its own processes: nothing is asked in between
        with contextlib.suppress(psutil.NoSuchProcess):
            server.kill()
    done = finish(run)
    assert done.code == 0, done.err
    assert "server_ended" in done.err
    assert len(job.rows()) == N


@pytest.mark.crash
def test_ctrl_c_ends_a_run_cleanly_and_its_servers_after_it(job: Job) -> None:
    """The terminal signals everybody; the servers still answer what is in flight."""
    port = free_port()
    run = job.start_run(
        "--serve", "--backend", "tei", "--model", "some/model", "--ports", str(port), FAKE_SERVER_FLAGS=SLOW
    )
    wait_for(lambda: (read_status(job.folders.status) or {}).get("embedded_now"))
    os.killpg(run.pid, signal.SIGINT)
    done = finish(run)
    assert done.code == 130, done.err
    assert done.summary["embedded"] > 0
    assert not listeners(port)


def test_a_server_that_cannot_start_ends_the_run_with_its_last_words(job: Job) -> None:
    ended = job.run("--serve", "--backend", "tei", "--model", "m", "--ports", "0", FAKE_SERVER_MODE="refuses")
    assert ended.code == 7
    assert "error: the model cannot be found" in ended.err
    assert ended.summary["exit"] == 7


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "--serve", "--backend", "tei"), "--backend tei needs --model"),
        (("run", "--serve", "--model", "m", "--tei-urls", "http://x:1"), "--tei-urls and --serve exclude each other"),
        (("run", "stray"), "nothing takes 'stray'"),
        (("run", "--serve", "--model", "m", "--binary", "sh", "--", "stray"), "'stray' is no flag of a server"),
        (("serve", "--backend", "tei", "--model", "m", "--gpus", "a"), "--gpus is 'a'; expected numbers"),
        (("serve", "--backend", "tei", "--model", "m"), "there is no program 'text-embeddings-router'"),
        (("serve", "--backend", "tei", "--model", "m", "--ports", "x"), "'x' is not a port"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(engine: Terminal, arguments: tuple[str, ...], sentence: str) -> None:
    said = engine(*arguments)
    assert said.code == 2
    assert sentence in said.err


def test_the_price_of_gpus_takes_the_list_that_serve_takes(engine: Terminal) -> None:
    """One ENGINE_GPUS for both."""
    assert (gpu_count("4"), gpu_count("0,1,2")) == (4, 3)
    said = engine("status", "--gpu-hour-price", "1", ENGINE_GPUS="0,1,2")
    assert "no run in" in said.err, "it got as far as looking for the run"
    assert "x" in engine("status", "--gpus", "x").err


@pytest.mark.seconds
def test_stand_ins_are_served_as_before() -> None:
    from engine.supervision.interpreter import python

    process = subprocess.Popen(python("cli", "serve", "--backend", "sim", "--ports", "x"), stderr=subprocess.PIPE)
    _, complaint = process.communicate()
    assert process.returncode == 2
    assert b"'x' is not a port" in complaint
