"""What a status, or no answer, means, and what it asks for."""

from __future__ import annotations

import pytest

from gpu_clients.errors import ACTIONS, Action, FailureKind, classify


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"error":"`inputs` cannot be empty","error_type":"Empty"}', FailureKind.EMPTY),
        (400, b"Failed to parse the request body as JSON", FailureKind.REJECTED),
        (
            413,
            b'{"error":"x must have less than 512 tokens. Given: 9","error_type":"Validation"}',
            FailureKind.TOO_LONG,
        ),
        (413, b'{"message":"batch size 64 > maximum","code":413,"type":"Validation"}', FailureKind.REJECTED),
        (413, b"Failed to buffer the request body: length limit exceeded", FailureKind.PAYLOAD),
        (422, b'{"message":"x","code":422,"type":"tokenizer"}', FailureKind.TOKENIZER),
        (422, b"Failed to deserialize", FailureKind.REJECTED),
        (424, b'{"error":"CUDA_ERROR_OUT_OF_MEMORY","error_type":"Backend"}', FailureKind.BACKEND),
        (429, b'{"error":"Model is overloaded","error_type":"Overloaded"}', FailureKind.OVERLOADED),
        (429, b"<html>slow down</html>", FailureKind.OVERLOADED),
        (500, b'{"error":{"message":"boom","type":"InternalServerError"}}', FailureKind.BACKEND),
        (503, b"", FailureKind.UNAVAILABLE),
        (502, b"<html>", FailureKind.UNAVAILABLE),
        (599, b"", FailureKind.UNAVAILABLE),
        (401, b"", FailureKind.UNAUTHORIZED),
        (307, b"", FailureKind.WRONG_SERVICE),
        (404, b"\xff\xfe", FailureKind.WRONG_SERVICE),
        (400, b"[1]", FailureKind.REJECTED),
        (400, b'{"error":{"message":"maximum context length","type":"BadRequestError"}}', FailureKind.TOO_LONG),
    ],
)
def test_errors_of_both_dialects_are_told_apart_by_status_and_type(status: int, body: bytes, kind: FailureKind) -> None:
    failure = classify(status, body)

    assert failure.kind is kind
    assert failure.detail.startswith(f"HTTP {status}")


def test_every_kind_of_failure_asks_for_an_action() -> None:
    assert set(ACTIONS) == set(FailureKind)
    assert set(ACTIONS.values()) == set(Action)
