"""How the other programs ask the servers: several requests at a time over kept connections, vectors in base64.

This file and those beside it import nothing of the project: they run where the project is not installed.
"""

from __future__ import annotations

import base64
import itertools
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import requests

REQUESTS_AT_ONCE = 4
"""Of each worker; a batch that is handed to it has as many requests."""


class Embedder:
    """Embeds batches of texts."""

    def __init__(self, job: dict[str, Any]) -> None:
        """
        Args:
            job: `urls`, `batch_size` (texts of a request) and `dim`, among others.
        """
        self._urls = itertools.cycle([url.removesuffix("/embed") + "/v1/embeddings" for url in job["urls"]])
        self._batch_size, self._dim = job["batch_size"], job["dim"]
        self._threads = ThreadPoolExecutor(REQUESTS_AT_ONCE)
        self._local = threading.local()

    def embed(self, texts: list[str]) -> Any:
        """Their vectors: float32 (n_texts, dim)."""
        parts = [texts[at : at + self._batch_size] for at in range(0, len(texts), self._batch_size)]
        return np.concatenate(list(self._threads.map(self._ask, parts, itertools.islice(self._urls, len(parts)))))

    def _ask(self, texts: list[str], url: str) -> Any:
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
        answer = session.post(url, json={"model": "x", "input": texts, "encoding_format": "base64"}, timeout=60)
        answer.raise_for_status()
        packed = b"".join(base64.b64decode(each["embedding"]) for each in answer.json()["data"])
        return np.frombuffer(packed, dtype="<f4").reshape(len(texts), self._dim)


def job_of_this_process() -> dict[str, Any]:
    """What the measurement told this process to do."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    return job


def say(seconds: float, version: str) -> None:
    """Tell the measurement how long the work itself took, imports and start not counted."""
    sys.stdout.write(json.dumps({"seconds": seconds, "version": version}) + "\n")
