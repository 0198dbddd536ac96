"""The settings of the GPU clients: whom they ask, how, and within which bounds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ConfigError
from engine.memory.ids import IdType
from gpu_clients.http.access import Access
from gpu_clients.server_facts import EmbedOptions, ServerFacts

DEFAULT_MAX_CONCURRENCY = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Everything a client process (and the start-up doctor) has to know.

    Attributes:
        urls: Every server of the fleet.
        index: Which of them this client works for.
        server_kind: `auto`, `tei` or `openai`.
        model: Model name for OpenAI-compatible servers.
        batch_size: Texts of a request.
        concurrency: Requests in flight, or None to adapt while running.
        start_concurrency: What the adaptive number begins with, or None for the least.
        max_concurrency: Ceiling of the adaptive number of requests in flight.
        target_p95_s: Bound on the 95th percentile of request latency in adaptive mode, or None.
        prompt: Text that the reader puts before each document; part of the fingerprint.
        dimensions, normalize, truncate: What is wanted of every vector.
        half: Whether numbers of 16 bits do, because vectors are stored so; servers that can then send half as much.
        request_timeout_s: Deadline of a request, or None to derive it from the latencies seen.
        retry_share: Retries allowed per request sent.
        hedge_share: Requests that may be sent twice at the tail of a run, per request sent.
        canary_every_s: Seconds between soundness probes under load.
        id_type: What stands in the id column.
        keep_text: Whether texts go into the quarantine file.
        api_keys: One key a URL (None: none), or empty. Secret.
        headers: Further headers for every server, name and value. Secret.
        ca_file: Certificates of the authorities that may vouch for servers, or None for the system's.
        dim: Numbers in a vector, once the doctor knows; 0 before.
        canary: Reference vectors of the canary texts in base64, once the doctor knows (see
        `gpu_clients.servers.canary`). facts: What the doctor learnt of each server, None for one that did not answer.
    """

    urls: tuple[str, ...]
    index: int = 0
    server_kind: str = "auto"
    model: str | None = None
    batch_size: int = 32
    concurrency: int | None = None
    start_concurrency: int | None = None
    max_concurrency: int = DEFAULT_MAX_CONCURRENCY
    target_p95_s: float | None = None
    prompt: str | None = None
    dimensions: int | None = None
    normalize: bool = True
    truncate: bool = True
    half: bool = False
    request_timeout_s: float | None = None
    retry_share: float = 0.1
    hedge_share: float = 0.05
    canary_every_s: float = 20.0
    id_type: IdType = IdType.INT64
    keep_text: bool = False
    api_keys: tuple[str | None, ...] = field(default=(), repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_file: str | None = None
    dim: int = 0
    canary: str = field(default="", repr=False)
    facts: tuple[ServerFacts | None, ...] = ()

    def __post_init__(self) -> None:
        _require(bool(self.urls), "urls", self.urls, "at least one server")
        _require(0 <= self.index < len(self.urls), "index", self.index, f"0 to {len(self.urls) - 1}")
        _require(self.server_kind in ("auto", "tei", "openai"), "server_kind", self.server_kind, "auto, tei or openai")
        for name in ("batch_size", "max_concurrency"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("concurrency", "start_concurrency", "dimensions"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "1 or more")
        for name in ("target_p95_s", "request_timeout_s"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "a number above 0")
        for name in ("retry_share", "hedge_share"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        _require(self.canary_every_s > 0, "canary_every_s", self.canary_every_s, "a number above 0")
        _require(len(self.api_keys) in (0, len(self.urls)), "api_keys", len(self.api_keys), "one for each URL, or none")
        _require(len(self.facts) in (0, len(self.urls)), "facts", len(self.facts), "one for each URL, or none")

    @property
    def options(self) -> EmbedOptions:
        """What is wanted of every vector."""
        return EmbedOptions(
            model=self.model,
            dimensions=self.dimensions,
            normalize=self.normalize,
            truncate=self.truncate,
            half=self.half,
        )

    def access(self, index: int) -> Access:
        """What a server wants to see."""
        key = self.api_keys[index] if self.api_keys else None
        return Access(api_key=key, headers=self.headers, ca_file=self.ca_file)

    def facts_of(self, index: int) -> ServerFacts | None:
        """What is known of a server."""
        return self.facts[index] if self.facts else None

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON values; holds the keys and headers, never log it."""
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        values["id_type"] = self.id_type.value
        values["facts"] = [facts.as_dict() if facts else None for facts in self.facts]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClientSettings:
        """Read `as_dict` back."""
        facts = tuple(ServerFacts(**item) if item else None for item in values["facts"])
        changed = {
            "urls": tuple(values["urls"]),
            "api_keys": tuple(values["api_keys"]),
            "headers": tuple((name, value) for name, value in values["headers"]),
            "id_type": IdType(values["id_type"]),
            "facts": facts,
        }
        return cls(**{**values, **changed})


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"client setting {name} is {value!r}; expected {expected}")
