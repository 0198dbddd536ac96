"""Stand-in embedding servers: the HTTP contract of text-embeddings-inference, with faults on demand.

Three backends: `canned` (answers at once, for measuring the engine), `sim` (vectors from the texts on a modelled GPU
whose capacity is known) and `minilm` (a real small model on the CPU).
"""

from bench.standin.backends.capacity import Capacity, Prediction, capacity, predict
from bench.standin.config import Dialect, GpuConfig, StandinConfig
from bench.standin.errors import FleetError, ModelMissing
from bench.standin.fleet import StandinFleet
from bench.standin.process import Ready, serve

__all__ = [
    "Capacity",
    "Dialect",
    "FleetError",
    "GpuConfig",
    "ModelMissing",
    "Prediction",
    "Ready",
    "StandinConfig",
    "StandinFleet",
    "capacity",
    "predict",
    "serve",
]
