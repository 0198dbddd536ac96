"""Formats: what a file's rows are, whatever is wrong with some of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import SourceError
from readers.files import formats
from readers.files.formats import BLANK, Unreadable, chunks
from readers.files.opening import reading
from readers.files.settled import Settled

NOTHING = Settled([])


def rows_of(path: Path, fields: tuple[str, ...] = ("text",), settled: Settled = NOTHING) -> dict[int, Any]:
    """Every row that is given, by its number."""
    found: dict[int, Any] = {}
    with reading(path):
        for first, rows in chunks(path, fields, settled):
            for row, value in enumerate(rows, first):
                assert row not in found
                if value is not BLANK:
                    found[row] = value
    return found


def compressed(path: Path, data: bytes) -> Path:
    """A file, compressed as its name says."""
    if path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("last", ["", "\n", "\r\n\n"])
def test_a_line_is_a_row_and_a_bad_one_is_told_of(tmp_path: Path, ending: str, last: str) -> None:
    lines = ['{"text": "one"}', "", '{"text": "two"', "[1]", "null", '{"text": "\\ud800"}', '{"text": "three"}\r']
    path = compressed(tmp_path / f"a.jsonl{ending}", "\n".join(lines).encode() + last.encode())

    rows = rows_of(path)

    assert {row: value["text"] for row, value in rows.items() if isinstance(value, dict)} == {0: "one", 6: "three"}
    assert {row: value.detail.partition(":")[0] for row, value in rows.items() if isinstance(value, Unreadable)} == {
        2: "the line is not JSON",
        3: "the line is no JSON object",
        4: "the line is no JSON object",
        5: "the line is not JSON",
    }


def test_lines_longer_than_a_block_and_a_byte_order_mark_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "CHUNK_BYTES", 16)
    monkeypatch.setattr(formats, "LONGEST_LINE_BYTES", 100)
    texts = ["a" * 60, "b", "c" * 300, "d" * 5, "e"]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(json.dumps({"text": text}).encode() for text in texts))

    rows = rows_of(path)

    assert [rows[row]["text"] for row in (0, 1, 3, 4)] == [texts[row] for row in (0, 1, 3, 4)]
    assert rows[2].detail.startswith("the line is longer than")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_record_of_csv_is_a_row_also_over_several_lines(tmp_path: Path, delimiter: str) -> None:
    records = ["id|text|lang", '1|"one\nand ""more"""|en', "2|two", "3|three|de", '4|"half', "5|five|fr"]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(records).replace("|", delimiter))

    rows = rows_of(path)

    assert rows[0] == {"id": "1", "text": 'one\nand "more"', "lang": "en"}
    assert rows[1].detail == "the record has 2 fields, the header 3"
    assert rows[2]["text"] == "three"
    assert rows[3].detail.startswith("the record is not CSV")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_gives_the_columns_that_are_asked_for(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array(["one", None, "three", "four", "five"]).cast(kind)
    table = pa.table({"text": texts, "n": [1, None, 3, 4, 5], "other": [0] * 5, "deep": [{"a": 1, "b": "x"}] * 5})
    pq.write_table(table, path, row_group_size=2)

    rows = rows_of(path, ("text", "n", "deep.b", "absent"))

    assert [row["text"] for row in rows.values()] == ["one", None, "three", "four", "five"]
    assert [row["n"] for row in rows.values()] == [1, None, 3, 4, 5]
    assert rows[4] == {"text": "five", "n": 5, "deep": {"b": "x"}}
    assert rows_of(path, ("absent",)) == {row: {} for row in range(5)}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_settled_rows_need_not_be_given_and_all_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(formats, "CHUNK_BYTES", 64)
    monkeypatch.setattr(formats, "_CSV_ROWS", 5)
    path = tmp_path / name
    numbers = range(100)
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"text": [f"row {row}" for row in numbers]}), path, row_group_size=7)
    elif ".csv" in name:
        compressed(path, ("text\n" + "\n".join(f"row {row}" for row in numbers)).encode())
    else:
        compressed(path, "\n".join(json.dumps({"text": f"row {row}"}) for row in numbers).encode())
    settled = Settled([(0, 30), (33, 33), (50, 98)])

    rows = rows_of(path, settled=settled)

    wanted = {row for row in numbers if not settled.cover(row, 1)}
    assert wanted <= set(rows)
    assert len(rows) < 60
    assert {row: rows[row]["text"] for row in wanted} == {row: f"row {row}" for row in wanted}


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.csv.gz", "a.parquet"])
def test_a_file_that_is_cut_off_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"text": ["some text"] * 1000}), path)
    else:
        lines = "\n".join(json.dumps({"text": f"row {row} {row * row}"}) for row in range(20_000))
        compressed(path, lines.encode())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=name):
        rows_of(path)


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv", "a.jsonl.gz"):
        assert rows_of(compressed(tmp_path / name, b"")) == {}
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == {}
