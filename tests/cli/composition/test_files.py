"""A sample of files, as `engine plan` and `engine bench` take it: texts of all of them, and how many rows there are."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands.composition.files.inspection import inspect_files
from commands.composition.files.sampling import sample_texts
from engine.config import RunConfig, SinkConfig, SourceConfig
from engine.memory.ids import IdType


def config_of(folder: Path, **options: object) -> RunConfig:
    """A run over a folder's files that has never been started."""
    source = SourceConfig.of_files(str(folder / "data"), "data", **options)
    return RunConfig(source=source, sink=SinkConfig(hot_dir=folder / "hot", cold_dir=folder / "cold"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of 300 rows each, of which a few have no text."""
    data = tmp_path / "data"
    data.mkdir()
    lines = [json.dumps({"text": f"line {row}", "n": row, "at": {"x": row / 2}}) for row in range(300)]
    lines[5], lines[6] = "broken", '{"n": 6}'
    (data / "a.jsonl").write_text("\n".join(lines))
    with gzip.open(data / "b.csv.gz", "wt") as stream:
        stream.write("text,n\n" + "".join(f"record {row},{row}\n" for row in range(300)))
    texts = [f"row {row}" for row in range(300)]
    pq.write_table(pa.table({"text": texts, "n": list(range(300))}), data / "c.parquet", row_group_size=50)
    return tmp_path


def test_a_sample_has_texts_of_every_file_and_counts_what_it_can(folder: Path) -> None:
    sample, id_type = sample_texts(config_of(folder), 600)
    assert id_type is IdType.STRING
    assert {text.partition(" ")[0] for text in sample.texts} == {"line", "record", "row"}
    assert sample.size is not None
    assert (sample.size.n_rows, sample.size.is_exact) == (900, True)
    assert sample.refused == {"unreadable": 1, "missing": 1}


def test_the_rows_of_a_large_file_are_estimated_from_some_places(folder: Path) -> None:
    line = json.dumps({"text": "some words " * 20})
    (folder / "data" / "large.jsonl").write_text(f"{line}\n" * 150_000)
    sample, _ = sample_texts(config_of(folder), 600)
    assert sample.size is not None
    assert not sample.size.is_exact
    assert 0.95 < sample.size.n_rows / 150_900 < 1.05


def test_types_of_columns_and_ids_come_from_the_sample(folder: Path) -> None:
    for name in ("a.jsonl", "b.csv.gz"):
        (folder / "data" / name).rename(folder / name)
    found = inspect_files(config_of(folder, columns=("n", "absent"), id_field="n"))
    assert found.id_type is IdType.INT64
    assert found.columns == (("n", "int64"), ("absent", "string"))
    assert found.n_rows == 300
    (folder / "a.jsonl").rename(folder / "data" / "a.jsonl")
    mixed = inspect_files(config_of(folder, columns=("at", "at.x", "n")))
    assert mixed.columns == (("at", "json"), ("at.x", "double"), ("n", "int64"))
