"""Is a server's HTTP side its limit? Measured by requests whose texts are next to nothing for the model.

vLLM tokenises, checks and writes answers in one process unless it is told to start more of them, and a small model
waits for it. What a one-letter text costs in a large request is that process's work, what a sentence costs beyond that
is the model's.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

from gpu_clients.http.connection import Exchange
from gpu_clients.servers.measured.embedding import embedding_request
from gpu_clients.servers.probe_request import ProbeRequest
from gpu_clients.servers.routes import Route

_TEXTS = 32
_ROUNDS = 5
_SENTENCE = "Twenty words or so are what people write on most days, and a good deal of it is about the weather."


@dataclass(frozen=True, slots=True)
class FrontendCost:
    """What a text costs a server, in seconds.

    Attributes:
        http_s: Of its HTTP side.
        model_s: Of the model, for a sentence.
    """

    http_s: float
    model_s: float

    @property
    def is_the_limit(self) -> bool:
        """Whether the model waits for the HTTP side."""
        return self.http_s > self.model_s


def measure_frontend(route: Route, dim: int) -> Generator[ProbeRequest, Exchange, FrontendCost | None]:
    """What a text costs; None when a request failed, or when chance outweighs what is looked for."""
    questions = (["a"], ["a"] * _TEXTS, [f"{_SENTENCE} {number}" for number in range(_TEXTS)])
    least_s = [math.inf] * len(questions)
    for _ in range(_ROUNDS):
        for number, texts in enumerate(questions):
            exchange = yield embedding_request(route, texts, dim)
            took_s = exchange.finished_s - exchange.started_s
            good = exchange.failure is None and exchange.status == 200
            exchange.release()
            if not good:
                return None
            least_s[number] = min(least_s[number], took_s)
    http_s, model_s = (least_s[1] - least_s[0]) / (_TEXTS - 1), (least_s[2] - least_s[1]) / _TEXTS
    return FrontendCost(http_s, max(0.0, model_s)) if http_s > 0 else None
