"""What `engine plan` is asked to forecast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.config import RunConfig, check_range


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """What to forecast.

    Attributes:
        run: The run, as it would be started.
        tuned: The file of `engine bench`, or None to measure.
        gpu_hour_price: Price of one GPU for an hour, or None.
        api_price_per_mtok: Price of a million tokens of a hosted API, or None.
        gpus: GPUs that are paid for, or None for one a server.
        max_seconds: Time for measuring the rate.
    """

    run: RunConfig
    tuned: Path | None = None
    gpu_hour_price: float | None = None
    api_price_per_mtok: float | None = None
    gpus: int | None = None
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("gpu_hour_price", "api_price_per_mtok"):
            if (price := getattr(self, name)) is not None:
                check_range(name, price, 0.0)
        if self.gpus is not None:
            check_range("gpus", self.gpus, 1)
        check_range("max_seconds", self.max_seconds, 1, 86_400)
