"""The corpus: texts of a measurement, in the order and in the requests in which `engine run` would send them.

A run with bucketing sorts a window of documents by length and lets windows alternate between rising and falling
lengths, so that neighbours in a server's queue are alike. A measurement has to send the same, or a server that pads
would look slower than it is, and at other points. It also has to end soon, wherever it happens to stop. So the texts
form a closed *cycle*: every other text in falling order, the rest in rising order, and from the start again. There is
no jump in it, and any stretch as long as the cycle holds every text once, wherever it begins.

A shorter stretch does not. Therefore a measurement weighs requests by texts and characters
(`bench.tuner.measure.measure`).
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from engine.errors import ConfigError

MAX_REQUEST_BYTES = 512 << 10
"""Of the JSON array of a request; what a slot of a run's document ring holds at most."""

WINDOW_TEXTS = 8192
"""The window that a run sorts."""

_MIN_CYCLE_REQUESTS = 4
OVERHEAD_CHARACTERS = 16
"""What a text costs beside its characters: two special tokens and a place in the batch."""

_TOLERATED_PADDING = 0.025

N_STRATA = 16


class Order(enum.Enum):
    """In which order texts are sent."""

    SORTED = "sorted"
    """Like a run with bucketing: neighbours are of like length."""
    SPREAD = "spread"
    """Requests of like lengths, but neighbouring requests differ: any stretch is a fair sample. Like a run with
    bucketing only while requests do not meet in a server's queue, at one or two in flight."""
    NATURAL = "natural"
    """Like a run without bucketing: texts as they come. Any stretch is a fair sample."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a cycle.

    Attributes:
        body: The JSON array of its texts.
        n_texts: Texts in it.
        n_characters: Characters of all its texts.
        stratum: Which of the `N_STRATA` classes of length most of its texts belong to.
    """

    body: bytes
    n_texts: int
    n_characters: int
    stratum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """Requests that are sent round and round.

    Attributes:
        batch_size: Texts of a usual request.
        requests: In sending order.
        n_texts: Texts of all of them.
        n_characters: Characters of all of them.
        order: What stands beside what.
    """

    batch_size: int
    requests: tuple[Request, ...]
    n_texts: int
    n_characters: int
    order: Order

    def first_request(self, in_flight: int) -> int:
        """Where to begin with so many requests in flight on the whole fleet.

        A sorted cycle is begun so much earlier that the warm-up is over when the longest texts come. Half a cycle
        from there holds every length.
        """
        return -in_flight % len(self.requests) if self.order is Order.SORTED else 0


class Corpus:
    """All texts of a measurement.

    Attributes:
        n_texts: How many.
        n_unusable: Empty texts and such that are no valid Unicode; a run puts them into quarantine.
        n_cut: Texts that were cut because no model takes so many characters.
        lengths: Characters of each text, prompt included, int64 (n_texts,), rising.
    """

    def __init__(self, texts: Sequence[str], *, prompt: str | None = None, max_characters: int | None = None) -> None:
        """
        Args:
            prompt: Put before every text.
            max_characters: Texts are cut there, as a run does it.

        Raises:
            ConfigError: no text can be used.
        """
        usable = []
        self.n_cut = 0
        for given in texts:
            if not given.strip():
                continue
            text = (prompt or "") + given
            if max_characters is not None and len(text) > max_characters:
                text = text[:max_characters]
                self.n_cut += 1
            try:
                usable.append((len(text), orjson.dumps(text)))
            except orjson.JSONEncodeError:  # a lone surrogate
                continue
        if not usable:
            raise ConfigError(
                f"none of the {len(texts)} texts can be embedded (all are empty or no valid Unicode): name others"
                if texts
                else "there are no texts to measure with: name a file with texts, or a collection that holds some"
            )
        usable.sort(key=lambda item: item[0])
        self.n_texts = len(usable)
        self.n_unusable = len(texts) - len(usable)
        self.lengths = np.array([length for length, _ in usable], dtype=np.int64)
        self._encoded = [encoded for _, encoded in usable]

    def cycle(self, batch_size: int, n_texts: int, order: Order, rng: random.Random) -> Cycle:
        """Requests over about `n_texts` texts whose lengths are spread as those of the whole corpus.

        Args:
            batch_size: Texts of a request.
            n_texts: Texts of the cycle; rounded to whole requests. Twice the corpus is a window up and a window down.
            order: What stands beside what.
            rng: Draws the natural order.
        """
        n_requests = max(_MIN_CYCLE_REQUESTS, round(n_texts / batch_size))
        spread = np.linspace(0, self.n_texts, n_requests * batch_size, endpoint=False).astype(int).tolist()
        if order is Order.NATURAL:
            rng.shuffle(spread)
        else:
            # the longest first: what takes too long, or does not fit into memory, shows at once
            spread = [*reversed(spread[1::2]), *spread[0::2]]
        requests = self._requests(spread, batch_size)
        if order is Order.SPREAD:
            requests = [requests[at] for at in _evenly_spread(len(requests), rng)]
        return Cycle(
            batch_size=batch_size,
            requests=tuple(requests),
            n_texts=len(spread),
            n_characters=int(self.lengths[spread].sum()),
            order=order,
        )

    def texts_for_density(self, characters_at_a_time: float) -> int:
        """Texts of the shortest sorted cycle that hardly overstates what padding costs.

        The fewer texts a cycle has, the less alike are neighbours, and the more a server that pads has to pad: more
        than in a run, whose windows are dense.

        Args:
            characters_at_a_time: Characters in the GPU batches of all servers together.
        """
        window = min(self.n_texts, WINDOW_TEXTS)
        as_in_a_run = self._padding(window, characters_at_a_time)
        n_texts = 2 * window  # a window up and a window down: as dense as a run's
        while n_texts > 2 * _MIN_CYCLE_REQUESTS:
            shorter = n_texts * 3 // 4
            if self._padding(shorter // 2, characters_at_a_time) > as_in_a_run + _TOLERATED_PADDING:
                break
            n_texts = shorter
        return n_texts

    def _padding(self, n_texts: int, characters_at_a_time: float) -> float:
        """Padded per real characters when so many sorted texts are cut into GPU batches."""
        lengths = self.lengths[np.linspace(0, self.n_texts, n_texts, endpoint=False).astype(int)] + OVERHEAD_CHARACTERS
        padded = 0
        first = 0
        while first < n_texts:
            stop = first + max(1, int(characters_at_a_time / lengths[first]))
            while stop > first + 1 and lengths[min(stop, n_texts) - 1] * (stop - first) > characters_at_a_time:
                stop = first + max(1, (stop - first) * 9 // 10)
            stop = min(stop, n_texts)
            padded += int(lengths[stop - 1]) * (stop - first)
            first = stop
        return padded / float(lengths.sum())

    def sample(self, n_texts: int) -> list[bytes]:
        """Texts as JSON whose lengths are spread as those of the whole corpus, from short to long."""
        count = min(n_texts, self.n_texts)
        return [self._encoded[at] for at in np.linspace(0, self.n_texts, count, endpoint=False).astype(int)]

    def _requests(self, order: list[int], batch_size: int) -> list[Request]:
        requests = []
        batch: list[int] = []
        n_bytes = 2
        for at in order:
            if batch and (len(batch) == batch_size or n_bytes + len(self._encoded[at]) + 1 > MAX_REQUEST_BYTES):
                requests.append(self._request(batch))
                batch, n_bytes = [], 2
            batch.append(at)
            n_bytes += len(self._encoded[at]) + 1
        if batch:
            requests.append(self._request(batch))
        return requests

    def _request(self, batch: list[int]) -> Request:
        return Request(
            body=b"[" + b",".join(self._encoded[at] for at in batch) + b"]",
            n_texts=len(batch),
            n_characters=int(self.lengths[batch].sum()),
            stratum=batch[len(batch) // 2] * N_STRATA // self.n_texts,
        )


def _evenly_spread(count: int, rng: random.Random) -> list[int]:
    """The numbers below `count` such that any stretch of them is spread evenly: steps of the golden ratio."""
    golden = (math.sqrt(5) - 1) / 2
    start = rng.random()
    return sorted(range(count), key=lambda at: (start + at * golden) % 1.0)
