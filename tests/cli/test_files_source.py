"""`--source` on the command line: what is refused in a sentence before anything is started or written."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.config import RunConfig, SinkConfig, SourceConfig
from engine.errors import ConfigError
from tests.cli.terminal import Terminal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of each of two kinds of documents."""
    source = tmp_path / "articles"
    source.mkdir()
    documents = [{"id": number, "mixed": number if number % 2 else "x", "body": "some text"} for number in range(20)]
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.table({"a": [1] * 5, "b": ["text"] * 5}), tmp_path / "tables" / "a.parquet")
    (source / "a.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    return source


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--source", "nowhere"), "there is no folder"),
        (("--source", ""), "--source is empty"),
        (("--source", "https://user:hush@host/x"), "--source is https://host/x; expected a folder, or s3://BUCKET"),
        (("--source", "s3://key:hush@bucket/x"), "--source is s3://bucket/x; expected s3://BUCKET/PREFIX and no more"),
        (("--source", "az://box/x?sv=1&sig=hush"), "--source is az://box/x with a query behind it"),
        (("--source", "s3:///x"), "each part with a name"),
        (("--name", "x"), "no --source is given"),
        (("--id-field", "x"), "but no --source is given"),
        (("--source", "articles"), "none of 20 documents of a sample has a text in --text-field text; there is body"),
        (("--source", "articles", "--text-field", "id"), "--text-field id"),
        (("--source", "articles", "--text-field", "body", "--id-field", "mixed"), "holds int and str"),
        (("--source", "articles", "--text-field", "body", "--id-field", "none"), "there is body, id, mixed"),
        (("--source", "tables"), "none of 5 documents of a sample has a text in --text-field text; there is a, b"),
        (("--source", "tables", "--text-field", "b", "--id-field", "id"), "has the field --id-field id; there is a, b"),
        (("--source", "articles", "--text-field", "body", "--lang", "en"), "--lang is about MongoDB's work queue"),
        (("--source", "articles", "--text-field", "body", "--filter", "{}"), "--filter is about MongoDB's work queue"),
        (("--source", "articles", "--text-field", "body", "--name", "a/b"), "--name is 'a/b'"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_before_a_server_is_asked(
    engine: Terminal, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], why: str
) -> None:
    monkeypatch.chdir(folder.parent)
    said = engine("run", "--no-progress", *arguments)
    assert said.code == 2, said.err
    assert why in said.err
    assert "hush" not in said.err
    assert not list(folder.parent.rglob("ledger"))


def test_files_that_are_not_what_their_names_say_are_refused(
    engine: Terminal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder / "a.jsonl").write_text("this is\nno JSON\n")
    said = engine("run", "--no-progress", "--source", "articles")
    assert said.code == 6
    assert "none of 2 rows of articles can be read (the line is not JSON" in said.err


def test_the_other_commands_find_a_data_set_by_source_or_by_name(
    engine: Terminal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a run there is none; the folder that is looked for is named."""
    monkeypatch.chdir(folder.parent)
    (folder.parent / "engine.toml").write_text('[run]\nsource = "articles"\n')
    for arguments in (("--source", "articles"), ("--name", "articles"), ("--config", "engine.toml")):
        for command in (("status",), ("quarantine", "list")):
            said = engine(*command, *arguments)
            assert said.code == 2
            assert "no run in hot/files.articles.gemma_embedded_768" in said.err
    said = engine("verify", "--name", "articles", "--level", "4")
    assert said.code == 2
    assert "name them with --source" in said.err


def test_a_run_over_files_is_named_by_the_contract() -> None:
    """`HOT/files.<name>.<done-field>/`, `COLD/files.<name>/shards/`."""
    source = SourceConfig.of_files("/data/articles", "news", done_field="v1", id_field="url")
    config = RunConfig(source=source, sink=SinkConfig(hot_dir=Path("hot"), cold_dir=Path("cold")))
    assert str(config.folders.hot) == "hot/files.news.v1"
    assert str(config.folders.shards) == "cold/files.news/shards"
    assert config.namespace == "files.news"
    assert not source.mark
    options = config.options()
    assert (options["source"], options["name"], options["id_field"]) == ("/data/articles", "news", "url")
    assert "database" not in options
    with pytest.raises(ConfigError, match="--id-field"):
        SourceConfig.of_files("/data/articles", "news", id_field="a..b")
