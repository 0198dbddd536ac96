"""The shards of a running writer on their way to a cold store: uploaded beside the embedding."""

from __future__ import annotations

import os
import queue
import threading
from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError
from engine.ledger import durable
from engine.records import ShardFacts
from engine.telemetry.metrics import Stopwatch
from writers.cold.settings import SHARDS, ColdSettings
from writers.cold.upload import upload

UPLOADS = 3
"""Shards on their way at once: one connection seldom fills a line, and each sends a shard in one request."""

Ranges = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Shipped:
    """A shard that the store has, or why it does not.

    Attributes:
        facts: The shard.
        ranges: Its batch numbers, as the writer gave them.
        error: What kept it from getting there.
    """

    facts: ShardFacts
    ranges: Ranges
    error: EngineError | None = None


class Shipping:
    """Uploads sealed shards in threads of its own; the writer collects the results."""

    def __init__(self, folder: Path, cold: ColdSettings) -> None:
        """
        Args:
            folder: Where sealed shards lie on hot.
        """
        self._folder = folder
        self._cold = cold
        self._store = cold.open()
        self._retries: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._todo: queue.SimpleQueue[tuple[ShardFacts, Ranges]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Shipped] = queue.SimpleQueue()
        self._pending = 0
        self._pending_bytes = 0
        self._uploaded_bytes = 0
        self._n_retries = 0
        self._watches = [Stopwatch() for _ in range(UPLOADS)]
        for number, watch in enumerate(self._watches):
            # daemons: nothing waits for an upload that nobody wants any more
            threading.Thread(target=self._work, args=(watch,), name=f"upload-{number}", daemon=True).start()

    @property
    def pending(self) -> int:
        """Shards that were submitted and not collected yet."""
        return self._pending

    @property
    def pending_bytes(self) -> int:
        """Their bytes."""
        return self._pending_bytes

    def figures(self) -> dict[str, float]:
        """Uploads that are over, and the seconds of all, those under way too; bytes and retries as far as collected."""
        return {
            "uploads": sum(watch.count for watch in self._watches),
            "upload_s": sum(watch.seconds for watch in self._watches),
            "upload_bytes": self._uploaded_bytes,
            "upload_retries": self._n_retries,
        }

    def submit(self, facts: ShardFacts, ranges: Ranges) -> None:
        """Upload a shard that is durable on hot under its final name."""
        self._pending += 1
        self._pending_bytes += facts.bytes
        self._todo.put((facts, ranges))

    def collect(self) -> list[Shipped]:
        """Results since the last call, in the order in which uploads ended."""
        results = []
        while not self._done.empty():
            results.append(self._done.get())
        self._pending -= len(results)
        self._pending_bytes -= sum(result.facts.bytes for result in results)
        self._uploaded_bytes += sum(result.facts.bytes for result in results if result.error is None)
        return results

    def retries(self) -> list[tuple[str, str]]:
        """Where and why uploads had to be tried again since the last call."""
        told = [self._retries.get() for _ in range(self._retries.qsize())]
        self._n_retries += len(told)
        return told

    def hot_bytes(self) -> int:
        """Bytes of whole shards on hot, of this ledger or another, that are not settled yet."""
        total = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".parquet"):
                    try:
                        total += entry.stat().st_size
                    except FileNotFoundError:  # it was settled just now
                        continue
        return total

    def _work(self, watch: Stopwatch) -> None:
        while True:
            facts, ranges = self._todo.get()
            try:
                with watch:
                    upload(
                        self._store,
                        f"{SHARDS}/{facts.file}",
                        self._folder / facts.file,
                        facts.sha256,
                        by_e_tag=self._cold.by_e_tag,
                        budget_s=self._cold.budget_s,
                        tell=lambda where, why: self._retries.put((where, why)),
                    )
                if not self._cold.keeps_copies:
                    durable.point("cold.before_release")
                    durable.unlink(self._folder / facts.file)
                self._done.put(Shipped(facts, ranges))
            except EngineError as error:
                self._done.put(Shipped(facts, ranges, error))
            except BaseException as error:  # noqa: BLE001 - a thread's end would be a shard that never arrives
                self._done.put(Shipped(facts, ranges, EngineError(f"uploading {facts.file} failed: {error!r}")))
