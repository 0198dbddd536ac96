"""The recorder: it writes beside a run and never stands in its way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from bench.recording.recording import read_recording
from engine.ledger import durable
from engine.recording import recorder as module
from engine.recording.machine import BusyProcesses, Machine
from engine.recording.recorder import Recorder
from engine.telemetry.reporting import Journal
from tests.engine.recording.test_sampling import figures


@pytest.fixture(autouse=True)
def every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set of figures makes a sample, and what waits is written before it closes, however busy the machine is."""
    monkeypatch.setattr(module, "FIRST_EVERY_S", 0.0)
    monkeypatch.setattr(module, "_LEAVE_S", 100.0)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """A recorder of a new run."""
    return Recorder(tmp_path / "history", facts={"version": "1"}, folders={"hot": tmp_path})


def end(rows: int) -> dict[str, Any]:
    """The last figures of a run."""
    return {**figures(rows), "exit": 0, "last_error": None, "phase": "finished"}


def test_it_keeps_a_journal() -> None:
    assert issubclass(Recorder, Journal)


def test_samples_and_events_of_a_run_are_there_when_it_is_over(recorder: Recorder, tmp_path: Path) -> None:
    for rows in (10, 20, 30):
        recorder.update({**figures(rows), "at": 100.0 + rows})
    recorder.note("server_out", url="http://a", reason="HTTP 503")
    recorder.update({**end(35), "at": 135.0})
    recorder.close()

    found = read_recording(tmp_path / "history")

    assert found.column("rows").sum() == 35
    names = [event["event"] for event in found.events]
    assert {"new_run", "phase", "server_out", "end"} <= set(names)
    assert found.columns["hot.free"][-1] > 0
    assert found.columns["machine.load"][-1] >= 0


def gpu(server: str | None, *throttled: str) -> dict[str, Any]:
    """The figures of a GPU, which leaves its power unsaid."""
    levels = {"utilization": 0.5, "power_w": None, "clock_mhz": 1500, "temperature_c": 70, "memory_used_bytes": 1024}
    return {"index": 2, "name": "GPU", "server": server, "throttled": list(throttled), **levels}


def test_gpus_are_recorded_with_the_server_that_each_works_for_and_why_it_is_throttled(
    recorder: Recorder, tmp_path: Path
) -> None:
    told = (gpu(None), gpu("http://a"), gpu("http://a", "heat"), gpu("http://b", "heat"))
    for second, one in enumerate(told):
        recorder.update({**figures(1), "at": 100.0 + second, "gpus": [one]})
    recorder.close()

    found = read_recording(tmp_path / "history")

    assert [event["url"] for event in found.events if event["event"] == "gpu"] == ["http://a", "http://b"]
    assert list(found.column("gpu-2.throttle_heat")) == [0, 0, 1, 1]
    assert list(found.column("gpu-2.clock")) == [1500] * 4
    assert "gpu-2.power" not in found.columns


def test_uploads_of_a_cold_store_are_recorded(recorder: Recorder, tmp_path: Path) -> None:
    for count in (0, 1, 3):
        told = {"uploads": count, "upload_s": 0.5 * count, "upload_bytes": 10 * count, "upload_retries": count // 2}
        recorder.update({**figures(1), "at": 100.0 + count, "writer": told})
    recorder.close()

    found = read_recording(tmp_path / "history")

    sums = [found.column(f"writer.{name}").sum() for name in ("uploads", "upload_s", "upload_bytes", "upload_retries")]
    assert sums == [3, 1.5, 30, 1]


def test_a_disk_that_is_full_is_complained_of_once_and_ends_nothing(
    recorder: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    durable.arm("supervisor", "history.append#0=ENOSPC")
    try:
        for rows in range(50):
            recorder.update(figures(rows))
        recorder.close()
    finally:
        durable.arm("supervisor", "")

    assert [record.getMessage().split()[0] for record in caplog.records] == ["history_not_written"]


def test_a_disk_that_stands_still_is_not_waited_for(recorder: Recorder, tmp_path: Path) -> None:
    """Hundreds of figures are taken while the first of them cannot be written."""
    stands = tmp_path / "stands"
    stands.touch()
    durable.arm("supervisor", f"history.append#0=sleep_while:0.05:{stands}")
    try:
        for rows in range(500):
            recorder.update(figures(rows))  # would block for ever if the queue were waited for
        assert any(thread.name == "recorder" for thread in threading.enumerate())
        stands.unlink()
        recorder.close()
        assert all(thread.name != "recorder" for thread in threading.enumerate()), "it ends although its queue was full"
    finally:
        durable.arm("supervisor", "")


def test_another_process_that_is_busy_is_named_and_our_children_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(
        [
            [(1, "mongod", 0, 10.0), (2, "engine-writer", 7, 1.0)],
            [(1, "mongod", 0, 25.0), (2, "engine-writer", 7, 20.0), (3, "new", 0, 1.0)],
        ]
    )
    clock = iter([100.0, 115.0])
    monkeypatch.setattr("engine.recording.machine._each_process", lambda: next(looks))
    monkeypatch.setattr("engine.recording.machine.os.getpid", lambda: 7)
    monkeypatch.setattr("engine.recording.machine.time.monotonic", lambda: next(clock))
    busy = BusyProcesses()

    assert busy.look(0.99) is None
    assert busy.look(0.99) == [{"pid": 1, "name": "mongod", "cores": 1.0}]


def test_the_machine_gives_its_levels_and_leaves_out_what_it_cannot(tmp_path: Path) -> None:
    machine = Machine({"hot": tmp_path, "gone": tmp_path / "gone"})
    found = machine.look()

    assert found["hot.free"] > 0
    assert found["machine.memory_free"] > 0
    assert "gone.free" not in found


def test_a_larger_fleet_is_looked_at_less_often_but_never_less_than_later_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_EVERY_S", 1.0)

    assert [module.first_every_s(n_servers) for n_servers in (0, 1, 16, 40, 64, 1000)] == [1.0, 1.0, 1.0, 2.5, 4.0, 5.0]
