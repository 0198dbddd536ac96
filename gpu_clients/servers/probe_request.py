"""What an examination of a server wants to be sent."""

from __future__ import annotations

from dataclasses import dataclass

INFO_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRequest:
    """A request that an examination wants to be sent.

    Attributes:
        method: `GET` or `POST`.
        path: Path on the server.
        body: Parts of the body.
        max_body_bytes: Cap on the answer's body.
        pause_s: Seconds to wait before.
    """

    method: str
    path: str
    body: tuple[bytes, ...] = ()
    max_body_bytes: int = INFO_BYTES
    pause_s: float = 0.0
