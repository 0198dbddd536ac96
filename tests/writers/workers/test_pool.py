"""The worker processes of merge and verify: results, errors with their exit codes, deaths, and no one left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from engine.errors import DamageError, Exit, WorkerDied
from engine.memory.channels import Message
from writers.workers.current_file import working_on
from writers.workers.pool import Fault, Pool, Report

TASKS = "tests.writers.workers.test_pool"


def double(job: Message, report: Report) -> Message:
    report({"rows": job["value"]})
    return {"value": 2 * job["value"], "pid": os.getpid()}


def damaged(_job: Message, _report: Report) -> Message:
    raise DamageError("the file is damaged")


def broken(_job: Message, _report: Report) -> Message:
    raise KeyError("a bug")


def die(_job: Message, _report: Report) -> Message:
    os.kill(os.getpid(), 9)
    return {}


def abort(job: Message, _report: Report) -> Message:
    working_on("a file before")
    working_on(job["file"])
    os.kill(os.getpid(), job["signal"])
    return {}


def abort_first(job: Message, report: Report) -> Message:
    return abort({"file": job["left"][0], "signal": signal.SIGABRT}, report)


def heaps(_job: Message, _report: Report) -> Message:
    """Encode Parquet; how many bytes each of Arrow's allocators has given out at most."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"vectors": pa.array([[1.0] * 64] * 64, pa.list_(pa.float32()))})
    pq.write_table(table, pa.BufferOutputStream(), use_dictionary=False, use_byte_stream_split=True)
    pools = (getattr(pa, f"{name}_memory_pool")() for name in pa.supported_memory_backends())
    return {pool.backend_name: pool.max_memory() for pool in pools}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import this file's tasks."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))


def jobs(task: Callable[[Message, Report], Message], n_jobs: int) -> list[Message]:
    return [{"task": f"{TASKS}:{task.__name__}", "value": number} for number in range(n_jobs)]


@pytest.mark.seconds
def test_every_job_has_its_result_and_every_report_arrives() -> None:
    reported: list[int] = []
    with Pool("test", 2) as pool:
        done = pool.run(jobs(double, 30), lambda said: reported.append(said["rows"]))
        results = {job["value"]: result for job, result in done}
        again = list(pool.run(jobs(double, 1), lambda _: None))
    assert {value: result["value"] for value, result in results.items()} == {n: 2 * n for n in range(30)}
    assert sorted(reported) == list(range(30)) and len(again) == 1
    assert os.getpid() not in {result["pid"] for result in results.values()}


@pytest.mark.seconds
def test_all_of_arrow_shares_one_heap_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL", raising=False)
    with Pool("test", 1) as pool:
        ((_, most),) = pool.run(jobs(heaps, 1), lambda _: None)
    assert most.pop("system") > 64 * 64 * 4
    assert set(most.values()) <= {0}


@pytest.mark.seconds
def test_an_error_keeps_its_kind_and_its_words() -> None:
    with Pool("test", 2) as pool, pytest.raises(DamageError, match="the file is damaged") as caught:
        list(pool.run(jobs(damaged, 3), lambda _: None))
    assert caught.value.exit_code is Exit.VERIFICATION


@pytest.mark.seconds
def test_a_bug_in_a_task_shows_where_it_is() -> None:
    with Pool("test", 1) as pool, pytest.raises(WorkerDied, match=r"KeyError\('a bug'\)") as caught:
        list(pool.run(jobs(broken, 1), lambda _: None))
    assert len(str(caught.value).splitlines()) == 1
    assert "in broken" in str(caught.value.__cause__), "what --debug shows"


@pytest.mark.seconds
def test_a_killed_worker_is_noticed() -> None:
    with Pool("test", 2) as pool, pytest.raises(WorkerDied, match=r"signal 9 .likely out of memory"):
        list(pool.run(jobs(die, 1), lambda _: None))


@pytest.mark.seconds
@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS])
def test_a_file_over_which_native_code_ends_the_process_is_named(number: signal.Signals) -> None:
    job = {**jobs(abort, 1)[0], "file": "bad file.parquet", "signal": number}
    with Pool("test", 2) as pool, pytest.raises(DamageError, match=r"^bad file\.parquet cannot be read") as caught:
        list(pool.run([job], lambda _: None))
    assert f"signal {number.value}" in str(caught.value)


@pytest.mark.seconds
def test_a_fresh_worker_does_what_is_left_when_it_is_known_how_to_go_on() -> None:
    """Three files end a worker, one after the other; the pool is whole after each."""
    faults: list[Fault] = []

    def go_on(fault: Fault) -> Message | None:
        faults.append(fault)
        left = [file for file in fault.job["left"] if file != fault.file]
        return {**fault.job, "left": left, "task": f"{TASKS}:{(abort_first if left else double).__name__}"}

    first = {"task": f"{TASKS}:abort_first", "left": ["a", "b", "c"], "value": 100}
    with Pool("test", 2) as pool:
        results = [result["value"] for _, result in pool.run([first, *jobs(double, 8)], lambda _: None, go_on)]
        after = [result["pid"] for _, result in pool.run(jobs(double, 8), lambda _: None)]
    assert sorted(results) == [*range(0, 16, 2), 200]
    assert [fault.file for fault in faults] == ["a", "b", "c"]
    ended = {fault.process for fault in faults}
    assert len(ended) == 3 and not ended & set(after) and {fault.signal for fault in faults} == {signal.SIGABRT}


@pytest.mark.seconds
def test_a_worker_that_ended_over_a_file_ends_the_work_when_nobody_can_go_on() -> None:
    job = {**jobs(abort, 1)[0], "file": "bad file.parquet", "signal": signal.SIGABRT}
    with Pool("test", 2) as pool, pytest.raises(DamageError, match=r"^bad file\.parquet cannot be read"):
        list(pool.run([job], lambda _: None, lambda _: None))


@pytest.mark.parametrize(("file", "number"), [("", signal.SIGABRT), ("sound.parquet", signal.SIGKILL)])
def test_no_file_is_blamed_for_another_end(file: str, number: signal.Signals) -> None:
    job = {**jobs(abort, 1)[0], "file": file, "signal": number}
    with Pool("test", 1) as pool, pytest.raises(WorkerDied, match=f"signal {number.value}"):
        list(pool.run([job], lambda _: None, lambda fault: fault.job))


@pytest.mark.seconds
def test_workers_die_with_their_parent() -> None:
    code = (
        "import os, sys, time\n"
        "from writers.workers.pool import Pool\n"
        "pool = Pool('test', 2)\n"
        "print(*(worker.process.pid for worker in pool._workers), flush=True)\n"
        "time.sleep(300)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert len(gone) == 2 and not alive
