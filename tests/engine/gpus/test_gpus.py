"""GPUs in sight: what NVML says of them, which server is on which, and what a run's watch makes of it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from bench.standin import StandinConfig, StandinFleet
from engine.gpus import driver, nvml
from engine.gpus.nvml import GpuSample, in_sight, sample_gpus, why_not_in_sight
from engine.gpus.processes import gpu_samples
from engine.gpus.watch import GpuTotals, GpuWatch, gpu_verdict
from engine.supervision.interpreter import python
from tests.parts.gpus import LIBRARY, fake_gpus, write_gpus

URL = "http://localhost:18080/embed"


def sample(**fields: object) -> GpuSample:
    known = {"index": 0, "uuid": "GPU-0", "name": "fake", "server": URL, "utilization": 0.9}
    return GpuSample(**{**known, **fields})  # type: ignore[arg-type]


def totals(**fields: object) -> GpuTotals:
    one = sample(**fields)
    found = GpuTotals(one)
    found.add(one, 2.0)
    return found


def module_of(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("a_pynvml", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_fake_library_has_nothing_that_the_real_binding_has_not() -> None:
    """Or the tests would prove something about a library that nobody has."""
    import pynvml  # type: ignore[import-untyped,unused-ignore]

    fake = module_of(LIBRARY / "pynvml.py")
    names = [name for name in vars(fake) if name.lower().startswith("nvml")]
    assert len(names) > 15
    for name in names:
        real = getattr(pynvml, name)
        if isinstance(getattr(fake, name), int):
            assert real == getattr(fake, name), name


def test_every_figure_of_a_gpu_is_read_in_plain_units(tmp_path: Path) -> None:
    with fake_gpus(tmp_path, {"reasons": 0x4 | 0x20 | 0x1, "pids": [11, 12]}):
        (found,) = sample_gpus()
    assert (found.utilization, found.power_w, found.power_limit_w) == (0.97, 310.0, 350.0)
    assert (found.memory_used_bytes, found.memory_total_bytes, found.temperature_c) == (6 << 30, 24 << 30, 71)
    assert found.clock_mhz == 1980
    assert found.throttled == ("power cap", "heat")
    assert found.pids == (11, 12)


def test_what_a_gpu_does_not_say_is_absent_and_hides_nothing_else(tmp_path: Path) -> None:
    with fake_gpus(tmp_path, {"utilization": None, "power_mw": None, "temperature": None, "pids": None}):
        (found,) = sample_gpus()
    assert (found.utilization, found.power_w, found.temperature_c, found.pids) == (None, None, None, ())
    assert found.memory_used_bytes == 6 << 30


def test_without_a_driver_there_is_no_gpu_and_no_word_of_one(tmp_path: Path) -> None:
    with fake_gpus(tmp_path) as file:
        file.unlink()
        nvml.forget()
        assert not in_sight()
        assert sample_gpus() == gpu_samples([URL]) == ()
        assert why_not_in_sight() is None


def test_a_driver_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpus(tmp_path) as file:
        monkeypatch.setenv("FAKE_NVML", str(tmp_path / "gone"))
        monkeypatch.setattr(driver, "DEVICE_FILES", (file,))
        nvml.forget()
        assert not in_sight()
        assert "nvidia-smi" in (why_not_in_sight() or "")


def test_without_gpus_neither_the_binding_nor_psutil_is_imported() -> None:
    """The plain path pays nothing, wherever the binding is installed."""
    script = "import sys; from engine.gpus.processes import gpu_samples; gpu_samples(['http://localhost:1']); "
    script += "print([name for name in ('pynvml', 'psutil') if name in sys.modules])"
    prefix = python("engine.gpus.nvml")[2].partition("from ")[0]
    guard = "from pathlib import Path; from engine.gpus import driver; driver.DEVICE_FILES = (Path('/nowhere'),); "
    done = subprocess.run([sys.executable, "-c", prefix + guard + script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.seconds
def test_a_run_without_a_driver_imports_nothing_for_gpus_but_the_look_at_two_files() -> None:
    """The plain path's start does not grow."""
    code = python("cli")[2].partition("from cli")[0]
    code += "import commands.run.run, commands.run.command; print(sorted(n for n in sys.modules if '.gpus.' in n))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['engine.gpus.driver']"


@pytest.mark.seconds
def test_each_gpu_is_matched_to_the_server_whose_process_computes_on_it(tmp_path: Path) -> None:
    """By the port's process; a server elsewhere, or one on no GPU, takes none."""
    with StandinFleet(StandinConfig(ports=(0, 0)), processes=2) as fleet:
        first, second = fleet.pids
        with fake_gpus(tmp_path, {"pids": [second]}, {"pids": [first]}, {"pids": [1]}):
            urls = [*fleet.urls, "http://example.org:80", "http://localhost:1"]
            found = gpu_samples(urls)
    assert [gpu.server for gpu in found] == [urls[1], urls[0], None]


def test_a_child_of_the_process_that_listens_counts_as_the_server(tmp_path: Path) -> None:
    """As vLLM's engine core is one of its API server."""
    script = (
        "import socket, subprocess, sys; s = socket.create_server(('127.0.0.1', 0)); "
        "child = subprocess.Popen(['sleep', '600']); print(s.getsockname()[1], child.pid, flush=True); "
        "sys.stdin.read(); child.kill(); child.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    port, child = parent.stdout.readline().split()
    try:
        with fake_gpus(tmp_path, {"pids": []}, {"pids": [int(child)]}):
            url = f"http://127.0.0.1:{port}"
            assert [gpu.server for gpu in gpu_samples([url])] == [None, url]
    finally:
        parent.communicate("")


def test_a_watch_adds_up_what_it_samples_and_shows_the_last(tmp_path: Path) -> None:
    turns = iter([(sample(power_w=100.0, temperature_c=60),), (sample(utilization=0.5, temperature_c=80),)])
    came = threading.Event()

    def read(urls: object) -> tuple[GpuSample, ...]:
        found = next(turns, None)
        if found is None:
            came.set()
            return ()
        return found

    watch = GpuWatch(read, every_s=0.01)
    assert came.wait(60)
    watch.stop()
    (gpu,) = watch.totals()
    assert gpu.n_samples == 2
    assert gpu.utilization == pytest.approx(0.7)
    assert gpu.hottest_c == 80
    assert gpu.as_dict()["server"] == URL


def test_a_read_that_hangs_holds_nobody_up() -> None:
    """The driver of a failing GPU may never answer."""
    never = threading.Event()

    def hang(urls: object) -> tuple[GpuSample, ...]:
        never.wait()
        return ()

    watch = GpuWatch(hang)
    assert watch.latest() == []
    assert watch.totals() == []
    watch.stop()
    never.set()


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ([], ""),
        ([totals(server=None)], ""),
        ([totals(utilization=0.31), totals(utilization=0.35)], "31% to 35% busy: they waited for work"),
        ([totals(utilization=0.98)], "98% busy: only faster or more GPUs"),
        ([totals(throttled=("heat",)), totals()], "throttled by heat (1 of 2)"),
    ],
)
def test_the_verdict_on_gpus_says_what_they_did_and_nothing_where_none_is_seen(
    gpus: list[GpuTotals], words: str
) -> None:
    assert words in gpu_verdict(gpus)
    assert bool(words) == bool(gpu_verdict(gpus))


def test_the_library_is_asked_again_each_time(tmp_path: Path) -> None:
    with fake_gpus(tmp_path, {"utilization": 10}):
        assert [gpu.utilization for gpu in sample_gpus()] == [0.1]
        write_gpus(tmp_path, {"utilization": 90})
        assert [gpu.utilization for gpu in sample_gpus()] == [0.9]
