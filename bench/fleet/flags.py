"""Flags of embedding servers: read from a line, merged, and chosen to fit a model and a GPU.

The defaults are a start that fits; what is best for a machine `engine bench --server-flags` finds out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import ConfigError

Flags = dict[str, str | None]
"""Values by name, without hyphens in front, in order; None for a flag that has no value."""

_GIB = 1 << 30
_TEXT_TOKENS = 20
"""Tokens of a short text: of such ones the most have to be in flight to keep GPU batches full."""
_GPU_BATCHES_WAITING = 2.25
"""GPU batches in flight that keep a GPU's batches full (docs/adr/0009)."""
_MAX_TOKENIZERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server runs.

    Attributes:
        port: Its port.
        gpu: Number of its GPU, None without one.
        memory_bytes: That GPU's memory, None when it is not known.
        n_servers: Servers that share this machine's cores.
        n_on_gpu: Servers that share its GPU.
    """

    port: int
    gpu: int | None = None
    memory_bytes: int | None = None
    n_servers: int = 1
    n_on_gpu: int = 1


def parse_flags(words: Sequence[str]) -> Flags:
    """Read flags as a shell hands them over: `--name value`, `--name=value`, `--name`.

    Raises:
        ConfigError: a value without a flag.
    """
    flags: Flags = {}
    name: str | None = None
    for word in words:
        if word.startswith("-") and not _is_number(word):
            name, equals, value = word.lstrip("-").partition("=")
            flags[name] = value if equals else None
            name = None if equals else name
        elif name is not None:
            flags[name], name = word, None
        else:
            raise ConfigError(f"{word!r} is no flag of a server: expected --name value or --name=value behind `--`")
    return flags


def _is_number(word: str) -> bool:
    return word[1:2].isdigit()


def as_words(flags: Flags) -> list[str]:
    """The flags as words of a command line; one word for a flag and its value, so that none can be torn apart."""
    return [f"--{name}" if value is None else f"--{name}={value}" for name, value in flags.items()]


def defaults(backend: str, model: str, place: Place) -> Flags:
    """Flags that fit a model and the place where its server runs; what a person gives goes over them."""
    return _tei(model, place) if backend == "tei" else _vllm(model, place)


def _tei(model: str, place: Place) -> Flags:
    """Of text-embeddings-inference.

    Its permits count texts, and a request of more texts than permits is refused for ever. EmbeddingGemma it runs in
    float32 only, with masks that grow with the square of a text's length.
    """
    tokens = _batch_tokens(model, place)
    permits = 512 * math.ceil(max(512, _GPU_BATCHES_WAITING * tokens / _TEXT_TOKENS) / 512)
    flags: Flags = {
        "dtype": "float32" if _is_gemma(model) or place.gpu is None else "float16",
        "max-batch-tokens": str(tokens),
        "max-concurrent-requests": str(permits),
        "max-client-batch-size": "128",
        "payload-limit": "8000000",
        "tokenization-workers": str(_cores_each(place, _MAX_TOKENIZERS)),
        # several servers on one machine would all take 9000 while they start
        "prometheus-port": str(place.port + 10_000 if place.port < 55_000 else place.port - 10_000),
    }
    return flags


def _vllm(model: str, place: Place) -> Flags:
    """Of vLLM: one API process tokenises and writes answers for small models more slowly than a GPU embeds."""
    flags: Flags = {
        "runner": "pooling",
        "dtype": "bfloat16" if _is_gemma(model) else "auto",
        "max-num-batched-tokens": str(_batch_tokens(model, place, padded=False)),
        "gpu-memory-utilization": f"{0.9 / place.n_on_gpu:.2f}",
        "api-server-count": str(_cores_each(place, 4)),
        "disable-uvicorn-access-log": None,
    }
    return flags


def _is_gemma(model: str) -> bool:
    return "gemma" in model.lower()


def _batch_tokens(model: str, place: Place, *, padded: bool = True) -> int:
    """Tokens of a GPU batch: by memory, and few for a model whose masks are copied for every text."""
    memory = (place.memory_bytes or 0) / place.n_on_gpu
    if (padded and _is_gemma(model)) or memory < 20 * _GIB:
        return 16_384
    return 32_768 if memory < 60 * _GIB else 65_536


def _cores_each(place: Place, most: int) -> int:
    """Cores of this machine that one server may keep busy, leaving some for the engine."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(most, (cores - 2) // place.n_servers))
