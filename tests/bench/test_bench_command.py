"""`engine bench` on real servers: what is written, what ends it early, and with which exit code."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.parts import tweets
from bench.standin import GpuConfig, StandinConfig, StandinFleet
from bench.tuner.measure.load import FleetLoad
from bench.tuner.measure.measure import measure
from bench.tuner.measure.visit import Rules, StopReason, Visit
from bench.tuner.report.tuned import fleet_changes, read_tuned
from bench.tuner.search.survey import TuneConfig
from bench.tuner.texts.corpus import Corpus, Order
from bench.tuner.tuning import TuningPlan
from commands.bench import bench as command
from commands.options.secrets import RunSecrets
from engine.config import RunConfig, ServersConfig, SourceConfig
from engine.errors import ConfigError, Exit, ServersUnavailable
from gpu_clients.servers.doctor import examine
from gpu_clients.settings import ClientSettings
from tests.conftest import outlives_tests

SECRETS = RunSecrets(mongo_uri="mongodb://127.0.0.1:1")
SERVERS = StandinConfig(
    backend="sim",
    ports=(0, 0),
    dim=16,
    max_batch_tokens=1024,
    max_concurrent_requests=64,
    gpu=GpuConfig(tokens_per_s=40_000, fixed_overhead_s=0.002, padded=False),
)


@pytest.fixture(scope="module")
def fleet() -> Iterator[StandinFleet]:
    """Two modelled servers in one process."""
    with StandinFleet(SERVERS) as started, outlives_tests(*started.pids):
        yield started


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file with some hundred texts."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(text.split()) for text in tweets.texts()[:600]), encoding="utf-8")
    return path


def config(urls: tuple[str, ...], texts: Path, *, target_p95_s: float | None = None) -> command.BenchConfig:
    """A short tuning of batch sizes 4 and 8."""
    servers = ServersConfig(urls=urls, batch_size=4, target_p95_s=target_p95_s)
    return command.BenchConfig(
        run=RunConfig(source=SourceConfig(), servers=servers),
        plan=TuningPlan(
            batch_sizes=(4, 8),
            tune=TuneConfig(target_p95_s=target_p95_s, seconds=0.2, max_seconds=20.0, seed=1),
        ),
        texts=texts,
        out=texts.parent / "tuned.toml",
        plot=None,
    )


@pytest.mark.seconds
def test_a_point_is_chosen_written_down_and_known_to_be_of_this_fleet(
    fleet: StandinFleet, texts: Path, tmp_path: Path
) -> None:
    """And the picture beside it."""
    settings = dataclasses.replace(config(fleet.urls, texts), plot=tmp_path / "curve.png", html=tmp_path / "page.html")

    result = command.find_operating_point(settings, SECRETS)

    assert result.exit_code is Exit.DONE
    assert result.written == (tmp_path / "curve.png", tmp_path / "page.html", settings.out)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    chosen = result.outcome.findings.chosen
    assert chosen is not None
    tuned = read_tuned(settings.out)
    assert (tuned.batch_size, tuned.concurrency) == (chosen.point.batch_size, chosen.point.concurrency)
    assert tuned.max_concurrency >= tuned.concurrency
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"<dd>{chosen.point.batch_size} x {chosen.point.concurrency}</dd>" in page
    assert all(url in page for url in fleet.urls)
    now = examine(ClientSettings(urls=fleet.urls, batch_size=4))
    assert fleet_changes(tuned, now) == []
    assert f"Wrote {settings.out}." in command.as_text(result)
    found = json.loads(json.dumps(command.as_dict(result), allow_nan=False))
    assert found["exit"] == 0
    assert found["chosen"]["latency"]["p95"] > 0
    peaks = [report["in_flight_inputs_max"] for report in fleet.reports()]
    assert max(peaks) <= SERVERS.max_concurrent_requests
    assert all(report["answered_429"] == 0 for report in fleet.reports())


@pytest.mark.seconds
def test_a_target_that_cannot_be_held_names_the_nearest_point_the_floor_and_what_is_needed(
    fleet: StandinFleet, texts: Path
) -> None:
    """Exit 9, and no file for a run."""
    settings = config(fleet.urls, texts, target_p95_s=0.001)

    result = command.find_operating_point(settings, SECRETS)

    assert result.exit_code is Exit.NO_OPERATING_POINT
    assert result.written == ()
    assert not settings.out.exists()
    text = command.as_text(result)
    for part in ("<- nearest", "No operating point holds", "Nearest: batch size ", "Needed: ", "Latency floor, "):
        assert part in text
    assert "Limit: " not in text
    found = command.as_dict(result)
    assert (found["chosen"], found["exit"]) == (None, 9)
    assert found["nearest"]["latency"]["p95"] > 0.001


@pytest.mark.parametrize("content", ["", "\n  \n\n", "\ud800\n"])
def test_texts_that_are_none_are_refused(fleet: StandinFleet, tmp_path: Path, content: str) -> None:
    """One sentence, exit 2."""
    path = tmp_path / "texts.txt"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))

    with pytest.raises(ConfigError, match=r"holds no text|can be embedded") as caught:
        command.find_operating_point(config(fleet.urls, path), SECRETS)

    assert caught.value.exit_code is Exit.USAGE


def test_a_server_of_another_model_is_refused(fleet: StandinFleet, texts: Path) -> None:
    """Both are named, exit 2."""
    fleet.control(fleet.ports[1], model_id="another/model")
    try:
        with pytest.raises(ConfigError, match="do not serve one vector space") as caught:
            command.find_operating_point(config(fleet.urls, texts), SECRETS)
    finally:
        fleet.control(fleet.ports[1], model_id="google/embeddinggemma-300m")

    assert all(url in str(caught.value) for url in fleet.urls)


@pytest.mark.seconds
def test_a_server_that_is_down_from_the_start_is_left_out_and_named(fleet: StandinFleet, texts: Path) -> None:
    """The others are tuned; the file says on how many."""
    settings = config((fleet.urls[0], "http://127.0.0.1:1"), texts)

    result = command.find_operating_point(settings, SECRETS)

    assert result.exit_code is Exit.DONE
    assert "Note: http://127.0.0.1:1 left out: no answer; 1 of 2 servers were measured." in command.as_text(result)
    assert [server["url"] for server in read_tuned(settings.out).servers] == [fleet.urls[0]]


def test_when_no_server_answers_it_says_so(texts: Path) -> None:
    """Exit 7, before anything is measured."""
    with pytest.raises(ServersUnavailable, match="no embedding server answers") as caught:
        command.find_operating_point(config(("http://127.0.0.1:1",), texts), SECRETS)

    assert caught.value.exit_code is Exit.SERVERS


@pytest.mark.seconds
def test_a_server_that_goes_away_leaves_what_is_known_and_no_file(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 7: what the others can do says nothing about the fleet."""
    with StandinFleet(SERVERS, processes=2) as fleet:
        settings = config(fleet.urls, texts)

        def kill_at_the_floor(part: str, _visit: Visit) -> None:
            if part == "floor":
                fleet.kill(fleet.ports[1])

        monkeypatch.setattr(command, "tell", kill_at_the_floor)
        result = command.find_operating_point(settings, SECRETS)

    assert result.exit_code is Exit.SERVERS
    assert result.sentence is not None
    assert "stopped answering while it was measured" in result.sentence
    assert not settings.out.exists()
    assert "Stopped before the end, nothing is chosen" in command.as_text(result)


@pytest.mark.seconds
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_midway_prints_what_is_known_and_leaves_no_file(
    fleet: StandinFleet, texts: Path, number: signal.Signals, code: int
) -> None:
    """As soon as the first point has been measured."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "cli", "bench", "--tei-urls", ",".join(fleet.urls), "--texts", str(texts)),
            *("--out", str(texts.parent / "tuned.toml"), "--plot", str(texts.parent / "curve.png"), "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process:
        complaint = []
        for line in process.stderr:
            complaint.append(line)
            if "measured part=floor" in line:
                break
        process.send_signal(number)
        out, rest = process.communicate(timeout=60)

    assert process.returncode == code, "".join(complaint) + rest
    found = json.loads(out)  # exactly one object
    assert found["exit"] == code
    assert found["chosen"] is None
    assert found["points"]
    assert f"stopped by {number.name}" in rest
    assert sorted(path.name for path in texts.parent.iterdir()) == ["texts.txt"]


def test_bad_vectors_and_errors_are_counted_by_class_and_fail_the_point(fleet: StandinFleet) -> None:
    """A fast server that answers rubbish is no operating point."""
    settings = ClientSettings(urls=fleet.urls, batch_size=4)
    examined = examine(settings)
    cycle = Corpus(tweets.texts()[:200]).cycle(4, 200, Order.NATURAL, random.Random(1))
    fleet.control(fleet.ports[0], faults=["value"])
    try:
        with FleetLoad(examined, settings) as load:
            visit = measure(load, cycle, 2, Rules(max_s=0.5))
    finally:
        fleet.control(fleet.ports[0], clear_faults=True)

    assert visit.stop_reason is StopReason.FAILING
    assert set(visit.errors) == {"unsound"}
