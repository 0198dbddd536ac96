"""What the recording of a run costs: processor time for a second of a run, and for a document at several rates.

    python -m bench.recording.cost --servers 4

Figures as a run publishes them go through the parts of the recorder, into a folder on this machine, one after the other
without the second between them. The thread's hand-over and the look at other processes on a full machine are not in it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engine.recording.history import History
from engine.recording.machine import Machine
from engine.recording.recorder import EVERY_S, FIRST_S, first_every_s
from engine.recording.sampling import Sampler

RATES = (2_600, 28_000)
"""Documents a second: a fleet of GPUs, and what the engine does with servers that answer at once."""


def figures(second: int, n_servers: int) -> dict[str, Any]:
    """The live figures of a run at some second."""
    rows = 700 * second
    client = {
        "rows": rows,
        "requests": rows // 32,
        "answers": rows // 32,
        "tokens": rows * 20,
        "retries": 0,
        "rejected_429": 0,
        "errors": {},
        "latency": {str(bucket): second * (bucket % 7) for bucket in range(100, 140)},
        "latency_s": second * 8.0,
        "server_times": {"queue_s": second * 1.0, "tokenization_s": second * 0.1, "inference_s": second * 0.9},
        "breaker": "ok",
        "in_flight": 8,
        "window": 8,
        "ring_wait_s": 0.1 * second,
        "vector_wait_s": 0.0,
        "cpu_s": 0.1 * second,
    }
    reader: dict[str, Any] = {"documents": rows, "pages": second, "page_s": 0.1 * second, "characters": 80 * rows}
    reader["lengths"] = {str(bucket): bucket * second for bucket in range(8, 20)}
    return {
        "at": time.time(),
        "phase": "running",
        "generation": 1,
        "embedded_now": rows * n_servers,
        "committed": rows,
        "left_at_start": 10**9,
        "reader": reader,
        "writer": {"rows": rows, "bytes": rows * 2600, "writes": second, "write_s": 0.1 * second, "state": "writing"},
        "rings": {"documents_ready": 0.8, "vectors_ready": 0.1, "vectors_busy": 0.2},
        "clients": {f"client-{k}": {**client, "url": f"http://gpu-{k}:8080/embed"} for k in range(n_servers)},
    }


def measure(n_servers: int, every_s: int, n_seconds: int = 500) -> tuple[float, float]:
    """Processor microseconds for a second of a run, and bytes a sample.

    Args:
        every_s: Seconds of a sample; figures come every second.
    """
    made = [figures(second, n_servers) for second in range(1, n_seconds + 1)]
    with tempfile.TemporaryDirectory(prefix="engine-bench-") as name:
        folder = Path(name) / "history"
        history, sampler = History(folder), Sampler(0.0)
        machine = Machine({"hot": Path(name), "cold": Path(name)})
        began_s = time.process_time()
        for second, one in enumerate(made, 1):
            sampler.see(one, float(second))
            if second % every_s == 0:
                sample = sampler.take(one, machine.look(), float(second))
                history.append(sample, sampler.servers)
        spent_us = (time.process_time() - began_s) * 1e6 / n_seconds
        history.close()
        size = (folder / "fine").stat().st_size
    return spent_us, size / (n_seconds / every_s)


def main() -> None:
    """Entry point of `python -m bench.recording.cost`."""
    parser = argparse.ArgumentParser(description="Measure what the recording of a run costs.")
    parser.add_argument("--servers", type=int, default=4)
    given = parser.parse_args()
    for every_s, when in (
        (first_every_s(given.servers), f"the first {FIRST_S:.0f} s"),
        (EVERY_S, "from then on"),
    ):
        spent_us, size = measure(given.servers, int(every_s))
        of_documents = ", ".join(f"{spent_us / rate:.3f} us a document at {rate:,}/s" for rate in RATES)
        sys.stdout.write(
            f"{when}: {spent_us:,.0f} us of processor time a second, {of_documents}; {size:,.0f} bytes a sample "
            f"({given.servers} servers)\n"
        )


if __name__ == "__main__":
    main()
