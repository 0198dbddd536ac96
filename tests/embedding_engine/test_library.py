"""The engine as a library: what docs/library.md shows, Ctrl-C, threads, errors."""

from __future__ import annotations

import doctest
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

import embedding_engine
from bench.parts.local_mongod import LocalMongod
from bench.parts.tweets import documents
from bench.standin import StandinConfig, StandinFleet
from embedding_engine import EngineError, RunConfig, ServersConfig, SinkConfig, SourceConfig
from engine.supervision.interpreter import python

ROOT = Path(__file__).resolve().parents[2]
N_DOCUMENTS = 300
INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from embedding_engine import Interrupted, RunConfig, ServersConfig, SinkConfig, SourceConfig, run
config = RunConfig(
    source=SourceConfig(database=sys.argv[1]),
    servers=ServersConfig(urls=(sys.argv[2],), batch_size=8, concurrency=1),
    sink=SinkConfig(hot_dir=Path(sys.argv[3], "hot"), cold_dir=Path(sys.argv[3], "cold")),
)
class CtrlC:
    def write(self, text):
        if "progress" in text:
            os.kill(os.getpid(), signal.SIGINT)
        return len(text)
    def flush(self): pass
    def isatty(self): return False
sys.stderr = CtrlC()
try:
    run(config)
except Interrupted as stop:
    print(stop.result.summary["exit"], stop.result.summary["read"] == stop.result.summary["embedded"])
"""


@pytest.fixture
def queue(mongo_db: Database[dict[str, Any]], mongod: LocalMongod, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database with a queue of tweets; the environment names its server."""
    mongo_db["tweets"].insert_many(list(documents(N_DOCUMENTS, retweeted=False)))
    mongo_db["tweets"].create_index(
        [("lang", 1), ("classified", 1), ("_id", 1)],
        name="embedding_work_queue",
        partialFilterExpression={"retweeted": None, "gemma_embedded_768": None},
    )
    monkeypatch.setenv("ENGINE_MONGO_URI", mongod.uri)
    yield mongo_db.name


@pytest.fixture(scope="module")
def fleet() -> Iterator[StandinFleet]:
    with StandinFleet(StandinConfig(ports=(0,), dim=8)) as servers:
        yield servers


@pytest.fixture(autouse=True)
def _no_fleet_leak(leaves_nothing_behind: None, fleet: StandinFleet) -> Iterator[None]:
    from tests.conftest import outlives_tests

    with outlives_tests(*fleet.pids):
        yield


def _config(database: str, fleet: StandinFleet, folder: Path) -> RunConfig:
    return RunConfig(
        source=SourceConfig(database=database),
        servers=ServersConfig(urls=fleet.urls),
        sink=SinkConfig(hot_dir=folder / "hot", cold_dir=folder / "cold"),
    )


def test_the_examples_in_docstrings_hold() -> None:
    failed, tried = doctest.testmod(embedding_engine)
    assert (failed, tried > 0) == (0, True)


@pytest.mark.seconds
def test_what_docs_library_shows_runs_merges_and_verifies(
    queue: str,
    fleet: StandinFleet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("http://localhost:18080", fleet.urls[0]).replace("twitter_data", queue), {})
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{N_DOCUMENTS} documents, exit 0",
        f"{N_DOCUMENTS} rows in 1 files",
        "level 4: exit 0",
    ]
    assert "shard_committed" in said.err


@pytest.mark.seconds
def test_a_program_that_logs_itself_keeps_its_handlers_and_gets_the_lines(
    queue: str, fleet: StandinFleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records: list[str] = []

    class Own(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    logger, own = logging.getLogger("engine"), Own()
    before, level = logger.handlers[:], logger.level
    logger.handlers[:], logger.level = [own], logging.INFO
    try:
        embedding_engine.run(_config(queue, fleet, tmp_path))
        assert logger.handlers == [own]
    finally:
        logger.handlers[:], logger.level = before, level
    assert any(line.startswith("shard_committed") for line in records)
    assert capsys.readouterr().err == ""


@pytest.mark.seconds
def test_a_run_in_another_thread_leaves_the_programs_signals_alone(
    queue: str, fleet: StandinFleet, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(embedding_engine.run(_config(queue, fleet, tmp_path), progress=False))
    )
    thread.start()
    thread.join()
    assert results[0].summary["embedded"] == N_DOCUMENTS
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


@pytest.mark.seconds
def test_ctrl_c_stops_a_run_cleanly_and_the_same_call_continues(
    queue: str, tmp_path: Path, mongo_db: Database[dict[str, Any]]
) -> None:
    with StandinFleet(StandinConfig(backend="sim", ports=(0,), dim=8, speeds=(0.1,))) as slow:
        (tmp_path / "program.py").write_text(INTERRUPTED)
        mongo_db["tweets"].insert_many(
            [{**document, "_id": document["_id"] + 100_000} for document in documents(3000, retweeted=False)]
        )
        command = [sys.executable, str(tmp_path / "program.py"), queue, slow.urls[0], str(tmp_path)]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
        assert done.stdout.split() == ["130", "True"], done.stderr
    with StandinFleet(StandinConfig(backend="sim", ports=(0,), dim=8)) as quick:
        summary = embedding_engine.run(_config(queue, quick, tmp_path), progress=False).summary
    assert summary["exit"] == 0
    assert mongo_db["tweets"].count_documents({"gemma_embedded_768": True}) == N_DOCUMENTS + 3000


def test_what_a_command_would_have_ended_with_is_in_the_error(tmp_path: Path) -> None:
    config = RunConfig(sink=SinkConfig(hot_dir=tmp_path / "hot", cold_dir=tmp_path / "cold"))
    with pytest.raises(EngineError) as raised:
        embedding_engine.run(config, mongo_uri="mongodb://user:s3cret@127.0.0.1:1/?bad=option", progress=False)
    assert raised.value.exit_code in (2, 6)
    assert "s3cret" not in str(raised.value)


def test_the_package_itself_imports_nothing_heavy() -> None:
    code = "import embedding_engine, sys; print('pyarrow' in sys.modules, 'pymongo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    assert python("cli")[0] == sys.executable
