"""Bad input is one sentence on stderr that names the option, with the right exit code and without a secret."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import __version__
from tests.cli.terminal import Terminal

SECRET = "s3cr3t-marker"
NOWHERE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--batch-size", "0"), "--batch-size"),
        (("--batch-size", "4097"), "--batch-size"),
        (("--batch-size", "many"), "batch-size"),
        (("--concurrency", "zero"), "--concurrency"),
        (("--concurrency", "0"), "--concurrency"),
        (("--max-concurrency", "0"), "--max-concurrency"),
        (("--vector-type", "float8"), "--vector-type"),
        (("--shard-bytes", "12parsecs"), "--shard-bytes"),
        (("--shard-bytes", "1"), "--shard-bytes"),
        (("--shard-bytes", "inf"), "inf"),
        (("--ring-bytes", "nan"), "nan"),
        (("--shard-seconds", "nan"), "--shard-seconds"),
        (("--shard-seconds", "inf"), "--shard-seconds"),
        (("--max-time", "0"), "--max-time"),
        (("--max-outage", "-1"), "--max-outage"),
        (("--limit", "0"), "--limit"),
        (("--ring-bytes", "1MiB"), "--ring-bytes"),
        (("--filter", "{not json"), "--filter"),
        (("--filter", "[1]"), "--filter"),
        (("--scan", "sideways"), "--scan"),
        (("--tei-urls", "localhost:1"), "--tei-urls"),
        (("--tei-urls", ""), "--tei-urls"),
        (("--tei-urls", f"{NOWHERE},{NOWHERE}"), "--tei-urls"),
        (("--dimensions", "-1"), "--dimensions"),
        (("--target-p95", "0"), "--target-p95"),
        (("--target-p95", "nan"), "--target-p95"),
        (("--columns", "embedding"), "--columns"),
        (("--columns", "a,a"), "--columns"),
        (("--columns", "$a"), "--columns"),
        (("--text-field", "a..b"), "--text-field"),
        (("--done-field", "text"), "--done-field"),
        (("--done-field", "lang"), "--done-field"),
        (("--done-field", "a.b"), "--done-field"),
        (("--collection", "a/b"), "--collection"),
        (("--no-such-option",), "--no-such-option"),
        (("--config", "/nonexistent.toml"), "--config"),
        (("--mongo-uri", "http://localhost"), "--mongo-uri"),
        (("--mongo-uri", "mongodb://localhost:99999"), "--mongo-uri"),
        (("--mongo-uri", f"mongodb://user:{SECRET}@localhost"), "ENGINE_MONGO_URI"),
        (("--mongo-uri-file", "/nonexistent"), "--mongo-uri-file"),
        (("--tuned", "/nonexistent.toml"), "/nonexistent.toml"),
        (("surplus",), "surplus"),
    ],
)
def test_bad_usage_of_run_is_one_sentence_and_exit_2(engine: Terminal, arguments: tuple[str, ...], word: str) -> None:
    """The option is named; nothing is connected to."""
    said = engine("run", *arguments)

    assert said.code == 2, said.err
    assert word in said.err
    assert len(said.err.splitlines()) == 1
    assert SECRET not in said.out + said.err


@pytest.mark.parametrize(
    ("arguments", "environment", "code"),
    [
        (("run", "--max-outage", "0"), {"ENGINE_MONGO_URI": f"mongodb://user:{SECRET}@127.0.0.1:1/"}, 6),
        (("run",), {"ENGINE_MONGO_URI": f"mongodb://user:{SECRET}@127.0.0.1:99999/"}, 2),
        (("run",), {"ENGINE_MONGO_URI": f"mongodb://user:{SECRET}/x@127.0.0.1:1/"}, 2),
        (("run", "--cold-dir", "/dev/null"), {}, 5),
        (("run", "--hot-dir", "/dev/null/deeper"), {}, 5),
        (("run", "--batch-size", "3"), {"ENGINE_LIMIT": "some"}, 2),
        (("index", "--done-field", "_id"), {}, 2),
        (("index", "--collection", ","), {}, 2),
        (("status",), {}, 2),
        (("no-such-command",), {}, 2),
    ],
)
def test_a_failure_is_one_sentence_with_its_exit_code(
    engine: Terminal, arguments: tuple[str, ...], environment: dict[str, str], code: int
) -> None:
    """No traceback, no secret."""
    said = engine(*arguments, **environment)

    assert said.code == code, said.err
    assert len(said.err.splitlines()) == 1
    assert SECRET not in said.out + said.err


def test_with_json_a_run_that_cannot_start_prints_its_summary_too(engine: Terminal) -> None:
    """Exactly one object on stdout, and the sentence on stderr."""
    said = engine("run", "--json", "--mongo-uri", "mongodb://127.0.0.1:1/", "--max-outage", "0")

    summary = json.loads(said.out)
    assert said.code == 6
    assert (summary["exit"], summary["read"], summary["embedded"]) == (6, 0, 0)
    assert len(said.err.splitlines()) == 1


def test_a_sentence_may_show_how_a_uri_looks(engine: Terminal) -> None:
    """The pattern in our own advice is no secret and stays readable."""
    assert "mongodb://[user:password@]host" in engine("run", "--mongo-uri", "http://localhost").err


@pytest.mark.seconds
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_before_the_pipeline_stands_is_exit_143(tmp_path: Path, number: signal.Signals) -> None:
    """While the start still waits for MongoDB; the lock file tells that it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "run", "--hot-dir", str(tmp_path), "--cold-dir", str(tmp_path / "cold")],
        env={**os.environ, "ENGINE_MONGO_URI": "mongodb://127.0.0.1:1/"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60.0
    while not list(tmp_path.glob("*/lock")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)

    process.send_signal(number)
    complaint = process.communicate(timeout=60.0)[1]

    assert process.returncode == 143, complaint
    assert complaint.splitlines()[-1] == f"engine: stopped by {number.name}"


def test_the_version_is_one_line(engine: Terminal) -> None:
    said = engine("--version")

    assert (said.code, said.out) == (0, f"engine {__version__}\n")
