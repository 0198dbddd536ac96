"""`engine status` from a run folder alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from commands.status.status import as_text, collect
from engine.config import to_toml
from engine.errors import ConfigError, Exit
from engine.ledger.log import Ledger, RunState
from engine.ledger.runfolder import RunFolders, RunLock
from engine.telemetry.status import write_status


def commit(number: int, rows: int) -> dict[str, Any]:
    """A COMMIT record as far as status looks at it."""
    return {
        "type": "COMMIT",
        "shard": f"s{number}",
        "file": f"s{number}.parquet",
        "rows": rows,
        "bytes": 10,
        "epoch": 1,
    }


@pytest.fixture
def folders(tmp_path: Path) -> RunFolders:
    """A run that has committed 300 rows and has 200 in the open shard, of 1,000 that there were."""
    folders = RunFolders.of(tmp_path / "hot", tmp_path / "cold", "db", "c", "done")
    folders.make()
    ledger = Ledger(folders.ledger, RunState())
    for record in ({"type": "EPOCH", "epoch": 1, "at": 1000.0}, commit(1, 100), commit(2, 200)):
        ledger.append(record)
    ledger.append({"type": "MARKED", "shard": "s1", "gone": 1, "epoch": 1})
    ledger.close()
    write_status(
        folders.status,
        {
            "phase": "running",
            "at": time.time(),
            "rate": 70.0,
            "rate_of_minutes": 50.0,
            "left_at_start": 1000,
            "embedded_now": 500,
            "exit": None,
            "last_error": "a server was away",
            "clients": {"client-0": {}, "client-1": {}},
            "writer": {"open_rows": 200},
        },
    )
    return folders


def finish(folders: RunFolders, code: Exit) -> None:
    """Let the run end."""
    ledger = Ledger(folders.ledger, RunState())
    ledger.append({"type": "STOP", "exit": int(code), "at": 1010.0, "rows": 300})
    ledger.close()


def test_while_a_run_is_going(folders: RunFolders) -> None:
    """Documents done, left, rate, time and cost left, shards, last error."""
    lock = RunLock(folders.lock)
    figures = collect(folders, gpu_hour_price=0.36, n_gpus=None)
    lock.release()

    assert (figures["running"], figures["state"], figures["rate"]) == (True, "running", 50.0)
    assert figures["documents"] == {
        "committed": 300,
        "gone": 1,
        "marked_shards": 1,
        "unmarked_shards": 1,
        "in_open_shard": 200,
        "left": 500,
    }
    assert (figures["seconds_left"], figures["shards"], figures["bytes"]) == (10, 2, 20)
    assert figures["cost_left"] == round(10 / 3600 * 2 * 0.36, 2)
    assert "a server was away" in as_text(figures, folders.hot)


def test_after_a_crash_the_open_shard_is_left_to_do(folders: RunFolders) -> None:
    """The last rate known tells how long that takes."""
    figures = collect(folders, gpu_hour_price=None, n_gpus=None)

    assert (figures["running"], figures["exit"]) == (False, None)
    assert "crashed" in figures["state"]
    assert (figures["documents"]["left"], figures["documents"]["in_open_shard"]) == (700, 0)
    assert figures["seconds_left"] == 14


@pytest.mark.parametrize("code", [Exit.DONE, Exit.QUARANTINED])
def test_after_the_end_nothing_is_left(folders: RunFolders, code: Exit) -> None:
    """Neither time nor cost."""
    finish(folders, code)

    figures = collect(folders, gpu_hour_price=1.0, n_gpus=4)

    assert (figures["exit"], figures["documents"]["left"], figures["seconds_left"]) == (int(code), 0, 0)
    assert figures["cost_left"] == 0.0
    assert json.loads(json.dumps(figures)) == figures


def test_after_a_limit_the_rest_is_left(folders: RunFolders) -> None:
    """The rate is that of the last run."""
    finish(folders, Exit.LIMIT)

    figures = collect(folders, gpu_hour_price=None, n_gpus=None)

    assert figures["documents"]["left"] == 500
    assert figures["rate"] == 30.0


def test_no_run_is_said_with_what_to_check(tmp_path: Path) -> None:
    """Exit 2."""
    with pytest.raises(ConfigError, match="no run in"):
        collect(RunFolders.of(tmp_path, tmp_path, "db", "c", "done"), gpu_hour_price=None, n_gpus=None)


@pytest.mark.parametrize(
    ("recorded", "asked", "left"),
    [
        (None, None, 700),
        (None, "null", 700),
        (None, "false", None),
        ("false", None, 700),
        ("false", "false", 700),
        ("false", "null", None),
        ("any", "false", None),
    ],
)
def test_what_is_left_is_said_of_the_queue_that_the_last_run_read_and_of_no_other(
    folders: RunFolders, recorded: str | None, asked: str | None, left: int | None
) -> None:
    if recorded is not None:
        folders.config.write_text(to_toml("run", {"lang": "en", "retweeted": recorded}))
    figures = collect(folders, gpu_hour_price=None, n_gpus=None, retweeted=asked)
    assert (figures["documents"]["left"], figures["retweeted"]) == (left, recorded or "null")
    shown = as_text(figures, folders.hot)
    assert ("the last run read --retweeted" in shown) == (recorded is not None)


def test_a_queue_that_there_is_not_is_refused(folders: RunFolders) -> None:
    with pytest.raises(ConfigError, match="--retweeted is 'true'; allowed is null, false or any"):
        collect(folders, gpu_hour_price=None, n_gpus=None, retweeted="true")
