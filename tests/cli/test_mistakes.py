"""Mistakes that people make: each is one clear sentence, none is passed over in silence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from bench.parts.local_mongod import LocalMongod
from engine.errors import Exit, of_os_error
from engine.ledger.log import frame
from readers.mongo.connection import open_client, open_collection
from readers.mongo.index import create_indexes
from tests.cli.terminal import Terminal

RUN_FOLDER = Path("hot/twitter_data.tweets.gemma_embedded_768")


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """The folder of a run that did nothing and ended well."""
    folder = tmp_path / RUN_FOLDER
    folder.mkdir(parents=True)
    (folder / "ledger").write_bytes(
        frame({"type": "EPOCH", "epoch": 1, "at": 1.0}) + frame({"type": "STOP", "exit": 0, "at": 2.0, "rows": 0})
    )
    return folder


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "--batch-size", "1000000"), "--batch-size is 1000000; allowed is 1 to 4096"),
        (("run", "--ring-bytes", "20"), "--ring-bytes is 20; allowed is at least 16777216"),
        (("run", "--limit", "9" * 23), f"--limit is {'9' * 23}; allowed is 1 to 4611686018427387904"),
        (("run", "--bucketing", "maybe"), "--bucketing is 'maybe'; allowed is auto, on or off"),
        (("plan", "--gpu-hour-price", "-1"), "--gpu-hour-price is -1; allowed is at least 0"),
        (("plan", "--api-price-per-mtok", "nan"), "--api-price-per-mtok is nan; allowed is at least 0"),
        (("plan", "--gpus", "0"), "--gpus is 0; allowed is at least 1"),
        (("plan", "--max-seconds", "-1"), "--max-seconds is -1; allowed is 1 to 86400"),
        (("verify", "--sample-rows", "-1", "--level", "5"), "--sample-rows is -1; allowed is at least 1"),
        (("verify", "--min-cosine", "7", "--level", "5"), "--min-cosine is 7; allowed is -1 to 1"),
        (("status", "--gpu-hour-price", "nan"), "--gpu-hour-price is nan; allowed is at least 0"),
        (("status", "--gpus", "0"), "--gpus is 0; allowed is at least 1"),
        (("bench", "pipeline", "--documents", "0"), "--documents is 0; allowed is at least 1"),
    ],
)
def test_a_number_that_an_option_does_not_take_is_shown_as_it_was_given(
    engine: Terminal, finished_run: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    """With what is allowed, and never in exponents."""
    said = engine(*arguments)

    assert (said.code, said.out) == (2, "")
    assert said.err == f"engine: {sentence}\n"


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("[runn]\nlimit = 3\n", "no command reads the table [runn]"),
        ("limit = 3\n", "'limit' stands outside of every table"),
        ("[run]\nlimitt = 3\n", "[run] has no option 'limitt'"),
    ],
)
def test_a_misspelt_table_of_the_file_is_refused(engine: Terminal, tmp_path: Path, text: str, phrase: str) -> None:
    """Otherwise its options would be passed over, and the defaults taken."""
    (tmp_path / "engine.toml").write_text(text)

    said = engine("run", "--config", "engine.toml")

    assert said.code == 2
    assert phrase in said.err


@pytest.mark.parametrize(("option", "phrase"), [("tls=maybe", "tls must be"), ("foo=bar", "Unknown option")])
def test_an_option_of_the_uri_that_mongodb_does_not_know_is_refused(engine: Terminal, option: str, phrase: str) -> None:
    """pymongo leaves it out with a warning, and `tls=maybe` would end in plain text."""
    said = engine("index", ENGINE_MONGO_URI=f"mongodb://localhost:1/?{option}")

    assert said.code == 2
    assert phrase in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("command", [("status",), ("quarantine", "list"), ("quarantine", "retry")])
def test_a_run_that_is_not_there_is_not_an_empty_one(engine: Terminal, command: tuple[str, ...]) -> None:
    """A mistyped name says so."""
    said = engine(*command, "--collection", "tweeets")

    assert said.code == 2
    assert "no run in hot/twitter_data.tweeets.gemma_embedded_768: check --hot-dir" in said.err


def test_a_collection_that_does_not_exist_is_refused_and_others_are_named(
    engine: Terminal, mongod: LocalMongod, mongo_db: Database[dict[str, Any]]
) -> None:
    """A mistyped collection must not look like one with nothing to do; an empty one has nothing to do."""
    mongo_db.create_collection("tweets")
    environment = {"ENGINE_MONGO_URI": mongod.uri, "ENGINE_DATABASE": mongo_db.name}

    mistyped = engine("run", "--collection", "tweeets", **environment)
    empty = engine("run", **environment)

    assert mistyped.code == 2
    assert "has no collection tweeets (it has: tweets)" in mistyped.err
    assert empty.code == 0
    assert f"the collection {mongo_db.name}.tweets is empty" in empty.err


@pytest.mark.parametrize(("field", "phrase"), [("user", "(it holds: dict)"), ("tags", "(it holds: list)")])
def test_a_text_field_that_holds_no_text_is_refused(
    engine: Terminal, mongod: LocalMongod, mongo_db: Database[dict[str, Any]], field: str, phrase: str
) -> None:
    """A wrong --text-field must not put the whole collection into quarantine."""
    mongo_db["tweets"].insert_many(
        {"_id": number, "text": "t", "user": {"name": "n"}, "tags": ["a", "b"]} for number in range(3)
    )
    with open_client(mongod.uri) as client:
        create_indexes(open_collection(client, mongo_db.name, "tweets"), "gemma_embedded_768")

    said = engine("run", "--text-field", field, ENGINE_MONGO_URI=mongod.uri, ENGINE_DATABASE=mongo_db.name)

    assert said.code == 2
    assert phrase in said.err
    assert "a document has: _id, tags, text, user" in said.err


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EACCES, Exit.USAGE),
        (errno.ENOENT, Exit.USAGE),
        (errno.ENOSPC, Exit.OUTPUT_DEVICE),
        (errno.EROFS, Exit.OUTPUT_DEVICE),
        (errno.EMFILE, Exit.UNEXPECTED),
        (errno.EBADF, Exit.UNEXPECTED),
    ],
)
def test_what_the_operating_system_refuses_is_a_sentence_with_a_way_out(number: int, code: Exit) -> None:
    """The file is named."""
    known = of_os_error(OSError(number, os.strerror(number), "a/ledger"))

    assert known.exit_code is code
    assert str(known).startswith(f"cannot use a/ledger ({os.strerror(number)}): ")


def status_into(stdout: int, folder: Path) -> tuple[int, str]:
    """Exit code and complaints of `engine status` that prints to a descriptor."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", "status", "--hot-dir", str(folder.parent)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.seconds
def test_a_reader_that_has_gone_changes_nothing(finished_run: Path) -> None:
    """`engine status | head -1`: no complaint, and the command's own exit code."""
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    try:
        code, err = status_into(write_fd, finished_run)
    finally:
        os.close(write_fd)

    assert (code, err) == (0, "")


@pytest.mark.seconds
def test_a_result_that_cannot_be_written_is_exit_5(finished_run: Path) -> None:
    """A script that reads the file would find nothing in it."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        code, err = status_into(full, finished_run)
    finally:
        os.close(full)

    assert code == 5
    assert err == "engine: the result cannot be written to standard output (No space left on device)\n"


@pytest.mark.parametrize("command", [("merge", "--target", "out", "--source"), ("verify", "--folder")])
def test_a_folder_that_holds_no_parquet_file_is_not_the_one_that_was_meant(
    engine: Terminal, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "shard.pq").write_bytes(b"")

    said = engine(*command, str(tmp_path / "wrong"))

    assert said.code == 2
    assert "name the folder of the Parquet files" in said.err
    assert len(said.err.splitlines()) == 1
    assert not list(tmp_path.rglob("out")), "nothing is left behind"
