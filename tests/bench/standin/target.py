"""One server whose faults a test sets, and its sound answer to a few texts."""

from __future__ import annotations

import requests

from bench.standin import StandinFleet
from tests.bench.standin.client import base64_rows, embed64, request_bytes

TEXTS = ["first text", "second text", "third text", "fourth text"]
ASK = request_bytes("/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"})


class Target:
    """One server with its control line, and its sound answer to TEXTS."""

    def __init__(self, fleet: StandinFleet) -> None:
        self.fleet = fleet
        self.url, self.port = fleet.urls[0], fleet.ports[0]
        self.sound = base64_rows(embed64(self.url, TEXTS))

    def fault(self, *specs: object) -> None:
        """Set these faults, and no others."""
        self.fleet.control(self.port, faults=list(specs), reset_counters=True)

    def ask(self) -> requests.Response:
        """Ask for the vectors of TEXTS, in base64."""
        return embed64(self.url, TEXTS)
