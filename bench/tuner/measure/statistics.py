"""The statistics of a tuner: batch means, confidence intervals, the steady state, percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

#: Two-sided 95% quantiles of Student's t by degrees of freedom; beyond the table the normal distribution will do.
_STUDENT_T = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09,
    2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04,
)  # fmt: skip
_NORMAL = 1.96
_STEADY_SHARE = 0.03
_MIN_BLOCKS = 4


def student_t(degrees: int) -> float:
    """The factor of a two-sided 95% confidence interval."""
    if degrees < 1:
        return math.inf
    return _STUDENT_T[degrees - 1] if degrees <= len(_STUDENT_T) else _NORMAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A rate with the half width of its 95% confidence interval; infinite while there is too little to say."""

    per_s: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.per_s - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.per_s + self.half_width

    @property
    def relative(self) -> float:
        """Half width as a share of the rate."""
        return self.half_width / self.per_s if self.per_s > 0 else math.inf

    @property
    def spread(self) -> str:
        """The same in words."""
        return f"+-{self.relative:.1%}" if math.isfinite(self.relative) else "too short to say how exactly"


@dataclass(frozen=True, slots=True)
class Blocks:
    """Consecutive stretches of one server's answers.

    Attributes:
        work: Work done in each, float64 (n_blocks,).
        seconds: How long each took.
        first: The answer each begins with; one more than blocks, the last is the end.
        finished_s: When each answer of the server came.
        done: Work of all answers up to and with each.
    """

    work: Numbers
    seconds: Numbers
    first: tuple[int, ...]
    finished_s: Numbers
    done: Numbers

    def __len__(self) -> int:
        return len(self.work)

    def since(self, block: int) -> Blocks:
        """Without the blocks before `block`."""
        return self.between(block, len(self))

    def between(self, block: int, stop: int) -> Blocks:
        """Only the blocks from `block` up to `stop`."""
        first = self.first[block : stop + 1]
        return Blocks(self.work[block:stop], self.seconds[block:stop], first, self.finished_s, self.done)


def cut_blocks(finished_s: Numbers, work: Numbers, n_blocks: int, *, now_s: float) -> Blocks:
    """Cut a server's answers into blocks of about equal number, at the pauses between its GPU batches.

    The requests of a GPU batch end together. A block that ended in the midst of them would count their time and not
    their work, or the other way round; so each border is moved into the longest pause in its neighbourhood.

    Args:
        finished_s: When each answer came, rising.
        work: Work of each answer.
        n_blocks: Blocks wanted; fewer come out when there are too few answers.
        now_s: The time; a pause that is still going on counts as one.
    """
    n_answers = len(finished_s)
    n_blocks = max(1, min(n_blocks, (n_answers - 1) // 3))
    pauses = np.append(np.diff(finished_s), max(0.0, now_s - float(finished_s[-1])) if n_answers else 0.0)
    reach = max(1, n_answers // (2 * n_blocks) - 1)
    borders: list[int] = []  # the last answer before each border
    for number in range(n_blocks + 1):
        middle = round(number * (n_answers - 1) / n_blocks)
        low = max(middle - reach // 2, borders[-1] + 1 if borders else 0)
        high = min(n_answers, max(low + 1, middle + reach // 2 + 1))
        if low >= n_answers:
            break
        borders.append(low + int(np.argmax(pauses[low:high])))
    done = np.cumsum(work)
    ends = np.array(borders, dtype=int)
    first = tuple(int(end) + 1 for end in ends)
    return Blocks(np.diff(done[ends]), np.diff(finished_s[ends]), first, finished_s, done)


def slope_of(blocks: Blocks) -> float:
    """The rate of one server as the slope of the straight line through all its answers (least squares).

    Requests that a GPU batch left half done at the first or last answer count for nothing or for too much; the slope
    hardly depends on single answers. It wants work that is spread evenly over the stretch.
    """
    kept = slice(max(0, blocks.first[0] - 1), blocks.first[-1])
    times = blocks.finished_s[kept] - blocks.finished_s[kept].mean()
    spread = float((times**2).sum())
    return float((times * blocks.done[kept]).sum()) / spread if spread > 0 else 0.0


def rate_of(tracks: Sequence[Blocks]) -> Rate:
    """The rate of a fleet: for each server the ratio of the sums, and how far its blocks scatter about that.

    Blocks much longer than a request hardly depend on each other (batch means).
    """
    per_s = variance = 0.0
    degrees = 0
    for blocks in tracks:
        total_s = float(blocks.seconds.sum())
        if total_s <= 0:
            continue
        rate = float(blocks.work.sum()) / total_s
        per_s += rate
        count = len(blocks)
        if count < 2:
            return Rate(per_s=per_s, half_width=math.inf)
        squares = float(((blocks.work - rate * blocks.seconds) ** 2).sum())
        variance += squares * count / (count - 1) / total_s**2
        degrees += count - 1
    return Rate(per_s=per_s, half_width=student_t(degrees) * math.sqrt(variance) if degrees else math.inf)


def steady_from(tracks: Sequence[Blocks]) -> int:
    """The block at which the steady state begins: the first quarter is left out while it differs from the rest.

    It differs when its rate is further from the rest's than 3%, than chance explains, and than one request more or less
    makes. At most half of the blocks are left out: what still moves then has no steady state.
    """
    n_blocks = min((len(blocks) for blocks in tracks), default=0)
    first = 0
    while True:
        quarter = (n_blocks - first) // 4
        split = first + quarter
        if quarter < 1 or n_blocks - split < _MIN_BLOCKS or split > n_blocks // 2:
            return first
        early = rate_of([blocks.between(first, split) for blocks in tracks]).per_s
        rest = rate_of([blocks.since(split) for blocks in tracks])
        # the half width of a stretch as short as this one, were it like the rest
        chance = rest.half_width * math.sqrt((n_blocks - split) / quarter)
        fewest = min(blocks.first[split] - blocks.first[first] for blocks in tracks)
        share = max(_STEADY_SHARE, 1.0 / max(1, fewest))
        if abs(early - rest.per_s) <= max(share * rest.per_s, 1.5 * chance):
            return first
        first = split


def percentile(values: Numbers, share: float) -> float:
    """The smallest value that `share` of all do not exceed; NaN without any."""
    if not len(values):
        return math.nan
    rank = min(len(values) - 1, max(0, math.ceil(share * len(values)) - 1))
    return float(np.partition(values, rank)[rank])
