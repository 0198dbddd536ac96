"""Metrics: the server's Prometheus page with the te_* names, plus standin_* for what only a model can know.

A metric is absent until it is first used, so a fresh server's page is empty, as on the real one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

_DURATIONS_S: Final = tuple(15e-6 * 1.5**step for step in range(35))
_SIZES: Final = tuple(float(2**power) for power in range(21))

_STAGES: Final = ("duration", "tokenization_duration", "queue_duration", "inference_duration")

#: Observations are folded into the histogram when so many wait.
_FOLD_AT: Final = 4_096


class Histogram:
    """Buckets, sum and count; folding is put off because a page is read far less often than a value is seen."""

    __slots__ = ("_bounds", "_buckets", "_count", "_sum", "_waiting")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._count = 0
        self._waiting: list[tuple[float, int]] = []

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times."""
        self._waiting.append((value, times))
        if len(self._waiting) >= _FOLD_AT:
            self._fold()

    def lines(self, name: str) -> Iterable[str]:
        """Return the histogram's lines of the text format."""
        self._fold()
        running = 0
        for bound, count in zip(self._bounds, self._buckets, strict=False):
            running += count
            yield f'{name}_bucket{{le="{bound:.12g}"}} {running}'
        yield f'{name}_bucket{{le="+Inf"}} {self._count}'
        yield f"{name}_sum {self._sum!r}"
        yield f"{name}_count {self._count}"

    def _fold(self) -> None:
        for value, times in self._waiting:
            self._buckets[bisect_left(self._bounds, value)] += times
            self._sum += value * times
            self._count += times
        self._waiting.clear()


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self._counters: dict[str, int] = {}
        self._histograms: dict[str, Histogram] = {}
        # put off like the folding: one append per request instead of one call per input and stage
        self._lengths: list[int] = []
        self._answers: list[tuple[int, tuple[float, float, float, float]]] = []

    def count(self, series: str, by: int = 1) -> None:
        """Add to a counter; `series` is the name with its label, as it is printed."""
        self._counters[series] = self._counters.get(series, 0) + by

    def failed(self, err: str) -> None:
        """Count one failed request."""
        self.count(f'te_request_failure{{err="{err}"}}')

    def observe(self, name: str, value: float, times: int = 1) -> None:
        """Add to a histogram of seconds (names ending in `_duration`) or sizes."""
        found = self._histograms.get(name)
        if found is None:
            bounds = _DURATIONS_S if name.endswith("_duration") else _SIZES
            found = self._histograms[name] = Histogram(bounds)
        found.observe(value, times)

    def observe_lengths(self, n_tokens: list[int]) -> None:
        """Add the inputs of one request to `te_request_input_length`."""
        self._lengths.extend(n_tokens)
        if len(self._lengths) >= _FOLD_AT:
            self._fold_lengths()

    def observe_batches(self, sizes: list[int], n_tokens: list[int]) -> None:
        """Add GPU batches to the two `te_batch_next_*` histograms."""
        for size, count in zip(sizes, n_tokens, strict=True):
            self.observe("te_batch_next_size", size)
            self.observe("te_batch_next_tokens", count)

    def succeeded(
        self,
        *,
        single: bool,
        n_inputs: int,
        total_s: float,
        tokenization_s: float,
        queue_s: float,
        inference_s: float,
    ) -> None:
        """Count one answered embedding request; the last three are means over its inputs."""
        self.count('te_request_success{method="single"}' if single else 'te_request_success{method="batch"}')
        self.count("te_embed_success", n_inputs)
        self._answers.append((n_inputs, (total_s, tokenization_s, queue_s, inference_s)))
        if len(self._answers) >= _FOLD_AT:
            self._fold_answers()

    def page(self, extra: Mapping[str, float]) -> bytes:
        """Return the page; `extra` are gauges and counters that somebody else keeps."""
        self._fold_lengths()
        self._fold_answers()
        lines: list[str] = []
        typed: set[str] = set()
        for series, count in sorted(self._counters.items()):
            name = series.partition("{")[0]
            if name not in typed:
                typed.add(name)
                lines.append(f"# TYPE {name} counter")
            lines.append(f"{series} {count}")
        if self._counters:
            for name, value in extra.items():
                lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}")
                lines.append(f"{name} {value!r}")
        for name, histogram in sorted(self._histograms.items()):
            lines.append(f"# TYPE {name} histogram")
            lines.extend(histogram.lines(name))
        return "".join(line + "\n" for line in lines).encode()

    def _fold_lengths(self) -> None:
        for length, times in Counter(self._lengths).items():
            self.observe("te_request_input_length", length, times)
        self._lengths.clear()

    def _fold_answers(self) -> None:
        for n_inputs, stages_s in self._answers:
            for stage, value_s in zip(_STAGES, stages_s, strict=True):
                self.observe("te_request_" + stage, value_s)
                self.observe("te_embed_" + stage, value_s, n_inputs)
        self._answers.clear()
