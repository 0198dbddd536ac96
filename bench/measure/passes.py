"""Ways of reading a collection, gone alternately beside one mongod: what each costs the reader and the server."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil


def measure_passes(
    ways: dict[str, Callable[[], int]], server_pid: int, *, n_documents: int, rounds: int
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Go every way `rounds` times, in turn.

    Args:
        ways: Each reads once, in this process, and returns how many documents it was sent.
        server_pid: The mongod.
        n_documents: What the figures are divided by.

    Returns:
        For each way the medians of `wall`, `reader_cpu` and `mongod_cpu`, in microseconds a document; and the documents
        that it was sent.
    """
    server = psutil.Process(server_pid)
    figures: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    sent: dict[str, int] = {}
    for way in list(ways) * rounds:
        began = (time.monotonic(), time.process_time(), _cpu_s(server))
        sent[way] = ways[way]()
        ended = (time.monotonic(), time.process_time(), _cpu_s(server))
        wall, reader, mongod_cpu = (end - begin for begin, end in zip(began, ended, strict=True))
        figures[way].append((wall, reader, mongod_cpu))
    medians = {
        way: {
            name: round(1e6 * statistics.median(column) / n_documents, 1)
            for name, column in zip(("wall", "reader_cpu", "mongod_cpu"), zip(*rows, strict=True), strict=True)
        }
        for way, rows in figures.items()
    }
    return medians, sent


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def print_figures(description: str | None, measure: Callable[[int, int], dict[str, Any]]) -> None:
    """Print what `measure(documents, rounds)` returns as JSON, for numbers of the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sys.stdout.write(json.dumps(measure(options.documents, options.rounds), indent=2) + "\n")
