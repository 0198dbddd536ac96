"""What an afternoon's script does, to measure the engine beside: threads, requests, JSON, a file and a mark per batch.

It has no resume, no checks and no commit order. Every figure it gives is measured in the same call, on the same
machine, against the same mongod and the same servers as the engine's.
"""

from __future__ import annotations

import itertools
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import requests
from pymongo import MongoClient


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptFigures:
    """What the script did: documents, seconds, and its own CPU seconds."""

    documents: int
    seconds: float
    cpu_s: float


def run_plain_script(
    uri: str,
    database: str,
    collection: str,
    done_field: str,
    urls: list[str],
    folder: Path,
    *,
    batch_size: int,
    limit: int,
) -> ScriptFigures:
    """Embed up to `limit` documents of the work queue the plain way; one thread a server and two in hand."""
    folder.mkdir(parents=True, exist_ok=True)
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.monotonic()
    sessions = threading.local()
    numbers = itertools.count()
    with MongoClient[dict[str, Any]](uri) as client, ThreadPoolExecutor(2 * len(urls)) as pool:
        documents = client[database][collection]

        def embed(batch: list[dict[str, Any]], number: int) -> int:
            session = getattr(sessions, "session", None) or requests.Session()
            sessions.session = session
            url = urls[number % len(urls)].removesuffix("/embed") + "/embed"
            answer = session.post(url, json={"inputs": [document["text"] for document in batch]}, timeout=60)
            answer.raise_for_status()
            ids = [document["_id"] for document in batch]
            table = pa.table({"_id": ids, "embedding": answer.json()})
            pq.write_table(table, folder / f"batch-{number}.parquet")
            documents.update_many({"_id": {"$in": ids}}, {"$set": {done_field: True}})
            return len(ids)

        cursor = documents.find({"retweeted": None, done_field: None}, {"text": 1}, limit=limit)
        futures = []
        while batch := list(itertools.islice(cursor, batch_size)):
            futures.append(pool.submit(embed, batch, next(numbers)))
        count = sum(future.result() for future in futures)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ScriptFigures(documents=count, seconds=time.monotonic() - started, cpu_s=cpu_s)
