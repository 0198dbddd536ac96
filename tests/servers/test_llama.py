"""A server that is not ours: llama.cpp with a real small model, from the doctor to a proof of the result.

`make test-servers` installs it; without it these tests are skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymongo.database import Database

from bench.parts import tweets
from bench.parts.local_mongod import LocalMongod
from bench.standin import StandinConfig, StandinFleet
from engine.supervision.interpreter import python
from engine.telemetry.status import read_status
from tests.conftest import outlives_tests
from tests.crash.job import Ended, Job, finish
from tests.servers.minilm_gguf import write_gguf

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("gguf") is None,
        reason="`make test-servers` installs llama.cpp's server",
    ),
]
N = 60
LONG = "a long story about a cat and a dog who met in the rain " * 45  # beyond 512 tokens


PATIENCE_S = 900.0
"""One core of a busy machine may embed a text in a second; only a failure waits that long."""


def call(job: Job, *words: str) -> Ended:
    """Run a command to its end."""
    return finish(job.start(*words), PATIENCE_S)


def run_all(job: Job, *words: str) -> Ended:
    """`engine run --json` to its end."""
    return finish(job.start_run(*words), PATIENCE_S)


class Llama:
    """One server on a port of its own, which can be killed and started again."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.outlives = contextlib.ExitStack()
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            python("tests.servers.llama_server", str(self.model), str(self.port)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.outlives.enter_context(outlives_tests(self.process.pid))
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == self.url

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's file, 90 MB."""
    return write_gguf(tmp_path_factory.mktemp("llama") / "all-MiniLM-L6-v2.gguf")


@pytest.fixture(scope="module")
def llama(model: Path) -> Iterator[Llama]:
    """The server."""
    server = Llama(model)
    with server.outlives:
        yield server
    server.end()


@pytest.fixture
def job(tmp_path: Path, mongod: LocalMongod, mongo_db: Database[dict[str, Any]], llama: Llama) -> Job:
    """Real tweets, and a few texts that servers trip over."""
    found = Job(folder=tmp_path, uri=mongod.uri, database=mongo_db, urls=(llama.url,))
    texts = [*tweets.texts()[: N - 4], LONG, "!" * 400, "\U0001f600" * 300, "x"]
    found.insert([{"_id": number, "text": text, "lang": "en"} for number, text in enumerate(texts)])
    return found


def test_the_doctor_knows_what_it_is_and_how_its_vectors_come(llama: Llama, job: Job) -> None:
    told = call(job, "doctor", "--json")
    assert told.code == 0, told.err
    (server,) = json.loads(told.out)["servers"]
    assert server["reachable"]
    assert server["facts"]["kind"] == "openai"
    assert server["facts"]["max_input_length"] == 512
    assert server["facts"]["form"] == "base64"
    assert json.loads(told.out)["fingerprint"]["dim"] == 384


def test_a_run_embeds_all_of_it_and_the_vectors_are_those_of_the_model(job: Job) -> None:
    """As another implementation of the same model has them; what was too long was cut, not lost."""
    done = run_all(job)
    assert done.code == 0, done.err
    assert done.summary["embedded"] == N
    rows = job.rows()
    assert len(rows) == N
    with StandinFleet(StandinConfig(backend="minilm", max_input_length=512)) as fleet:
        again = Job(
            folder=job.folder / "again",
            uri=job.uri,
            database=job.database,
            urls=fleet.urls,
            options=(*job.options, "--no-mark", "--filter", '{"_id": {"$lt": 30}}', "--scan", "id"),
        )
        job.database[job.collection].update_many({}, {"$unset": {"embedded": ""}})
        other = run_all(again)
        assert other.code == 0, other.err
        known = again.rows()
    cosines = [float(np.dot(rows[number], known[number])) for number in known]
    assert len(cosines) == 30
    assert min(cosines) > 0.999, sorted(cosines)[:5]


def test_the_result_is_proved_by_embedding_a_sample_again(job: Job) -> None:
    assert run_all(job, "--limit", "30").code == 8
    assert run_all(job).code == 0
    proof = call(job, "verify", "--level", "5", "--json")
    assert proof.code == 0, proof.out + proof.err


@pytest.mark.parametrize("fault", ["killed", "stopped"])
def test_a_server_that_is_killed_or_stands_still_costs_time_and_no_document(job: Job, llama: Llama, fault: str) -> None:
    run = job.start_run("--max-outage", "600")
    deadline_s = time.monotonic() + PATIENCE_S
    while not (read_status(job.folders.status) or {}).get("embedded_now"):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    if fault == "killed":
        llama.end()
        llama.start()
    else:
        os.kill(llama.process.pid, signal.SIGSTOP)
        time.sleep(3.0)  # what it takes until requests in flight are late; the run decides what it does about them
        os.kill(llama.process.pid, signal.SIGCONT)
    done = finish(run, PATIENCE_S)
    assert done.code == 0, done.err
    assert done.summary["read"] == done.summary["embedded"] == N
    assert len(job.rows()) == N


def test_the_tuner_finds_a_point_on_it(llama: Llama, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(" ".join(text.split()) for text in tweets.texts()[:300]), encoding="utf-8")
    done = subprocess.run(
        python(
            *("cli", "bench", "--json", "--tei-urls", llama.url, "--texts", str(texts), "--batch-sizes", "4,8"),
            *("--seconds", "10", "--max-seconds", "90", "--out", str(tmp_path / "tuned.toml")),
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["chosen"]["docs_per_second"] > 0
    assert (tmp_path / "tuned.toml").exists()
