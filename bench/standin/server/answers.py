"""The answer to an embedding request that succeeded: headers and body."""

from __future__ import annotations

import numpy as np

from bench.standin.api.encoding import Rows, answer_body, encoded_rows
from bench.standin.api.messages import EmbedRequest
from bench.standin.backends.base import Backend, Job
from bench.standin.http.connection import Block, Response

_HEADERS = (
    b"x-compute-type: gpu+optimized\r\n"
    b"x-compute-time: %d\r\n"
    b"x-compute-characters: %d\r\n"
    b"x-compute-tokens: %d\r\n"
    b"x-total-time: %d\r\n"
    b"x-tokenization-time: %d\r\n"
    b"x-queue-time: %d\r\n"
    b"x-inference-time: %d\r\n"
)


class Answer:
    """The answer to a finished job: headers and body."""

    __slots__ = ("has_account", "job", "model_json", "n_tokens", "total_s", "wanted")

    def __init__(
        self, job: Job, wanted: EmbedRequest, model_json: bytes, total_s: float, *, has_account: bool = True
    ) -> None:
        self.has_account = has_account  # of the time that it took, in headers
        self.job = job
        self.wanted = wanted
        self.model_json = model_json
        self.total_s = total_s
        self.n_tokens = sum(job.n_tokens)

    def headers(self) -> bytes:
        """Return the timing headers: milliseconds, characters and tokens as integers."""
        job = self.job
        total_ms = int(self.total_s * 1000)
        return _HEADERS % (
            total_ms,
            job.n_chars,
            self.n_tokens,
            total_ms,
            int(job.tokenization_s * 1000),
            int(job.queue_s * 1000),
            int(job.inference_s * 1000),
        )

    def response(self, backend: Backend) -> Response:
        """Return the answer, from the backend's ready-made rows where it has them."""
        job, wanted = self.job, self.wanted
        assert job.rows is not None
        if wanted.raw is not None:
            halves = (
                backend.prepared_halves(len(job.rows)) if wanted.raw == "float16" and not wanted.dimensions else None
            )
            return self.of_raw(job.rows) if halves is None else self._raw(halves)
        if wanted.dimensions is None and wanted.normalize:
            inside = backend.prepared(len(job.rows), base64=wanted.base64, openai=wanted.openai)
            if inside is not None:
                return self._around(inside)
        return self.of_rows(encoded_rows(job.rows, base64=wanted.base64, openai=wanted.openai))

    def of_rows(self, wire: list[bytes]) -> Response:
        """Return the answer with `wire` as its encoded rows."""
        return self._around(b",".join(wire))

    def of_raw(self, rows: Rows) -> Response:
        """Return the answer with the bytes of `rows` alone."""
        wire = np.ascontiguousarray(rows, dtype={"float32": "<f4", "float16": "<f2"}[self.wanted.raw or "float32"])
        return self._raw(wire.data.cast("B"))

    @staticmethod
    def _raw(wire: Block) -> Response:
        return Response(status=200, blocks=[wire], content_type=b"application/octet-stream")

    def _around(self, inside: Block) -> Response:
        body = answer_body(inside, openai=self.wanted.openai, model=self.model_json, n_tokens=self.n_tokens)
        return Response(status=200, blocks=body, headers=self.headers() if self.has_account else b"")
