"""What a bisection ends with: a vector or a rejection for every text of a batch, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpu_clients.batches.batch import BatchHistory
from gpu_clients.errors import Failure
from gpu_clients.vectors.decode import Matrix


@dataclass(frozen=True, slots=True)
class Rejection:
    """A text that goes into quarantine.

    Attributes:
        failure: How it failed first.
        attempts: Requests that failed on it alone.
        detail: What is written beside it.
    """

    failure: Failure
    attempts: int
    detail: str


@dataclass(slots=True)
class Finding:
    """What is known of a batch's texts.

    Attributes:
        matrix: float32 (n_texts, dim); rows of rejected texts mean nothing.
        servers: Numbers of the servers that its vectors come from.
        rejected: Rejections by text.
        complete: Whether every text has a vector or a rejection; otherwise the batch has to be given back.
        sick: Why our own server has to be given up, or None.
        history: What is to be noted in the batch's history, or None.
        truncated: Texts that the server has cut.
        truncation_known: Whether it is known which these are.
        too_large: Whether the texts were refused together because of their size, and divided.
    """

    matrix: Matrix
    servers: set[int]
    rejected: dict[int, Rejection] = field(default_factory=dict)
    complete: bool = False
    sick: Failure | None = None
    history: BatchHistory | None = None
    truncated: list[int] = field(default_factory=list)
    truncation_known: bool = False
    too_large: bool = False
