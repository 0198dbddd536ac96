"""The little statistics a tuner needs: batch means, confidence, percentiles."""

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


def rate_of_blocks(work: Sequence[float], seconds: Sequence[float]) -> Rate:
    """A rate from consecutive blocks (batch means): the ratio of the sums, and how far the blocks scatter about it.

    Requests of a closed loop depend on their neighbours; blocks much longer than a request hardly do.
    """
    total_s = math.fsum(seconds)
    n_blocks = len(work)
    if total_s <= 0:
        return Rate(per_s=0.0, half_width=math.inf)
    per_s = math.fsum(work) / total_s
    if n_blocks < 2:
        return Rate(per_s=per_s, half_width=math.inf)
    squares = math.fsum((done - per_s * took_s) ** 2 for done, took_s in zip(work, seconds, strict=True))
    error = math.sqrt(squares * n_blocks / (n_blocks - 1)) / total_s
    return Rate(per_s=per_s, half_width=student_t(n_blocks - 1) * error)


def steady_from(work: Sequence[float], seconds: Sequence[float]) -> int:
    """The block at which the steady state begins: the first quarter is left out while it differs from the rest.

    It differs when its rate is further from the rest's than 3% and than chance explains. At most half of the blocks
    are left out: what still moves then has no steady state.
    """
    first = 0
    n_blocks = len(work)
    while True:
        quarter = (n_blocks - first) // 4
        if quarter < 1 or n_blocks - first - quarter < _MIN_BLOCKS or first + quarter > n_blocks // 2:
            return first
        split = first + quarter
        early_s = math.fsum(seconds[first:split])
        rest = rate_of_blocks(work[split:], seconds[split:])
        if early_s <= 0:
            return first
        early = math.fsum(work[first:split]) / early_s
        # the half width of a quarter as long as this one, were it like the rest
        chance = rest.half_width * math.sqrt((n_blocks - split) / quarter)
        if abs(early - rest.per_s) <= max(_STEADY_SHARE * rest.per_s, 1.5 * chance):
            return first
        first = split


def percentile(values: Numbers, share: float) -> float:
    """The smallest value that `share` of all do not exceed; NaN without any."""
    if not len(values):
        return math.nan
    rank = min(len(values) - 1, max(0, math.ceil(share * len(values)) - 1))
    return float(np.partition(values, rank)[rank])
