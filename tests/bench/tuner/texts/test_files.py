"""Texts from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.tuner.texts.files import MAX_TEXTS, read_texts
from engine.errors import ConfigError


def test_texts_come_one_a_line_or_from_json_lines(tmp_path: Path) -> None:
    """Blank lines are none."""
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("one\n\n  two \nthree", encoding="utf-8")
    lines.write_text('{"text": "one\\ntwo", "id": 1}\n{"text": ""}\n', encoding="utf-8")

    assert read_texts(plain, 1) == ["one", "  two ", "three"]
    assert read_texts(lines, 1) == ["one\ntwo", ""]


def test_of_a_large_file_a_random_sample_is_taken_that_the_seed_decides(tmp_path: Path) -> None:
    """Of all of it, not of its beginning."""
    path = tmp_path / "many.txt"
    path.write_text("\n".join(str(number) for number in range(3 * MAX_TEXTS)))

    first, again, other = read_texts(path, 1), read_texts(path, 1), read_texts(path, 2)

    assert len(first) == len(set(first)) == MAX_TEXTS
    assert first == again != other
    assert max(map(int, first)) > 2.9 * MAX_TEXTS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n\n", "holds no text"),
        ("a.jsonl", b'{"text": 3}\n', "line 1 has no string in a field `text`"),
        ("a.jsonl", b'{"text": "x"}\n{bad\n', "line 2 is not JSON"),
    ],
)
def test_a_file_without_texts_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """Which line, and what was expected."""
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=message):
        read_texts(path, 1)
