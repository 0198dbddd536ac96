"""What tests of `verify` do again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.writers.dataset import COLLECTION, DATABASE, DONE_FIELD, DataSet
from writers.verify.config import VerifyConfig, VerifyReport
from writers.verify.verify import verify


def check(data: DataSet, level: int = 3, **options: Any) -> VerifyReport:
    config = VerifyConfig.of_collection(
        data.root / "hot", data.root / "cold", DATABASE, COLLECTION, DONE_FIELD, level=level, jobs=1
    )
    return verify(config, **options)


def shard(data: DataSet, number: int) -> Path:
    return sorted(data.folders.shards.glob("*.parquet"))[number]


def kinds(report: VerifyReport) -> set[str]:
    return set(report.findings)


def flip(path: Path, offset: int, bit: int = 4) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)
