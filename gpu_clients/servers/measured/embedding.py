"""The request by which a measurement embeds a few texts."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from gpu_clients.servers.probe_request import ProbeRequest
from gpu_clients.servers.routes import Route
from gpu_clients.vectors.decode import float_answer_cap_bytes


def embedding_request(route: Route, texts: Sequence[str], dim: int) -> ProbeRequest:
    """Ask for the vectors of `texts` as a run would; an answer may be as large as `dim` numbers a text make it."""
    return ProbeRequest(
        method="POST",
        path=route.path,
        body=(route.prefix, orjson.dumps(texts), route.suffix),
        max_body_bytes=float_answer_cap_bytes(len(texts), dim),
    )
