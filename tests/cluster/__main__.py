"""`python -m tests.cluster`: rounds of random kills over a Ray cluster (`tests.cluster.rounds`)."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pymongo

from bench.parts.local_mongod import LocalMongod
from bench.parts.s3_server import S3Server
from bench.standin import StandinFleet
from tests.cluster.ray_host import RayHost
from tests.cluster.rounds import play
from tests.crash.conftest import SERVERS


def main() -> None:
    """Play rounds, and say what each did; the first that is not exact ends it."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no round after that")
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    hurt: Counter[str] = Counter()
    ends_s = time.monotonic() + 60 * asked.minutes
    played = 0
    with LocalMongod() as mongod, StandinFleet(SERVERS) as fleet, RayHost(2) as host, S3Server() as s3:
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(mongod.uri)
        with client:
            for number in range(asked.first, asked.first + asked.rounds):
                if time.monotonic() > ends_s:
                    break
                began_s = time.monotonic()
                with tempfile.TemporaryDirectory() as folder:
                    database = client[f"round_{number}"]
                    kills = play(Path(folder), mongod.uri, database, fleet, host, s3, asked.seed * 10_000 + number)
                    client.drop_database(database.name)
                hurt.update(kills[1:])
                played += 1
                took = f"{time.monotonic() - began_s:.0f} s"
                print(f"round {number}: {kills[0]}: exact after {', '.join(kills[1:])} ({took})", flush=True)
    print(f"{played} rounds exact: 0 lost, 0 doubled, 0 wrong; {dict(hurt)}")


if __name__ == "__main__":
    sys.exit(main())
