"""Programs that take the flags of real embedding servers and become a stand-in: `text-embeddings-router`, `vllm`.

FAKE_SERVER_MODE    what they do besides, for faults: see `main`
FAKE_SERVER_FLAGS   further flags of the stand-in, with blanks between
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from engine.supervision.interpreter import python

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"tei": "text-embeddings-router", "vllm": "vllm", "docker": "docker"}


def write_binary(folder: Path, backend: str) -> Path:
    """Put such a program into a folder."""
    path = folder / NAMES[backend]
    command = python("tests.parts.server_binaries", backend)
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
    path.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def main() -> int:
    """Be the program; the first argument says which."""
    backend, *words = sys.argv[1:]
    if backend == "docker":
        return _docker(words)
    mode = os.environ.get("FAKE_SERVER_MODE", "")
    if mode == "refuses":
        sys.stderr.write("error: the model cannot be found\n")
        return 3
    if mode == "never healthy":
        sys.stderr.write("downloading the model\n")
        sys.stderr.flush()
        time.sleep(600)
    if mode == "has a child":  # that does not care for its parent's end, in a session of its own
        child = subprocess.Popen([sys.executable, "-c", _STUBBORN], start_new_session=True)
        sys.stdout.write(f"child {child.pid}\n")
        sys.stdout.flush()
    given = (_tei if backend == "tei" else _vllm)(words)
    sys.stdout.write(f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    sys.stdout.flush()
    further = os.environ.get("FAKE_SERVER_FLAGS", "").split()
    return os.execv(sys.executable, python("bench.standin.__main__", *given, *further))


_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def _tei(words: list[str]) -> list[str]:
    """The flags of text-embeddings-router 1.9.3 that we use, refused like there when they are unknown."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("model-id", "hostname", "port", "dtype", "payload-limit", "prometheus-port", "tokenization-workers"):
        parser.add_argument(f"--{name}")
    for name in ("max-batch-tokens", "max-concurrent-requests", "max-client-batch-size", "max-batch-requests"):
        parser.add_argument(f"--{name}")
    given = parser.parse_args(words)
    if given.dtype not in (None, "float16", "float32"):
        parser.error(f"invalid value {given.dtype!r} for '--dtype'")
    found = ["--backend", "sim", "--ports", given.port, "--host", given.hostname, "--model-id", given.model_id]
    for name in ("dtype", "max-batch-tokens", "max-concurrent-requests", "max-client-batch-size", "max-batch-requests"):
        value = getattr(given, name.replace("-", "_"))
        found += [f"--{name}", value] if value is not None else []
    return [*found, "--tokenization-workers", given.tokenization_workers, "--payload-limit-bytes", given.payload_limit]


def _vllm(words: list[str]) -> list[str]:
    """Those of `vllm serve`."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    for name in ("host", "port", "runner", "dtype", "max-num-batched-tokens", "gpu-memory-utilization"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--api-server-count")
    parser.add_argument("--disable-uvicorn-access-log", action="store_true")
    given = parser.parse_args(words)
    found = ["--backend", "sim", "--ports", given.port, "--host", given.host, "--model-id", given.model]
    return [*found, "--max-batch-tokens", given.max_num_batched_tokens]


def _docker(words: list[str]) -> int:
    """`docker run` whose container is no child of it, and `docker kill`; containers stand in FAKE_DOCKER."""
    folder = Path(os.environ["FAKE_DOCKER"])
    if words[0] == "kill":
        pid = int((folder / words[1]).read_text(encoding="utf-8"))
        os.kill(pid, signal.SIGKILL)
        return 0
    options = [word for word in words if word.startswith("--")]
    named = dict(word[2:].partition("=")[::2] for word in options)
    at = next(at for at, word in enumerate(words[1:], 1) if not word.startswith("--"))  # the image
    port = named["publish"].split(":")[1]
    (folder / "run.txt").write_text("\n".join(words), encoding="utf-8")
    inside = [word for word in words[at + 1 :] if not word.startswith(("--port=", "--hostname="))]
    container = subprocess.Popen(
        python("tests.parts.server_binaries", "tei", *inside, "--hostname=127.0.0.1", f"--port={port}",
               "--prometheus-port=1"),
        start_new_session=True, stdin=subprocess.DEVNULL, env={**os.environ, "FAKE_DETACHED": "1"},
    )  # fmt: skip
    (folder / named["name"]).write_text(str(container.pid), encoding="utf-8")
    return container.wait()


if __name__ == "__main__":
    sys.exit(main())
