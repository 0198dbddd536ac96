"""Ranges of files: whatever the cut, every row is read in exactly one piece, less what is settled."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.memory.ids import IdType
from readers.files import formats
from readers.files.catalogue import SourceFile, write_plan
from readers.files.ids import position_of, row_of
from readers.files.row_range import SETTLED
from readers.files.source import FilesSource
from readers.ranges.file_cutting import cut
from readers.ranges.piece_size import SMALLEST_ROWS

ROWS = {"a.jsonl": 9000, "b.parquet": 9000, "c.csv.gz": 9000, "d.jsonl": 3, "e.jsonl": 0, "f.jsonl": 4}
GONE = 6


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[SourceFile]:
    """Files of every kind, large ones and small ones; one is gone."""
    folder, rng = tmp_path_factory.mktemp("files"), random.Random(1)
    for name, n_rows in ROWS.items():
        texts = [f"{name} {row} {rng.randbytes(30).hex()}" for row in range(n_rows)]  # that compress as texts do
        if name.endswith(".parquet"):
            pq.write_table(pa.table({"text": texts}), folder / name, row_group_size=4000)
        elif name.endswith(".csv.gz"):
            with gzip.open(folder / name, "wt") as stream:
                stream.write("text\n" + "".join(f'"{text}"\n' for text in texts))
        else:
            (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = []
    for number, name in enumerate(ROWS):
        stat = (folder / name).stat()
        found.append(SourceFile(number, name, folder / name, stat.st_size, stat.st_mtime_ns))
    return [*found, SourceFile(GONE, "gone.jsonl", None, 100, 0)]


def open_source(files: list[SourceFile], folder: Path) -> FilesSource:
    """The source of a node."""
    write_plan(folder / "plan", files)
    told = {"plan": str(folder / "plan"), "id_field": None, "id_type": IdType.STRING.value, "estimate": 0}
    return FilesSource(told, text_field="text", columns=())


def read(source: FilesSource, low: int | None, high: int | None, lease: int = 1) -> list[tuple[int, int]]:
    """File and row of all documents of a range; each has the text of its row."""
    source.take_range({"low": low, "high": high, "lease": lease})
    queue = source.open()
    found = []
    position = queue.start()
    while True:
        page = queue.read(position, 1000)
        for document in page.documents:
            number, row = row_of(document["_id"])
            assert document["text"].startswith(f"{list(ROWS)[number]} {row} ")
            found.append((number, row))
        if page.position is None:
            return found
        position = page.position


ALL = [(number, row) for number, n_rows in enumerate(ROWS.values()) for row in range(n_rows)]


@pytest.mark.seconds
@pytest.mark.parametrize("n_nodes", [1, 3])
@pytest.mark.parametrize("n_rows", [len(ALL), len(ALL) // 3, 4 * len(ALL)])
def test_g1_g2_the_pieces_of_a_cut_hold_every_row_once_however_wrong_the_estimate_is(
    files: list[SourceFile], tmp_path: Path, n_nodes: int, n_rows: int
) -> None:
    bounds, weights = cut(files, n_rows, n_nodes)
    source = open_source(files, tmp_path)

    found = [read(source, low, high) for low, high in itertools.pairwise(bounds)]

    assert len(weights) == len(bounds) - 1
    assert bounds[0] is None and bounds[-1] is None
    assert [row for piece in found for row in piece] == ALL


def test_a_large_file_of_each_format_is_cut_and_small_ones_are_not(files: list[SourceFile]) -> None:
    bounds, weights = cut(files, len(ALL), 2)

    inner = [row_of(bound) for bound in bounds if bound is not None]
    cut_inside = {number for number, row in inner if row}
    assert cut_inside == {0, 1, 2}
    exact = [weight for low, weight in zip(bounds, weights, strict=False) if low is not None and row_of(low)[0] == 1]
    assert len(exact) > 5 and max(exact[:-1]) <= 2 * SMALLEST_ROWS
    assert abs(sum(weights) - len(ALL)) < len(ALL) // 4


def test_what_is_settled_makes_pieces_lighter_and_is_not_read_again(files: list[SourceFile], tmp_path: Path) -> None:
    settled = [SourceFile(f.number, f.name, f.path, f.bytes, f.mtime_ns, ((0, 8999),)) for f in files[:1]] + files[1:]
    _, before = cut(files, len(ALL), 1)
    _, after = cut(settled, len(ALL), 1)
    source = open_source(files, tmp_path)
    (tmp_path / f"{SETTLED}7").write_bytes(orjson.dumps([0, 10, 8990]) + b"\n" + orjson.dumps([1, 0, 3998]) + b"\n")

    found = read(source, None, position_of(1, 4001), lease=7)

    assert sum(after) < sum(before) - 5000
    assert found == [*((0, row) for row in [*range(10), *range(8991, 9000)]), (1, 3999), (1, 4000)]
    assert not (tmp_path / f"{SETTLED}7").exists()


@pytest.mark.seconds
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_bounds_at_all_cut_without_loss(
    files: list[SourceFile], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    positions = st.tuples(st.integers(0, len(ROWS)), st.integers(0, 10_000)).map(lambda pair: position_of(*pair))
    inner = sorted(data.draw(st.sets(positions, max_size=4)))
    source = open_source(files, tmp_path_factory.mktemp("node"))

    bounds: list[int | None] = [None, *inner, None]
    found = [row for low, high in itertools.pairwise(bounds) for row in read(source, low, high)]

    assert found == ALL


def test_a_piece_of_a_stream_ends_where_it_ends(
    files: list[SourceFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies behind it is not read: a large file in many pieces would be read to its end for each."""
    n_blocks = 0
    plain = formats._whole_lines

    def counted(stream: formats.ByteStream) -> object:
        nonlocal n_blocks
        for block in plain(stream):
            n_blocks += 1
            yield block

    monkeypatch.setattr(formats, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(formats, "_whole_lines", counted)

    found = read(open_source(files, tmp_path), None, position_of(0, 10))

    assert found == [(0, row) for row in range(10)]
    assert n_blocks <= 2
