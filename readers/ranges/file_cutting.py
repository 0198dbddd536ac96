"""Cutting files into pieces that nodes are given: runs of small files, and ranges of rows of large ones.

A bound is a position (`readers.files.ids`), so pieces follow the order of files and rows. Of a Parquet file the footer
says where rows are; of the other formats it is not known without reading them, so their inner bounds are guesses: a
piece may turn out small, or empty, and the last one of a file goes on to its end. Whoever reads such a piece passes
over the rows before it, which is why a file of these formats is cut into few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from readers.files.catalogue import SourceFile
from readers.files.ids import position_of
from readers.files.opening import FilePath, at_once, known_format, parquet_footer, reading
from readers.ranges.piece_size import piece_rows

STREAM_PIECES_A_NODE = 8
"""Into how many pieces for each node files are cut, all together, of which the rows before a piece have to be passed
over."""
_GROUP_PIECES = 8
"""Likewise a row group of Parquet, whose pages before a piece are read with it."""

_COMPRESSION = 3
"""Of text, usually."""

Stretch = tuple[int, int]
"""First row of a piece of a file, and about how many rows it has."""


def cut(files: Sequence[SourceFile], n_rows: int, n_nodes: int) -> tuple[list[int | None], list[int]]:
    """Cut files so that so many nodes keep busy to the end.

    Args:
        files: All of them by their numbers, with what is settled.
        n_rows: About how many rows those have that are there.

    Returns:
        Boundaries of the pieces, None at both ends, and about how many rows of each are left.

    Raises:
        SourceError: a footer cannot be read.
    """
    there = [file for file in files if file.path is not None and file.bytes]
    sizes = {file.number: _size(file) for file in there}
    n_bytes = sum(sizes.values())
    target = piece_rows(n_rows, n_nodes)
    rows = {file.number: max(1, n_rows * sizes[file.number] // n_bytes) for file in there}
    large = [file for file in there if rows[file.number] >= 2 * target]
    groups = _groups([file for file in large if known_format(file.name).kind == "parquet"])
    bounds: list[int | None] = [None]
    weights: list[int] = [0]
    for file in there:
        size = rows[file.number]
        n_pieces = min(size // target, STREAM_PIECES_A_NODE * n_nodes * size // max(1, n_rows))
        for first, n_there in _stretches(size, groups.get(file.number), target, n_pieces):
            left = max(0, n_there - _settled(file, first, n_there))
            if weights[-1] and weights[-1] + left > target:
                bounds.append(position_of(file.number, first))
                weights.append(0)
            weights[-1] += left
    return [*bounds, None], weights


def _size(file: SourceFile) -> int:
    """Bytes of a file as they would be without compression, by what is usual."""
    form = known_format(file.name)
    return file.bytes * (_COMPRESSION if form.compression or form.kind == "parquet" else 1)


def _groups(files: Sequence[SourceFile]) -> dict[int, list[int]]:
    """Rows of the row groups of Parquet files, by the files' numbers."""
    paths = [file.path for file in files if file.path is not None]
    return dict(zip((file.number for file in files), at_once(_group_rows, paths), strict=True))


def _group_rows(path: FilePath) -> list[int]:
    with reading(path):
        footer = parquet_footer(path)
        return [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]


def _stretches(n_rows: int, groups: list[int] | None, target: int, n_pieces: int) -> Iterator[Stretch]:
    """Stretches of a file's rows between which it may be cut.

    Args:
        groups: Rows of its row groups, None for a file that has none.
        n_pieces: Of a file that has none.
    """
    if groups is None:
        yield from _even(0, n_rows, n_pieces)
        return
    first = 0
    for size in groups:
        yield from _even(first, size, min(size // target, _GROUP_PIECES))
        first += size


def _even(first: int, n_rows: int, n_pieces: int) -> Iterator[Stretch]:
    n_pieces = max(1, n_pieces)
    for piece in range(n_pieces):
        start, end = n_rows * piece // n_pieces, n_rows * (piece + 1) // n_pieces
        yield first + start, end - start


def _settled(file: SourceFile, first: int, n_rows: int) -> int:
    """How many of some rows of a file are settled."""
    end = first + n_rows
    return sum(max(0, min(last + 1, end) - max(one, first)) for one, last in file.settled)
