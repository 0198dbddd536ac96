"""A merge that is killed, or whose device fails, at any moment: a second start ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.writers.dataset import DataSet, read_outputs, rows_of, vectors_of
from tests.writers.merge_crash_driver import config
from writers.merge.ledger import read_merge_state
from writers.merge.merge import merge

DIM = 16
PARTS = [range(0, 600), range(600, 610), range(610, 1200), range(1200, 1500)]
BOOKS = {".merge-ledger", ".merge-lock", ".merge-plan-0001.jsonl"}
SORT_BOOKS = {".merge-inputs-0001.jsonl", ".merge-ranges-0001.jsonl"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("crash") / "template"
    data = DataSet(root, dim=DIM)
    for numbers in PARTS:
        data.add_shard(numbers)
    data.close()
    return root


def expected_ids(sort: str) -> list[int]:
    ids = [(number * 7919) % 1_000_003 - 500_000 for numbers in PARTS for number in numbers]
    return sorted(ids) if sort == "_id" else ids


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    """SHA-256 of all vectors in the order of rows, for each order."""
    ids = expected_ids("none")
    matrix = vectors_of([number for part in PARTS for number in part], DIM)
    orders = {"none": list(range(len(ids))), "_id": sorted(range(len(ids)), key=ids.__getitem__)}
    return {sort: hashlib.sha256(matrix[order].tobytes()).hexdigest() for sort, order in orders.items()}


CASES = [
    ("kill", "none", "delete"),
    ("kill", "_id", "delete"),
    ("ENOSPC", "none", "delete"),
    ("EIO", "_id", "keep"),
]


@pytest.mark.crash
@pytest.mark.timeout(1200)  # some thirty merges, each a process with its workers: minutes on a busy machine
@pytest.mark.parametrize(("action", "sort", "delete"), CASES)
def test_a_fault_at_any_durable_call_changes_nothing_in_the_end(
    template: Path, tmp_path: Path, digests: dict[str, str], action: str, sort: str, delete: str
) -> None:
    """Exhaustive: every durable call of planning, writing, naming, recording and removing."""
    command = [sys.executable, "-m", "tests.writers.merge_crash_driver", str(template), str(tmp_path)]
    done = subprocess.run([*command, action, sort, delete], capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    codes = [case["code"] for case in cases]
    assert set(codes[:-1]) == ({-signal.SIGKILL} if action == "kill" else {5}) and codes[-1] == 0
    assert len(cases) > 25
    for case in cases:
        _judge(case, sort, delete, digests[sort])


def _judge(case: dict[str, Any], sort: str, delete: str, digest: str) -> None:
    where = f"durable call {case['n']}"
    everything = set(expected_ids("none"))
    fault = case["fault"]
    assert set(fault["recorded_ids"]) | set(fault["source_ids"]) == everything, f"{where}: a source went too early"
    assert case["again"] == 0, where
    assert (case["ids"], case["vectors"]) == (expected_ids(sort), digest), where
    end = case["end"]
    books = BOOKS | (SORT_BOOKS if sort == "_id" else set())
    strays = [name for name in end["target"] if name not in books and not name.startswith("part-0001-")]
    assert strays == [] and end["temporary"] == [], where
    assert sorted(end["source_ids"]) == ([] if delete == "delete" else sorted(everything)), where


STEPS = [
    "merge.before_plan",
    "merge.after_plan",
    "merge.before_close",
    "merge.after_close",
    "merge.after_check",
    "merge.after_fsync",
    "merge.before_link",
    "merge.after_link",
    "merge.after_folder_fsync",
    "merge.after_merged",
    "merge.after_removal",
]

RUN = """
import sys
from pathlib import Path
from tests.writers.merge_crash_driver import config
from writers.merge.merge import merge
merge(config(Path(sys.argv[1]), sys.argv[2], True))
"""


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(template, tmp_path / "case")
    yield tmp_path / "case"


def start(root: Path, sort: str, failpoints: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "ENGINE_FAILPOINTS": failpoints}
    command = [sys.executable, "-c", RUN, str(root), sort]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def check_end(root: Path, sort: str) -> None:
    merge(config(root, sort, True))
    settings = config(root, sort, True)
    table = read_outputs(settings.target)
    assert table["_id"].to_pylist() == expected_ids(sort)
    data = DataSet(root, dim=DIM)
    rows = rows_of(data.table([number for part in PARTS for number in part]))
    assert rows_of(table) == (sorted(rows) if sort == "_id" else rows)
    data.close()
    assert list(settings.source.iterdir()) == []
    assert not list(settings.target.glob("*.inprogress"))
    state = read_merge_state(settings.target)
    assert state is not None and all(plan.done for plan in state.plans.values())


SORT_STEPS = ["merge.before_spilled", "merge.after_ranges", "merge.after_check"]


@pytest.mark.crash
@pytest.mark.parametrize(
    ("step", "sort"), [*((step, "none") for step in STEPS), *((step, "_id") for step in SORT_STEPS)]
)
def test_killed_at_a_step_of_the_commit_it_continues(root: Path, step: str, sort: str) -> None:
    """The coordinator and its worker as real processes; whoever passes the step is killed."""
    process = start(root, sort, f"{step}#1=kill")
    assert process.wait(150) != 0
    check_end(root, sort)


@pytest.mark.crash
@pytest.mark.parametrize("sort", ["none", "_id"])
def test_killed_at_random_moments_it_ends_the_same(root: Path, sort: str) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for _ in range(6):
        process = start(root, sort, "")
        try:
            process.wait(moments.uniform(0.3, 1.6))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    check_end(root, sort)
