"""Ray Data over the same files and servers: `read_parquet`, `map_batches` with a pool of actors, `write_parquet`."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any


class Embed:
    """What an actor does with a batch."""

    def __init__(self, job: dict[str, Any]) -> None:
        sys.path.insert(0, job["here"])
        self._embedder = importlib.import_module("embedding").Embedder(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its vectors."""
        return {"_id": batch["_id"], "embedding": self._embedder.embed(batch["text"].tolist())}


def main() -> None:
    """Do the job."""
    embedding = importlib.import_module("embedding")  # the file beside this one, which runs as a script
    job = {**embedding.job_of_this_process(), "here": str(Path(__file__).resolve().parent)}
    ray = importlib.import_module("ray")
    data = importlib.import_module("ray.data")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", configure_logging=True)
    data.DataContext.get_current().enable_progress_bars = False
    began = time.monotonic()
    (
        data.read_parquet(job["source"], columns=["_id", "text"])
        .map_batches(
            Embed,
            fn_constructor_args=[job],
            batch_size=embedding.REQUESTS_AT_ONCE * job["batch_size"],
            compute=data.ActorPoolStrategy(size=len(job["urls"])),
            num_cpus=0.2,  # they wait for servers
        )
        .write_parquet(job["out"])
    )
    embedding.say(time.monotonic() - began, ray.__version__)


if __name__ == "__main__":
    main()
