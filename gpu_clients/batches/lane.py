"""The way to one server: connections, window, breaker, retries. What the stage pulls batches for."""

from __future__ import annotations

import random
import time
from collections import deque

from gpu_clients.batches.admission import Admission, GpuBatch
from gpu_clients.batches.breaker import Breaker
from gpu_clients.batches.retry import RetryBudget
from gpu_clients.errors import Failure, FailureKind
from gpu_clients.http.address import Address
from gpu_clients.http.client import HttpClient
from gpu_clients.http.polling import Poller
from gpu_clients.server_facts import ServerFacts
from gpu_clients.servers.probe import ServerProbe, examine_server
from gpu_clients.servers.repeated_looks import UnlikeTurns
from gpu_clients.servers.requester import Completion, Requester, ServerTimes
from gpu_clients.servers.routes import choose_route
from gpu_clients.settings import ClientSettings
from gpu_clients.vectors.truncation import TruncationJudge

FIRST_TIMEOUT_S = 120.0
SHORTEST_TIMEOUT_S = 15.0
LONGEST_TIMEOUT_S = 600.0
TIMEOUT_FACTOR = 8.0
"""A deadline is that many times the slowest recent answer: a request that is given up too early is queued behind
itself, which is how retry storms begin."""
PROBE_TIMEOUT_S = 20.0
LEAST_PATIENCE_S = 30.0
UNSTEADY_WITHIN_S = 30.0
UNSTEADY_SECONDS = 3


class Lane:
    """One server as a client sees it.

    Attributes:
        index: Number of the server in the fleet.
        address: Where it is.
        facts: What is known of it; None until it has been examined.
        requester: How it is asked; None until it has been examined.
        breaker: Whether it is used.
        admission: How many texts may be in flight.
        budget: Retries left.
        resume_s: Monotonic time before which nothing is sent: the cool-down after a 429.
        truncation: Judges which texts the server has cut.
        last_answer_s: When the last good answer came, monotonic seconds.
        overloaded_since_s: When the first 429 came after the last good answer, monotonic seconds, or None.
        drifted_s: When its vectors last turned out to be wrong, monotonic seconds, or None.
        unlike: Whether backends of unlike dimensions take turns behind its URL.
        drifts: How often its vectors turned out to be wrong; what was embedded before is not delivered afterwards.
    """

    def __init__(self, settings: ClientSettings, index: int, poller: Poller, rng: random.Random) -> None:
        self.index = index
        self.address = Address.parse(settings.urls[index])
        self.facts: ServerFacts | None = None
        self.requester: Requester | None = None
        self.breaker = Breaker(rng)
        self.admission = self._make_admission(settings, None)
        self.budget = RetryBudget(settings.retry_share)
        self.resume_s = 0.0
        self.last_answer_s = 0.0
        self.overloaded_since_s: float | None = None
        self.drifted_s: float | None = None
        self.drifts = 0
        self.unlike = UnlikeTurns()
        self.truncation = TruncationJudge(None)
        self._settings = settings
        self._poller = poller
        self._slowest_s = 0.0
        self._troubled_seconds: deque[int] = deque(maxlen=UNSTEADY_SECONDS)
        self._n_answers = 0
        facts = settings.facts_of(index)
        if facts is not None:
            self.examined(facts)

    def examined(self, facts: ServerFacts) -> None:
        """Take in what an examination found out."""
        settings = self._settings
        self.facts = facts
        http = HttpClient(self.address, self._poller, settings.access(self.index))
        route = choose_route(facts, settings.options)
        self.requester = Requester(http, route, dim=settings.dim, normalized=settings.normalize)
        self.admission = self._make_admission(settings, facts)
        # a server that refuses long texts cuts none; TEI is told what to do
        cuts = settings.truncate and (facts.kind == "tei" or facts.auto_truncate is not False)
        self.truncation = TruncationJudge(
            facts.max_input_length if cuts else None,
            special_tokens=facts.special_tokens,
            default_prompt=facts.default_prompt,
        )
        self.overloaded_since_s = None

    def probe(self) -> ServerProbe:
        """Begin to examine the server."""
        settings = self._settings
        http = HttpClient(self.address, self._poller, settings.access(self.index))
        return ServerProbe(http, examine_server(settings.server_kind, settings.options), timeout_s=PROBE_TIMEOUT_S)

    def drifted(self) -> None:
        """Take note of wrong vectors."""
        self.drifts += 1
        self.drifted_s = time.monotonic()

    @property
    def timeout_s(self) -> float:
        """Time for one request: as the user says, or derived from the slowest recent answer."""
        if self._settings.request_timeout_s is not None:
            return self._settings.request_timeout_s
        texts = self.in_flight_texts + self._settings.batch_size
        first_s = self.facts.timeout_s(texts, FIRST_TIMEOUT_S) if self.facts else FIRST_TIMEOUT_S
        if self._n_answers < 20:
            return first_s
        return min(max(first_s, LONGEST_TIMEOUT_S), max(SHORTEST_TIMEOUT_S, TIMEOUT_FACTOR * self._slowest_s))

    @property
    def patience_s(self) -> float:
        """Within that time a server that works has answered a request, also one that works slowly."""
        return max(LEAST_PATIENCE_S, 2 * self._slowest_s)

    def troubled(self) -> None:
        """A batch failed for a reason that may be the server's."""
        second = int(time.monotonic())
        if not self._troubled_seconds or self._troubled_seconds[-1] != second:
            self._troubled_seconds.append(second)

    def overloaded(self, pause_s: float) -> None:
        """An answer said 429: send nothing for so long."""
        now_s = time.monotonic()
        self.resume_s = max(self.resume_s, now_s + pause_s)
        if self.overloaded_since_s is None:
            self.overloaded_since_s = now_s

    def is_overloaded_for(self, seconds: float) -> bool:
        """Whether it has answered nothing but 429 for so long."""
        since_s = self.overloaded_since_s
        return since_s is not None and time.monotonic() - since_s > seconds

    @property
    def is_unsteady(self) -> bool:
        """Whether batches have failed in several of the last seconds; one bad GPU batch fails many in one."""
        since = time.monotonic() - UNSTEADY_WITHIN_S
        return sum(second >= since for second in self._troubled_seconds) >= UNSTEADY_SECONDS

    def passed(self) -> None:
        """Take note of a good answer to something else than a batch: it is not swamped."""
        self.last_answer_s = time.monotonic()
        self.overloaded_since_s = None
        self.admission.passed()
        self.unlike.right()

    def failed(self, failure: Failure) -> None:
        """Take note of how a request failed."""
        if failure.kind is FailureKind.OTHER_DIMENSION:
            self.unlike.wrong(failure.detail)

    def answered(self, completion: Completion, times: ServerTimes) -> None:
        """Take note of a good answer."""
        self._n_answers += 1
        self.last_answer_s = now_s = time.monotonic()
        self.overloaded_since_s = None
        # forgets slowly: half after 200 answers
        self._slowest_s = max(completion.latency_s, self._slowest_s * 0.9965)
        self.breaker.succeeded()
        self.unlike.right()
        self.budget.earn()
        self.admission.answered(completion.n_texts, completion.latency_s, times, now_s, completion.in_flight_texts)

    @property
    def in_flight(self) -> int:
        """Requests in flight."""
        return self.requester.in_flight if self.requester else 0

    @property
    def in_flight_texts(self) -> int:
        """Texts in flight."""
        return self.requester.in_flight_texts if self.requester else 0

    @staticmethod
    def _make_admission(settings: ClientSettings, facts: ServerFacts | None) -> Admission:
        return Admission(
            batch_texts=settings.batch_size,
            permits=facts.max_concurrent_requests if facts else None,
            concurrency=settings.concurrency,
            start_concurrency=settings.start_concurrency,
            max_concurrency=settings.max_concurrency,
            target_p95_s=settings.target_p95_s,
            gpu_batch=GpuBatch(facts.max_batch_tokens, facts.max_batch_requests) if facts else None,
        )
