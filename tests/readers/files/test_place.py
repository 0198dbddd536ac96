"""The place that `--source` names: which files, under which names, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.memory.ids import IdType
from readers.files.catalogue import SourceFile, catalogue, read_plan, write_plan
from readers.files.documents import Fields, pages
from readers.files.place import Place

FILES = ("a.jsonl", "b.parquet", "sub/c.csv.gz", "sub/deep/d.NDJSON.zst", ".hidden.jsonl", "_tmp/e.jsonl", "notes.txt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as other programs leave it."""
    root = tmp_path / "data"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"content of {name}")
    return root


@pytest.mark.parametrize(
    ("text", "names", "name"),
    [
        ("data", ["a.jsonl", "b.parquet", "sub/c.csv.gz", "sub/deep/d.NDJSON.zst"], "data"),
        ("data/", ["a.jsonl", "b.parquet", "sub/c.csv.gz", "sub/deep/d.NDJSON.zst"], "data"),
        ("data/*.jsonl", ["a.jsonl"], "data"),
        ("data/**/*.csv.gz", ["sub/c.csv.gz"], "data"),
        ("data/[ab].*", ["a.jsonl", "b.parquet"], "data"),
        ("data/sub/**", ["c.csv.gz", "deep/d.NDJSON.zst"], "sub"),
        ("data/s?b/c*", ["sub/c.csv.gz"], "data"),
        ("data/b.parquet", ["b.parquet"], "data"),
    ],
)
def test_a_folder_a_glob_or_a_file_names_files_below_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, names: list[str], name: str
) -> None:
    """The name of the data set is the folder's, so a narrower glob over the same folder goes on with the same one."""
    monkeypatch.chdir(folder.parent)
    place = Place.of(text)
    assert [file.name for file in place.files()] == names
    assert place.name == name


def test_folders_that_are_left_out_are_not_looked_into(folder: Path) -> None:
    names = [file.name for file in Place.of(str(folder)).files(without=(folder / "sub",))]
    assert names == ["a.jsonl", "b.parquet"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("data/nothing", "there is no folder"),
        ("data/*.txt", "notes.txt, which is no .parquet"),
        ("data/x*.jsonl", "no .parquet, .jsonl"),
    ],
)
def test_what_names_no_files_is_refused_in_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ConfigError, match=why):
        Place.of(text).files()


def test_a_file_keeps_its_number_and_new_ones_come_behind(folder: Path) -> None:
    place = Place.of(str(folder))
    first = catalogue([], place.files(), place)
    known = [record for group in first.new_records() for record in group["files"]]
    (folder / "0-new.jsonl").write_text("new")
    (folder / "b.parquet").unlink()

    again = catalogue(known, place.files(), place)

    assert again.names == [*first.names, "0-new.jsonl"]
    assert [file.number for file in again.files] == list(range(5))
    assert (again.n_gone, again.files[1].path) == (1, None)
    assert [record["name"] for record in again.new] == ["0-new.jsonl"]
    plan = folder.parent / "plan"
    write_plan(plan, again.files)
    assert read_plan(plan) == list(again.files)


@pytest.mark.parametrize("when", ["before", "midway"])
def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path: Path, when: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "some text"}\n' * 100_000)
    stat = path.stat()
    file = SourceFile(0, path.name, path, stat.st_size, stat.st_mtime_ns)
    read = pages(file, Fields.of("text", (), None, IdType.STRING))
    if when == "midway":
        assert len(next(read)) > 1000
    with path.open("a") as stream:
        stream.write('{"text": "one more"}\n')
    with pytest.raises(ConfigError, match=r"a\.jsonl was written to while the run read it"):
        list(read)


@pytest.mark.parametrize(
    ("text", "root", "pattern", "name"),
    [
        ("s3://bucket/a/articles", "s3://bucket/a/articles", None, "articles"),
        ("S3://bucket/articles/", "s3://bucket/articles", None, "articles"),
        ("gs://bucket", "gs://bucket", None, "bucket"),
        ("az://box/articles/*.parquet", "az://box/articles", "*.parquet", "articles"),
        ("s3://bucket/year=202?/month=1/**/x[ab].csv", "s3://bucket", "year=202?/month=1/**/x[ab].csv", "bucket"),
        ("s3://bucket/articles/one.jsonl.zst", "s3://bucket/articles", "one.jsonl.zst", "articles"),
        ("s3://bucket/articles.parquet/", "s3://bucket/articles.parquet", None, "articles.parquet"),
    ],
)
def test_a_url_is_a_prefix_with_a_pattern_or_without(text: str, root: str, pattern: str | None, name: str) -> None:
    """Known without a store: a name with a known ending is that of an object, unless a slash ends it."""
    place = Place.of(text)
    assert (str(place.root), place.pattern, place.name) == (root, pattern, name)
