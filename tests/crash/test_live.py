"""What a run tells while it goes on, `--http`, `--log-format json`, `status --watch`; and `ops/` over it."""

from __future__ import annotations

import datetime
import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics import parser as openmetrics

from bench.standin import StandinFleet
from engine.exposition.families import DEPRECATED, FAMILIES
from tests.crash.job import SLOW, Job, finish, full_speed, slow_down, tweets, wait_for_commit, wait_until
from tests.parts.gpus import write_gpus
from tests.parts.promql import Series, found, scraped

OPS = Path(__file__).resolve().parents[2] / "ops"
ACCEPT_OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def get(url: str, **headers: str) -> str:
    """The body of an answer."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=100) as answer:
        return str(answer.read().decode())


@contextmanager
def midway(job: Job, fleet: StandinFleet, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A run midway, and where it serves."""
    with socket.create_server(("127.0.0.1", 0)) as server:  # closed again: a port that nobody else is likely to take
        address = f"127.0.0.1:{server.getsockname()[1]}"
    slow_down(fleet)
    job.insert([*tweets(1000), {"_id": "empty", "text": ""}])
    process = job.start_run(*SLOW, "--http", address, *options)
    wait_for_commit(job, process)
    yield process, f"http://{address}"


def panels() -> Iterator[tuple[str, str]]:
    """Title and expression of every query of the dashboard, its variables filled in."""
    dashboard = json.loads((OPS / "grafana" / "dashboards" / "engine.json").read_text(encoding="utf-8"))
    queries = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [(one["name"], one["expr"]) for one in dashboard["annotations"]["list"]]
    for title, expression in queries:
        yield title, expression.replace("$run", ".*").replace("$__rate_interval", "1m")
    (run,) = [one for one in dashboard["templating"]["list"] if one["name"] == "run"]
    assert run["definition"] == run["query"]["query"] == "label_values(engine_run_info, run)"
    yield "variable run", "sum by (run) (engine_run_info)"


def alerts() -> Iterator[tuple[str, str]]:
    """Name and expression of every alert."""
    for group in yaml.safe_load((OPS / "alerts.yml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def shown(series: list[Series]) -> set[str]:
    """Names of the families that a scrape has, a histogram's without what is put behind it."""
    names = {dict(one)["__name__"] for one in series}
    return names | {name.removesuffix("_bucket") for name in names}


def test_a_run_tells_people_and_monitoring_how_it_goes_and_is_none_the_worse(job: Job, fleet: StandinFleet) -> None:
    """Page, metrics, health and status; each query of the dashboard and each alert would return data of that run."""
    job.module = "tests.parts.gpus"
    job.environment = {"FAKE_NVML": str(write_gpus(job.folder, {"reasons": 0x20, "pids": [fleet.pid]}))}
    with midway(job, fleet, "--log-format", "json") as (process, url):
        watching = job.start("status", "--watch", "--json")
        everything = {family.name for family in (*FAMILIES, *DEPRECATED)}
        wait_until(lambda: everything <= shown(scraped(get(f"{url}/metrics"))), what="every metric", process=process)
        series = scraped(get(f"{url}/metrics"))
        strict = list(openmetrics.text_string_to_metric_families(get(f"{url}/metrics", Accept=ACCEPT_OPENMETRICS)))
        status = json.loads(get(f"{url}/status.json"))
        page, health = get(f"{url}/"), get(f"{url}/healthz")
        said = json.loads(job.call("status", "--json").out)
        full_speed(fleet)
    done = finish(process)
    watched = [json.loads(line) for line in finish(watching).out.splitlines()]

    assert done.code == 3
    job.assert_exact(quarantined={"empty": "empty"})
    assert len(strict) >= len(FAMILIES)
    for name, expression in [*panels(), *alerts()]:
        assert found(expression, series), f"{name}: {expression} finds nothing"
    assert (status.keys(), status["run"], status["pid"]) == (said.keys(), said["run"], said["pid"])
    assert status["quarantine"] == {"documents": 1, "reasons": {"empty": 1}}
    assert page.startswith("<!DOCTYPE html>")
    assert f"<title>Report: {status['run']}</title>" in page
    assert 'http-equiv="refresh"' in page
    assert health == "ok\n"
    assert [one["running"] for one in watched] == [True] * (len(watched) - 1) + [False]
    assert watched[-1]["exit"] == 3
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.err.splitlines()]
    assert {"engine.run", "engine.supervisor"} <= {line["logger"] for line in lines}
    assert all(datetime.datetime.fromisoformat(line["time"]).tzinfo is not None for line in lines)
    with pytest.raises(urllib.error.URLError):
        get(f"{url}/healthz")


def test_a_port_that_is_taken_is_said_before_anything_is_embedded(job: Job) -> None:
    job.insert(tweets(10))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ends = [job.run("--http", f"127.0.0.1:{port}"), job.run("--metrics-port", str(port))]

    for end in ends:
        assert end.code == 2
        assert f"--http 127.0.0.1:{port} cannot be used" in end.err
    assert not job.state().commits
