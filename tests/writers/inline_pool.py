"""The work of a pool of workers done in this process: for tests that are not about processes."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import Any

from engine.memory.channels import Message
from writers.workers.pool import OnFault, Report


class InlinePool:
    """What `writers.workers.pool.Pool` offers, without processes."""

    def __init__(
        self, role: str, jobs: int, inherited_fds: tuple[int, ...] = (), modules: tuple[str, ...] = ()
    ) -> None:
        self.role = role

    def run(
        self, jobs: Iterable[Message], on_progress: Report, on_fault: OnFault | None = None
    ) -> Iterator[tuple[Message, Message]]:
        """Do jobs one after the other."""
        for job in jobs:
            module, _, function = str(job["task"]).partition(":")
            task: Any = getattr(importlib.import_module(module), function)
            yield job, task(job, lambda facts: on_progress({"event": "progress", **facts}))

    def close(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
