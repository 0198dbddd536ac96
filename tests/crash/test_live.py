"""What `engine run --http` tells while a run goes on, and the lines of `--log-format json`, on a real run."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from typing import Any

from bench.standin import StandinFleet
from tests.crash.job import SLOW, Job, finish, full_speed, slow_down, tweets, wait_for_commit, wait_until


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def get(url: str, **headers: str) -> tuple[str, Message]:
    """Body and headers of an answer."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=100) as answer:
        return answer.read().decode(), answer.headers


@contextmanager
def going(job: Job, fleet: StandinFleet, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A run midway, and where it serves."""
    slow_down(fleet)
    job.insert([*tweets(1000), {"_id": "empty", "text": ""}])
    url = f"http://127.0.0.1:{free_port()}"
    process = job.start_run(*SLOW, "--http", url.removeprefix("http://"), *options)
    wait_for_commit(job, process)
    yield process, url


def test_a_run_serves_its_page_metrics_health_and_status(job: Job, fleet: StandinFleet) -> None:
    with going(job, fleet, "--log-format", "json") as (process, url):
        wait_until(lambda: "engine_documents_committed_total" in get(f"{url}/metrics")[0], process=process)
        print(get(f"{url}/metrics")[0])
        status = json.loads(get(f"{url}/status.json")[0])
        page, headers = get(f"{url}/")
        health, _ = get(f"{url}/healthz")
        full_speed(fleet)
    done = finish(process)
    print(done.err)
    assert 0, status
