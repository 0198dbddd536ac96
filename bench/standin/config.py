"""The configuration of a stand-in server: frozen, checked once."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field

from engine.errors import ConfigError

#: The names that `--backend` takes.
BACKENDS = ("canned", "sim", "minilm")


class Dialect(str, enum.Enum):
    """Which server is played: a generation of TEI's error codes and permit rules, or vLLM."""

    V1_8 = "1.8"
    V1_9 = "1.9"
    VLLM = "vllm"

    @property
    def version(self) -> str:
        """Return the full version that `/info` reports, or `/version` of vLLM."""
        return {"1.8": "1.8.3", "1.9": "1.9.3", "vllm": "0.11.0"}[self.value]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuConfig:
    """The modelled GPU of the `sim` backend.

    One batch takes `(fixed_overhead_s + cost_tokens / tokens_per_s) * slow_factor / speed` seconds, where
    `cost_tokens` is the sum of the tokens (`padded=False`) or longest x count (`padded=True`).
    `tokenizer_tokens_per_s` is the rate of all tokenizer threads together; 0 makes that stage free. With `--dtype
    float32` it works `float32_speed` times as fast.
    `sliding_window` models a fault of padded models with such a window (TEI's Gemma3): in a batch of two and more texts
    of equal length, those longer than half of it get another vector; 0 for a model without it.
    """

    tokens_per_s: float = 50_000.0
    fixed_overhead_s: float = 0.002
    padded: bool = True
    tokenizer_tokens_per_s: float = 2_000_000.0
    sliding_window: int = 0
    float32_speed: float = 1.0

    def __post_init__(self) -> None:
        _require(self.tokens_per_s > 0, "tokens_per_s", self.tokens_per_s, "a number above 0")
        _require(self.fixed_overhead_s >= 0, "fixed_overhead_s", self.fixed_overhead_s, "0 or more")
        _require(self.sliding_window >= 0, "sliding_window", self.sliding_window, "0 or more")
        _require(
            self.tokenizer_tokens_per_s >= 0,
            "tokenizer_tokens_per_s",
            self.tokenizer_tokens_per_s,
            "0 or more",
        )
        _require(self.float32_speed > 0, "float32_speed", self.float32_speed, "a number above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class StandinConfig:
    """Everything that one stand-in process needs to know; all its ports share it.

    `None` in `model_id`, `dim`, `max_input_length`, `dtype` and `auto_truncate` means: what the backend (or
    the dialect) has by nature. `ports` may hold 0 for "any free port". `speeds` has one factor per port, or is
    empty (all 1). `faults` are written as `bench.standin.faults.script` reads them.
    """

    backend: str = "canned"
    host: str = "127.0.0.1"
    ports: tuple[int, ...] = (0,)
    dialect: Dialect = Dialect.V1_9
    model_id: str | None = None
    model_sha: str | None = "0000000000000000000000000000000000000001"
    dtype: str | None = None
    pooling: str = "mean"
    dim: int | None = None
    max_input_length: int | None = None
    tokenizer: str = "rule"  # of the canned backend: rule, or minilm for a real one
    max_concurrent_requests: int = 512
    max_batch_tokens: int = 16_384
    max_batch_requests: int | None = None
    max_client_batch_size: int = 32
    payload_limit_bytes: int = 2_000_000
    auto_truncate: bool | None = None
    tokenization_workers: int = 1
    api_key: str | None = field(default=None, repr=False)
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt_name: str | None = None
    default_prompt: str | None = None
    gpu: GpuConfig = field(default_factory=GpuConfig)
    speeds: tuple[float, ...] = ()
    slow_factor: float = 1.0
    faults: tuple[str, ...] = ()
    count_texts: bool = False
    threads: int | None = None  # of the minilm backend; None: one per core
    lifeline: bool = False

    def __post_init__(self) -> None:
        _require(self.backend in BACKENDS, "backend", self.backend, f"one of {', '.join(BACKENDS)}")
        _require(self.tokenizer in ("rule", "minilm"), "tokenizer", self.tokenizer, "rule or minilm")
        _require(
            self.tokenizer == "rule" or self.backend == "canned",
            "tokenizer",
            self.tokenizer,
            "rule with any other backend than canned",
        )
        _require(bool(self.ports), "ports", self.ports, "at least one port")
        for port in self.ports:
            _require(0 <= port <= 65_535, "ports", port, "0 to 65535")
        named = [port for port in self.ports if port]
        _require(len(named) == len(set(named)), "ports", self.ports, "each port once")
        for name in ("dim", "max_input_length", "max_batch_requests", "threads"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "1 or more")
        for name in (
            "max_concurrent_requests",
            "max_batch_tokens",
            "max_client_batch_size",
            "payload_limit_bytes",
            "tokenization_workers",
        ):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _require(
            not self.speeds or len(self.speeds) == len(self.ports),
            "speeds",
            self.speeds,
            f"one factor for each of the {len(self.ports)} ports",
        )
        _require(
            self.backend != "minilm" or self.dim in (None, 384),
            "dim",
            self.dim,
            "384, the dimension of minilm",
        )
        _require(
            self.backend != "minilm" or (self.max_input_length or 0) <= 512,
            "max_input_length",
            self.max_input_length,
            "at most 512 for minilm",
        )
        _require(all(s > 0 for s in self.speeds), "speeds", self.speeds, "numbers above 0")
        _require(self.slow_factor > 0, "slow_factor", self.slow_factor, "a number above 0")
        _require(
            self.default_prompt_name is None or self.default_prompt is None,
            "default_prompt",
            self.default_prompt,
            "not both default_prompt and default_prompt_name",
        )
        _require(
            self.default_prompt_name is None or self.default_prompt_name in dict(self.prompts),
            "default_prompt_name",
            self.default_prompt_name,
            "a name among prompts",
        )

    @property
    def truncates_by_default(self) -> bool:
        """Return the server's auto_truncate: as configured, else what the dialect has (on since 1.9)."""
        return self.dialect is Dialect.V1_9 if self.auto_truncate is None else self.auto_truncate

    def speed_of(self, index: int) -> float:
        """Return the speed factor of the server at position `index` of `ports`."""
        return self.speeds[index] if self.speeds else 1.0

    def gpu_speed_of(self, index: int) -> float:
        """Return the speed factor of its modelled GPU: the server's, and what its dtype makes of it."""
        return self.speed_of(index) * (self.gpu.float32_speed if self.dtype in (None, "float32") else 1.0)

    def on_ports(self, ports: tuple[int, ...], speeds: tuple[float, ...] = ()) -> StandinConfig:
        """Return the same configuration on other ports (with their speeds)."""
        return dataclasses.replace(self, ports=ports, speeds=speeds)


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value!r}, expected {expected}.")
