"""The stand-in answers as a real server did: recorded requests, replayed, and their answers compared.

Compared are status, reason, names of headers, content type, the shape of the document and, where it is no number, the
text. The records lie beside the repository (`shared/real-tei`), not in it; without them there is nothing to compare.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests

from bench.standin import StandinConfig, StandinFleet
from tests.bench.standin.client import embed, post

FILE = Path("shared") / "real-tei" / "captures.jsonl"
FOUND = next((parent / FILE for parent in Path(__file__).resolve().parents if (parent / FILE).is_file()), None)
RECORDS: list[dict[str, Any]] = (
    [json.loads(line) for line in FOUND.read_text(encoding="utf-8").splitlines()] if FOUND is not None else []
)
PROMPTS = (("document", "title: none | text: "), ("query", "task: search result | query: "))
MODEL = StandinConfig(
    backend="minilm", model_id="/data/model", model_sha=None, max_batch_requests=4, max_batch_tokens=16_384
)
SERVERS = {
    "routes embed malformed openai other raw": MODEL,
    "prompts": StandinConfig(
        backend="minilm", model_id="/data/model", prompts=PROMPTS, default_prompt_name="document", auto_truncate=False
    ),
    "limits": StandinConfig(
        backend="minilm",
        model_id="/data/model",
        api_key="k",
        max_concurrent_requests=3,
        max_client_batch_size=8,
        payload_limit_bytes=2_000,
    ),
}
ENDS_THE_SERVER = {"token id out of vocabulary"}
PAGES = {"GET /docs/", "GET /api-doc/openapi.json"}
"""Pages for people, of which only the head is compared."""
NOT_SPOKEN = {"raw HTTP/2 preface"}
"""The stand-in speaks HTTP/1 alone, as the engine does."""
LOST = {"body 5 MB"}
"""The record says that the answer was lost with the connection; it may also arrive."""
TIMEOUT_S = 60.0

pytestmark = pytest.mark.skipif(not RECORDS, reason=f"no {FILE} beside the repository")


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, tuple[str, int]]]:
    """A server for each group of records."""
    with contextlib.ExitStack() as stack:
        found = {}
        for groups, config in SERVERS.items():
            fleet = stack.enter_context(StandinFleet(config))
            for group in groups.split():
                found[group] = ("127.0.0.1", fleet.ports[0])
        yield found


LONG = "word " * 600
WHOLE: dict[str, Any] = {
    "long text default truncate": {"inputs": [LONG]},
    "long text truncate true": {"inputs": [LONG], "truncate": True},
    "long text truncate false": {"inputs": [LONG], "truncate": False},
    "long text truncate null": {"inputs": [LONG], "truncate": None},
    "long text left": {"inputs": [LONG], "truncation_direction": "left"},
    "long text Left": {"inputs": [LONG], "truncation_direction": "Left"},
    "long text RIGHT": {"inputs": [LONG], "truncation_direction": "RIGHT"},
    "very long text 100k words": {"inputs": ["word " * 100_000]},
    "very long text 100k words truncate false": {"inputs": ["word " * 100_000], "truncate": False},
    "long one bad in batch truncate false": {"inputs": ["a", LONG, "b"], "truncate": False},
    "256 tokens exactly? 254 words truncate false": {"inputs": ["hello " * 254], "truncate": False},
    "255 words truncate false": {"inputs": ["hello " * 255], "truncate": False},
    "600 inputs": {"inputs": [f"t{number}" for number in range(600)]},
    "v1 600 inputs": {"input": [f"t{number}" for number in range(600)]},
    "v1 long text": {"input": [LONG], "encoding_format": "base64"},
    "v1 truncate false is ignored?": {"input": [LONG], "truncate": False},
    "tokenize long (no truncation?)": {"inputs": ["word " * 300]},
    "content-encoding gzip": gzip.compress(b'{"inputs":"a"}'),
    "body 2,000,000 bytes": b'{"inputs":"' + b"a" * 1_999_987 + b'"}',
    "body 2,000,001 bytes": b'{"inputs":"' + b"a" * 1_999_988 + b'"}',
    "body 5 MB": b'{"inputs":"' + b"a" * 5_000_000 + b'"}',
    "body 5 MB openai": b'{"input":"' + b"a" * 5_000_000 + b'"}',
    "413 beats 401?": {"inputs": "a" * 3_000},
    "413": {"inputs": "a" * 3_000},
    "413 openai": {"input": "a" * 3_000},
    "413 tokenize": {"inputs": "a" * 3_000},
    "body exactly at the limit": {"inputs": "a" * 1_986},
    "one over": {"inputs": "a" * 1_987},
    "raw invalid utf-8": b'{"inputs":["a\xff\xfeb"]}',
    "raw WTF-8 surrogate": b'{"inputs":["a\xed\xa0\x80b"]}',
}
"""Bodies of which the records hold the beginning alone, or not the bytes."""


def body_of(record: dict[str, Any]) -> bytes | None:
    """The body that was sent."""
    text, name = record["request_body"], record["name"]
    if text is None:
        return None
    if "word word word" in name:
        whole: Any = {"inputs": [LONG]}
    else:
        whole = WHOLE.get(name, text.encode())
    body: bytes = whole if isinstance(whole, bytes) else json.dumps(whole).encode()
    assert len(body) == record.get("request_bytes", len(body)), "made whole as it was"
    return body


@pytest.mark.seconds
@pytest.mark.parametrize("group", ["routes", "embed", "malformed", "openai", "other", "prompts", "limits"])
def test_answers_are_those_of_the_real_server(group: str, addresses: dict[str, tuple[str, int]]) -> None:
    """Every recorded request of a group; what ends the server has a test of its own."""
    records = [record for record in RECORDS if record["group"] == group and record["name"] not in ENDS_THE_SERVER]
    assert records
    different = {record["name"]: found for record in records if (found := differences(record, addresses[group]))}
    assert not different


def differences(record: dict[str, Any], address: tuple[str, int]) -> list[Any]:
    """In what the answer to a recorded request differs: pairs of what is there and what was recorded."""
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    headers = record.get("request_headers", {"content-type": "application/json"}) or {}
    with contextlib.closing(connection):
        try:
            connection.request(record["method"], record["path"], body_of(record), headers)
            answer = connection.getresponse()
            body = answer.read()
        except OSError as error:
            return [] if record["name"] in LOST else [repr(error)]
    if record["name"] in LOST:
        return [] if answer.status == 413 else [(answer.status, 413)]
    said = {name.lower(): value for name, value in record["headers"]}
    pairs: list[tuple[Any, Any]] = [
        (answer.status, record["status"]),
        (answer.reason, record.get("reason") or answer.reason),
        (sorted({name.lower() for name, _ in answer.getheaders()}), sorted(said)),
        (answer.headers.get("content-type"), said.get("content-type")),
    ]
    if answer.status != 200 or not body:
        pairs.append((without_numbers(body.decode()), without_numbers(record["body"] or "")))
    elif record["name"] not in PAGES and "shape" in record:
        pairs.append((shape_of(orjson.loads(body)), record["shape"]))
    return [pair for pair in pairs if pair[0] != pair[1]]


def without_numbers(text: str) -> str:
    """A text with every number left out."""
    return re.sub(r"\d+", "N", text)


def shape_of(value: Any) -> Any:
    """The shape of a document as the records describe it."""
    if isinstance(value, dict):
        return {key: shape_of(one) for key, one in value.items()}
    if isinstance(value, list):
        return ["list", len(value), shape_of(value[0])] if value else ["list", 0]
    if isinstance(value, str):
        return "str" if len(value) <= 60 else f"str({len(value)})"
    return type(value).__name__


def test_bytes_on_a_connection_are_answered_as_by_the_real_server(addresses: dict[str, tuple[str, int]]) -> None:
    """Status lines and names of headers, and whether the connection ends."""
    for record in RECORDS:
        if record["group"] != "raw" or record["name"] in NOT_SPOKEN:
            continue
        with socket.create_connection(addresses["raw"], timeout=TIMEOUT_S) as sock:
            sock.sendall(record["request_body"].encode("latin-1"))
            wanted = heads_of(record["received"].encode())
            received = b""
            while len(heads_of(received)) < len(wanted) and (more := sock.recv(1 << 16)):
                received += more
                if heads_of(received) == wanted[:1] and b"100 Continue" in received:
                    sock.sendall(b'{"inputs":"a"}')
            assert heads_of(received) == wanted, record["name"]
            if record["closed_by_server"]:
                while sock.recv(1 << 16):
                    pass


@pytest.mark.seconds
def test_ids_outside_the_vocabulary_end_the_one_server_that_they_were_sent_to() -> None:
    """A process of one server ends; beside others, its port alone is gone for a while."""
    body = {"inputs": [[4_000_000]]}
    with StandinFleet(MODEL) as fleet, pytest.raises(requests.ConnectionError):
        post(fleet.urls[0], "/embed", body)
    with StandinFleet(dataclasses.replace(MODEL, ports=(0, 0))) as fleet:
        with pytest.raises(requests.ConnectionError):
            post(fleet.urls[0], "/embed", body)
        assert embed(fleet.urls[1], "still there").status_code == 200
        assert not fleet.control(fleet.ports[0])["listening"]


def heads_of(received: bytes) -> list[tuple[bytes, frozenset[bytes]]]:
    """Status line and names of headers of each whole head."""
    heads = re.findall(rb"(HTTP/1\.[01] \d+ [^\r\n]*)\r\n((?:[^\r\n]+\r\n)*)\r\n", received)
    return [(line, frozenset(name.partition(b":")[0] for name in rest.splitlines())) for line, rest in heads]
