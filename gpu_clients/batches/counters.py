"""What a client counts, and how it tells the supervisor."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from engine.telemetry.metrics import LatencyHistogram
from gpu_clients.errors import Failure
from gpu_clients.servers.requester import Completion, ServerTimes


@dataclass(slots=True)
class Counters:
    """Counters of one client process, all cumulative.

    Attributes:
        rows: Rows handed to the writer.
        taken_rows: Document rows taken from the ring and not handed back.
        quarantined: Documents put into quarantine.
        requests: Embedding requests sent for documents.
        retries: Of these, requests that repeated an earlier one after a failure.
        rejected_429: Answers that said "overloaded".
        errors: Failed requests by class.
        tokens: Tokens the server counted; an estimate where it did not say.
        tokens_exact: Whether no estimate is among them.
        truncated: Documents whose text the server cut.
        saved_by_dedup: Rows that shared another row's text.
        doubtful_rows: Rows that were committed although their server could be asked for no canary after them.
        latency_s: Seconds from request to answer, of all `answers`.
        ring_wait_s: Time with room but without documents, while more were to come.
        vector_wait_s: Time with answers but without an empty vector slot.
        server_wait_s: Time in which nothing could be done but wait for the server.
        idle_s: Time with nothing in hand, when no more documents were to come.
        total_s, answered_s: Of the requests that the server gave an account of: its own time for them from arrival to
            answer, and the time that they took here.

    All waits count from the first request on: what was before is the start.
    """

    rows: int = 0
    taken_rows: int = 0
    quarantined: int = 0
    requests: int = 0
    retries: int = 0
    rejected_429: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    bytes_in: int = 0
    bytes_out: int = 0
    tokens: int = 0
    tokens_exact: bool = True
    truncated: int = 0
    saved_by_dedup: int = 0
    doubtful_rows: int = 0
    ring_wait_s: float = 0.0
    vector_wait_s: float = 0.0
    server_wait_s: float = 0.0
    idle_s: float = 0.0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    latency_s: float = 0.0
    answers: int = 0
    queue_s: float = 0.0
    inference_s: float = 0.0
    tokenization_s: float = 0.0
    total_s: float = 0.0
    answered_s: float = 0.0
    last_error: str | None = None
    _began_s: float | None = None
    _cpu_began_s: float = 0.0

    def add_wait(self, seconds: float, /, parked: bool, starving: bool, more_to_come: bool, *, in_flight: int) -> None:
        """Count time spent waiting, by what for.

        Args:
            parked: Whether an answer waits for an empty vector slot.
            starving: Whether there is room but no document.
            more_to_come: Whether the reader has not come to its end.
            in_flight: Requests at the server.
        """
        if self._began_s is None:
            if not self.requests:
                return
            self._began_s, self._cpu_began_s = time.monotonic() - seconds, time.process_time()
        if parked:
            self.vector_wait_s += seconds
        elif starving and more_to_come:
            self.ring_wait_s += seconds
        elif starving and not in_flight:
            self.idle_s += seconds
        else:
            self.server_wait_s += seconds

    def add_answer(self, completion: Completion, times: ServerTimes, tokens: int | None, estimated_tokens: int) -> None:
        """Count a request that was answered with vectors."""
        self.queue_s += times.queue_s
        self.inference_s += times.inference_s
        self.tokenization_s += times.tokenization_s
        if times.total_s or times.inference_s:
            self.total_s += times.total_s
            self.answered_s += completion.latency_s
        self.bytes_in += completion.bytes_in
        self.bytes_out += completion.bytes_out
        self.latency.record(completion.latency_s)
        self.latency_s += completion.latency_s
        self.answers += 1
        if tokens is None:
            self.tokens += estimated_tokens
            self.tokens_exact = False
        else:
            self.tokens += tokens

    def add_failure(self, url: str, failure: Failure) -> None:
        """Count what went wrong at a server."""
        self.errors[failure.kind.value] += 1
        self.last_error = f"{url}: {failure.kind.value}: {failure.detail}"

    def as_facts(self) -> dict[str, Any]:
        """The counters as they stand in the `client` event."""
        began_s = self._began_s
        return {
            "rows": self.rows,
            "taken_rows": self.taken_rows,
            "quarantined": self.quarantined,
            "requests": self.requests,
            "retries": self.retries,
            "rejected_429": self.rejected_429,
            "errors": dict(self.errors),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "tokens": self.tokens,
            "tokens_exact": self.tokens_exact,
            "truncated": self.truncated,
            "saved_by_dedup": self.saved_by_dedup,
            "doubtful_rows": self.doubtful_rows,
            "ring_wait_s": self.ring_wait_s,
            "vector_wait_s": self.vector_wait_s,
            "server_wait_s": self.server_wait_s,
            "idle_s": self.idle_s,
            "worked_s": 0.0 if began_s is None else time.monotonic() - began_s,
            "worked_cpu_s": 0.0 if began_s is None else time.process_time() - self._cpu_began_s,
            "latency": self.latency.sparse(),
            "latency_s": self.latency_s,
            "answers": self.answers,
            "cpu_s": time.process_time(),
            "server_times": {
                "queue_s": self.queue_s,
                "inference_s": self.inference_s,
                "tokenization_s": self.tokenization_s,
                "total_s": self.total_s,
                "answered_s": self.answered_s,
            },
            "last_error": self.last_error,
        }
