"""`engine bench --server-flags` and what is done with its file: real processes that obey the flags."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bench.parts import tweets
from bench.tuner.report.tuned import TunedServer, read_tuned
from engine.supervision.interpreter import python

GPU = "--dim=16 --tokens-per-s=20000 --fixed-overhead-s=0.02 --float32-speed=0.4 --max-concurrent-requests=256"
FLAGS = "max-batch-tokens=256,1024,999999999999999999999 dtype=float16,float32"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Some hundred texts."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(text.split()) for text in tweets.texts()[:600]), encoding="utf-8")
    return path


def bench(folder: Path, texts: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        python(
            *("cli", "bench", "--json", "--backend", "sim", "--ports", "0,0", "--flags", GPU, "--texts", str(texts)),
            *("--seconds", "0.5", "--batch-sizes", "8,16", "--hot-dir", str(folder / "hot"), "--seed", "1"),
            *("--out", str(folder / "tuned.toml"), *words),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )


@pytest.mark.slow
def test_the_fleet_is_started_anew_for_each_setting_and_the_best_is_written_for_serve_and_run(
    tmp_path: Path, texts: Path
) -> None:
    """The best by what was measured, whichever that is on a busy machine; the page has every setting that was tried."""
    process = bench(tmp_path, texts, "--server-flags", FLAGS, "--html", str(tmp_path / "page.html"))
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    settings = found["settings"]
    assert found["settings_in_all"] == 6
    assert 2 <= len(settings) <= 6
    best = max(settings, key=lambda one: one["docs_per_second"] or 0.0)
    assert best["docs_per_second"] == found["chosen"]["docs_per_second"]
    tuned = read_tuned(tmp_path / "tuned.toml")
    flags = " ".join(f"--{name}={value}" for name, value in best["flags"].items())
    assert tuned.server == TunedServer(backend="sim", flags=f"{GPU} {flags}")
    assert str(tuned.servers[0]["max_batch_tokens"]) == best["flags"]["max-batch-tokens"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    shown = re.findall(r"<tr><td class=\"text\"><span>(max-batch-tokens[^<]+)</span>", page)
    assert len(shown) == len(settings)


@pytest.mark.seconds
def test_an_interruption_ends_the_servers_and_exits_130(tmp_path: Path, texts: Path) -> None:
    process = bench(tmp_path, texts, "--server-flags", "max-batch-tokens=256,1024")
    assert process.stderr is not None
    for line in process.stderr:
        if "measured" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert not (tmp_path / "tuned.toml").exists()


@pytest.mark.seconds
def test_servers_of_ours_are_tuned_without_flags_too_and_end_with_the_command(tmp_path: Path, texts: Path) -> None:
    began_s = time.monotonic()
    process = bench(tmp_path, texts, "--max-seconds", "3")
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert json.loads(out)["chosen"]["docs_per_second"] > 0
    assert read_tuned(tmp_path / "tuned.toml").server is None
    assert time.monotonic() > began_s
