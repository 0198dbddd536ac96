"""GPUs in sight from the command line: doctor, status, panel, summary and verdict, each GPU beside its server."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database
from rich.console import Console

from bench.parts.local_mongod import LocalMongod
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from commands.run.report import as_text
from engine.config import RunConfig
from engine.telemetry.panel import _panel
from engine.telemetry.status import read_status
from tests.crash.job import DIM, MODEL, Job, finish
from tests.parts.gpus import engine_with_gpus, fake_gpus, write_gpus

SERVERS = StandinConfig(
    backend="sim",
    ports=(0, 0),
    model_id=MODEL,
    dim=DIM,
    max_batch_requests=8,
    gpu=GpuConfig(fixed_overhead_s=0.03),
)


@pytest.fixture
def fleet() -> Iterator[StandinFleet]:
    """Two servers, each a process, as each has a GPU."""
    with StandinFleet(SERVERS, processes=2) as started:
        yield started


def call(job: Job, file: Path, *words: str) -> subprocess.Popen[str]:
    folders = job.folders
    return subprocess.Popen(
        engine_with_gpus(*words),
        env={
            **os.environ,
            "FAKE_NVML": str(file),
            "ENGINE_MONGO_URI": job.uri,
            "ENGINE_DATABASE": job.database.name,
            "ENGINE_COLLECTION": job.collection,
            "ENGINE_DONE_FIELD": "embedded",
            "ENGINE_TEI_URLS": ",".join(job.urls),
            "ENGINE_HOT_DIR": str(folders.hot.parent),
            "ENGINE_COLD_DIR": str(folders.cold.parent),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.seconds
def test_a_run_says_what_the_gpus_of_its_servers_did_while_it_goes_on_and_at_its_end(
    tmp_path: Path, mongod: LocalMongod, mongo_db: Database[dict[str, Any]], fleet: StandinFleet
) -> None:
    """Two GPUs of servers, one hot; a third that somebody else uses is in the data and in no sentence."""
    first, second = fleet.pids
    file = write_gpus(
        tmp_path, {"pids": [second], "reasons": 0x20}, {"pids": [first], "utilization": 40}, {"pids": [1]}
    )
    job = Job(folder=tmp_path, uri=mongod.uri, database=mongo_db, urls=fleet.urls)
    job.insert([{"_id": number, "text": f"tweet {number}", "lang": "en"} for number in range(1500)])
    doctor = finish(call(job, file, "doctor"))
    assert doctor.code == 0, doctor.err
    assert "GPU 0 (NVIDIA Fake 24GB): 97% busy, 6.0 of 24.0 GiB, 310 of 350 W, 71 C, throttled: heat" in doctor.out
    assert f"warning: GPU 0 of {fleet.urls[1]} runs slower than it could (heat)" in doctor.out
    for port in fleet.ports:
        fleet.control(port, slow_factor=20.0)  # until its GPUs have been seen
    run = call(job, file, "run", "--json", "--batch-size", "8")
    # a server's processes may not all be seen at once: the match of each is waited for
    while sum(gpu["server"] is not None for gpu in (read_status(job.folders.status) or {}).get("gpus", [])) < 2:
        assert run.poll() is None, "the GPUs were never both matched"
        time.sleep(0.05)
    live = json.loads(finish(call(job, file, "status", "--json")).out)
    for port in fleet.ports:
        fleet.control(port, slow_factor=0.1)
    assert [gpu["server"] for gpu in live["gpus"]] == [fleet.urls[1], fleet.urls[0], None]
    done = finish(run)
    assert done.code == 0, done.err
    found = {gpu["index"]: gpu for gpu in done.summary["gpus"]}
    assert found[0]["server"] == fleet.urls[1]
    assert found[0]["utilization"] == 0.97
    assert found[0]["throttled"] == {"heat": 1.0}
    assert found[0]["energy_wh"] > 0
    assert found[2]["server"] is None
    assert "their GPUs were 40% to 97% busy; throttled by heat (1 of 2)" in done.summary["bottleneck"]
    text = as_text(done.summary, RunConfig())
    assert f"GPU 1 of {fleet.urls[0]}: 40% busy, 6.0 of 24.0 GiB" in text
    assert "GPU 2" not in text


def test_the_panel_shows_each_gpu_beside_its_server() -> None:
    gpu: dict[str, Any] = {
        "index": 3,
        "server": "http://a:1",
        "utilization": 0.5,
        "memory_used_bytes": 1 << 30,
        "memory_total_bytes": 2 << 30,
        "power_w": 99.6,
        "power_limit_w": None,
        "temperature_c": 60,
        "throttled": [],
    }
    figures: dict[str, Any] = {
        "embedded_now": 1,
        "run": "r",
        "phase": "running",
        "rate": 1.0,
        "rate_of_minutes": 1.0,
        "left_at_start": None,
        "shards": 0,
        "quarantined": 0,
        "rings": {},
        "clients": {"client-0": {"url": "http://a:1"}, "client-1": {"url": "http://b:1"}},
    }

    def shown(**more: Any) -> str:
        console = Console(file=io.StringIO(), width=160, record=True)
        console.print(_panel({**figures, **more}))
        return console.export_text()

    assert "3: 50% busy, 1.0 of 2.0 GiB, 100 W, 60 C" in shown(gpus=[gpu])
    assert "GPU" not in shown()
    assert "GPU" not in shown(gpus=[{**gpu, "server": None}])


def test_a_machine_with_gpus_that_cannot_be_seen_is_told_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from commands.doctor.report import gpu_warnings

    with fake_gpus(tmp_path, {}):
        assert gpu_warnings(()) == []
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        from engine.gpus import nvml

        nvml.forget()
        assert "pip install 'embedding-engine[gpu]'" in gpu_warnings(())[0]
