"""Daft over the same files and servers: `read_parquet`, a class with a batch method for a column, `write_parquet`."""

from __future__ import annotations

import importlib
import time
from typing import Any


def main() -> None:
    """Do the job."""
    embedding = importlib.import_module("embedding")  # the file beside this one, which runs as a script
    job = embedding.job_of_this_process()
    daft = importlib.import_module("daft")
    began = time.monotonic()
    vectors = daft.DataType.embedding(daft.DataType.float32(), job["dim"])
    batch_rows = embedding.REQUESTS_AT_ONCE * job["batch_size"]

    @daft.cls(max_concurrency=len(job["urls"]), use_process=False)
    class Embed:
        """What a worker does with a batch."""

        def __init__(self) -> None:
            self._embedder = embedding.Embedder(job)

        def _vectors(self, text: Any) -> Any:
            """The column of vectors for a column of texts."""
            return self._embedder.embed(text.to_pylist())

        embed = daft.method.batch(return_dtype=vectors, batch_size=batch_rows)(_vectors)

    frame = daft.read_parquet(f"{job['source']}/*.parquet").select("_id", "text")
    frame = frame.with_column("embedding", Embed().embed(daft.col("text"))).exclude("text")
    frame.write_parquet(job["out"])
    embedding.say(time.monotonic() - began, daft.__version__)


if __name__ == "__main__":
    main()
