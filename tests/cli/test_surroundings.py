"""What surrounds a command: the folder it stands in, the encoding of its output, keys, a machine without /proc."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.ledger.log import frame
from engine.ledger.quarantine import Quarantine
from engine.memory import ring
from engine.supervision.interpreter import python
from engine.telemetry.bottleneck import MachineCpu, Occupancy
from tests.cli.terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ("numpy.py", "engine/__init__.py", "writers/__init__.py", "pyarrow.py", "json.py", "orjson.py", "cli.py")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder with modules that must not be imported by anybody."""
    folder = tmp_path / "trap"
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise SystemExit('imported from the user\\'s folder')\n")
    return folder


def call(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`engine ARGUMENTS` in a folder, as its console script starts it: without that folder in its path."""
    return subprocess.run(
        python("cli", *arguments),
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )


@pytest.mark.seconds
def test_merge_and_verify_import_nothing_from_the_folder_the_user_stands_in(tmp_path: Path, trap: Path) -> None:
    """Their workers are processes of their own."""
    source = tmp_path / "source"
    source.mkdir()
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"_id": pa.array([1, 2]), "embedding": vectors}), source / "a.parquet")

    merged = call(trap, "merge", "--source", str(source), "--target", str(tmp_path / "target"))
    verified = call(trap, "verify", "--folder", str(tmp_path / "target"))

    assert (merged.returncode, verified.returncode) == (0, 0), merged.stderr + verified.stderr


@pytest.mark.seconds
@pytest.mark.parametrize("module", ["engine.supervision.worker", "writers.workers.pool", "bench.standin.__main__"])
def test_no_process_that_is_started_finds_the_folder_the_user_stands_in(trap: Path, module: str) -> None:
    """What it finds is what the one who starts it has."""
    command = python(module)
    command[2] = command[2].replace("sys.exit(main())", f"import {module}; print({module}.__file__, sys.path)")

    done = subprocess.run(command, cwd=trap, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stderr
    assert str(ROOT / module.partition(".")[0]) in done.stdout
    assert str(trap) not in done.stdout
    assert "''" not in done.stdout


@pytest.mark.seconds
def test_every_python_process_of_the_product_is_started_by_one_function() -> None:
    """`-m` and `-c` elsewhere would put the user's folder first again. Measurements may do as they like."""
    found = set()
    for path in [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/**/*.py")]:
        layer = path.relative_to(ROOT).parts[:2]
        if layer[0] in ("tests", "build") or layer == ("bench", "measure"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable":
                isolated = any(isinstance(item, ast.Constant) and item.value == "-I" for item in node.elts)
                found |= set() if isolated else {str(path.relative_to(ROOT))}
    assert found == {"engine/supervision/interpreter.py"}


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Where a run has ended and has left a document with a telling id in quarantine."""
    folder = tmp_path / "hot" / "twitter_data.tweets.gemma_embedded_768"
    folder.mkdir(parents=True)
    (folder / "ledger").write_bytes(frame({"type": "EPOCH", "epoch": 1, "at": 1.0}))
    quarantine = Quarantine(folder / "quarantine.jsonl")
    quarantine.close()
    (folder / "quarantine.jsonl").write_text(
        '{"_id": "na\u00efve \u2603 \U0001f600", "reason": "backend", "attempts": 1, "detail": "\u2026"}\n',
        encoding="utf-8",
    )
    return tmp_path


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("arguments", [("quarantine", "list"), ("quarantine", "list", "--json")], ids=" ".join)
def test_output_that_its_encoding_cannot_hold_is_escaped(
    run_folder: Path, encoding: str, arguments: tuple[str, ...]
) -> None:
    done = subprocess.run(
        python("cli", *arguments),
        cwd=run_folder,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    said = done.stdout.decode(encoding)
    assert ("\\u2603" in said) or ("\u2603" in said)


@pytest.mark.seconds
def test_a_name_that_the_file_system_s_encoding_cannot_hold_is_a_sentence(tmp_path: Path) -> None:
    """A collection of that name has a folder of that name."""
    said = call(
        tmp_path,
        "run",
        "--config",
        "engine.toml",
        LC_ALL="POSIX",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    (tmp_path / "engine.toml").write_text('[run]\ncollection = "tw\u00e9\u00e9ts"\n', encoding="utf-8")
    named = call(
        tmp_path,
        "run",
        "--config",
        "engine.toml",
        LC_ALL="POSIX",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )

    assert said.returncode == 2
    assert named.returncode == 2
    assert "set LC_ALL=C.UTF-8" in named.stderr
    assert len(named.stderr.splitlines()) == 1
    assert "report it" not in named.stderr


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("k\u00e9y", "character 2 of key 1 is U+00E9"),
        ("\u201ckey\u201d", "character 1"),
        ("alphakey,beta gamma", "of key 2 is U+0020"),
    ],
)
@pytest.mark.parametrize("by_file", [True, False])
def test_a_key_that_no_header_can_hold_is_a_sentence_without_the_key(
    engine: Terminal, tmp_path: Path, key: str, place: str, by_file: bool
) -> None:
    (tmp_path / "key").write_text(key, encoding="utf-8")
    (tmp_path / "key").chmod(0o600)

    if by_file:
        said = engine("doctor", "--tei-api-key-file", "key")
    else:
        said = engine("doctor", ENGINE_TEI_API_KEY=key)

    assert said.code == 2
    assert place in said.err
    assert "report it" not in said.err
    assert key not in said.err


def test_a_byte_order_mark_is_no_part_of_a_secret(engine: Terminal, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key", encoding="utf-8-sig")
    (tmp_path / "key").chmod(0o600)

    said = engine("doctor", "--tei-api-key-file", "key", "--tei-urls", "http://127.0.0.1:1")

    assert said.code == 7, said.err


def test_a_machine_without_proc_is_measured_by_other_means(monkeypatch: pytest.MonkeyPatch) -> None:
    real = open

    def no_proc(path: object, *arguments: object, **named: object) -> object:
        if str(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return real(path, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", no_proc)

    assert ring.available_bytes() > 1 << 20
    assert MachineCpu.now().busy_share_since() is None
    occupancy = Occupancy()
    occupancy.sample(0.0, 0.0, 1.0)
    assert occupancy.bottleneck({}, []).startswith("the writer")


@pytest.mark.seconds
def test_a_command_works_where_proc_is_not_mounted(run_folder: Path) -> None:
    """In a mount namespace of its own, where that may be had."""
    unshare = shutil.which("unshare")
    inner = ["sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh", *python("cli", "status")]
    allowed = unshare and subprocess.run([unshare, "-m", "mount", "-t", "tmpfs", "none", "/proc"], check=False)
    if not unshare or not allowed or allowed.returncode:
        pytest.skip("this user may not make a mount namespace")

    done = subprocess.run(
        [unshare, "-m", *inner], cwd=run_folder, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("arguments", [["--version"], ["run", "--no-such-option"]], ids=" ".join)
def test_a_signal_on_the_way_out_changes_nothing(number: signal.Signals, arguments: list[str]) -> None:
    """While the interpreter takes itself down: no traceback out of a library, and the exit code of the work."""
    code = (
        "import atexit, os, signal, sys; import cli; "
        f"atexit.register(lambda: os.kill(os.getpid(), {int(number)})); sys.argv[1:] = {arguments!r}; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == (0 if arguments == ["--version"] else 2)
    assert len(done.stderr.splitlines()) == (0 if arguments == ["--version"] else 1)
