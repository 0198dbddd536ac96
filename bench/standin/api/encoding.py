"""Vectors on the wire: the rows of both answer shapes, as JSON numbers or base64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import orjson
import pybase64

from bench.standin.http.connection import Block

Rows = npt.NDArray[np.float32]
"""The vectors of one answer, float32 (n_texts, dim)."""


def encoded_rows(rows: Rows, *, base64: bool, openai: bool) -> list[bytes]:
    """Return each row as it stands inside the answer's array, without commas.

    base64 is the raw little-endian float32 buffer. JSON numbers are the shortest that give the same float32 back;
    NaN and infinities become `null`, as in the real server.
    """
    if not openai:
        return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in rows]
    if base64:
        wire = rows.astype("<f4", copy=False)
        return [
            b'{"object":"embedding","embedding":"%b","index":%d}' % (pybase64.b64encode(row), index)
            for index, row in enumerate(wire)
        ]
    return [
        b'{"object":"embedding","embedding":%b,"index":%d}'
        % (orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY), index)
        for index, row in enumerate(rows)
    ]


def answer_body(inside: Block, *, openai: bool, model: bytes, n_tokens: int) -> list[Block]:
    """Return the blocks of a whole body around the comma-joined rows in `inside`; `model` is a JSON string."""
    if not openai:
        return [b"[", inside, b"]"]
    tail = b'],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (model, n_tokens, n_tokens)
    return [b'{"object":"list","data":[', inside, tail]
