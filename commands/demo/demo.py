"""The demo: the whole job on one machine with nothing installed beforehand but Python."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from bench.fleet.fleet import ServerFleet
from bench.fleet.plan import FleetPlan
from bench.parts.engine_command import EngineCommand
from bench.parts.local_mongod import LocalMongod
from bench.parts.tweets import documents
from engine.config import FILES_DATABASE
from engine.errors import ConfigError, Exit, ServersUnavailable

DATABASE, COLLECTION, DONE_FIELD = "twitter_data", "tweets", "minilm_embedded_384"
N_TWEETS = 4200
N_SERVERS = 4
N_FILES = 4
QUESTIONS = ("my phone battery died again and I missed the call", "so happy that our team won tonight")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """What the demo may be told.

    Attributes:
        folder: Where it works; None makes a temporary folder that goes at the end.
        mongod: A mongod binary, or None to look for one.
        question: A text whose nearest tweets are shown, or None for two of its own.
        source: `mongodb`, or `files` for a folder of JSONL and no database.
    """

    folder: Path | None = None
    mongod: Path | None = None
    question: str | None = None
    source: str = "mongodb"

    def __post_init__(self) -> None:
        if self.source not in ("mongodb", "files"):
            raise ConfigError(f"--source is {self.source!r}; allowed is mongodb or files")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What the demo embeds from, and the steps that differ with it.

    Attributes:
        uri: MongoDB, empty for files.
        database, collection: In the names of the folders.
        steps: Title and arguments of the commands before the search.
        named: Arguments of a command that reads texts.
    """

    uri: str
    database: str
    collection: str
    steps: tuple[tuple[str, tuple[str, ...]], ...]
    named: tuple[str, ...] = ()


def demo(config: DemoConfig) -> int:
    """Run the demo and say what happens; returns the exit code."""
    started_s = time.monotonic()
    with ExitStack() as stack:
        folder = _folder(config, stack)
        part = _files(folder) if config.source == "files" else _mongodb(folder, config, stack)
        _say(f"2. {N_SERVERS} embedding servers with a real small model (all-MiniLM-L6-v2, 384 dimensions)")
        try:
            fleet = ServerFleet(FleetPlan(backend="minilm", ports=(0,) * N_SERVERS, logs=folder / "hot" / "servers"))
            stack.enter_context(fleet.quietly())
        except ServersUnavailable as error:
            raise ConfigError(f"{error} (`make setup` installs the model)") from error
        engine = EngineCommand(
            uri=part.uri,
            database=part.database,
            collection=part.collection,
            done_field=DONE_FIELD,
            urls=fleet.urls,
            folder=folder,
        )
        for title, arguments in part.steps:
            _say(title)
            code = _call(engine, *arguments)
            if code != Exit.DONE:
                _say(f"   that ended with exit code {code}; the demo stops here")
                return code
        _show_files(engine.cold)
        _say(f"{len(part.steps) + 3}. A search over the result")
        for question in [config.question] if config.question else QUESTIONS:
            _call(engine, "search", "--text", question, "--k", "3", "--with-text", *part.named)
        _say(f"Done in {time.monotonic() - started_s:.0f} s. Everything that was started has been stopped.")
        if config.folder is not None:
            _say(f"The Parquet files stay in {folder / 'cold'}.")
    return Exit.DONE


def _say(line: str) -> None:
    print(line, flush=True)


def _folder(config: DemoConfig, stack: ExitStack) -> Path:
    if config.folder is None:
        folder = Path(tempfile.mkdtemp(prefix="engine-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder
    if config.folder.exists() and any(config.folder.iterdir()):
        raise ConfigError(f"--folder {config.folder} is not empty: name a new folder for the demo")
    config.folder.mkdir(parents=True, exist_ok=True)
    return config.folder


def _mongodb(folder: Path, config: DemoConfig, stack: ExitStack) -> _Part:
    _say("1. A real MongoDB: starting mongod on a free port of 127.0.0.1")
    mongod = stack.enter_context(LocalMongod(folder / "mongod", mongod=config.mongod))
    n_queue = _load(mongod.uri)
    _say(f"   {N_TWEETS:,} real tweets loaded, {n_queue:,} of them are not retweets: the work queue")

    steps = (
        ("3. The indexes of the work queue", ("index",)),
        ("4. The run: MongoDB -> four servers -> Parquet", ("run", "--shard-bytes", "2MiB")),
        ("5. The same command again: nothing is left to do", ("run",)),
        ("6. Consolidation of the shards", ("merge",)),
        ("7. The proof: files, checksums, ids, vectors, and MongoDB's marks", ("verify", "--level", "4")),
    )
    return _Part(uri=mongod.uri, database=DATABASE, collection=COLLECTION, steps=steps)


def _files(folder: Path) -> _Part:
    source = folder / COLLECTION
    source.mkdir()
    wanted = list(documents(N_TWEETS, retweeted=False))
    for number in range(N_FILES):
        path = source / f"part-{number}.jsonl.gz"
        chosen = wanted[number::N_FILES]
        with gzip.open(path, "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"text": document["text"]}) + "\n" for document in chosen)
    _say(f"1. A folder of files: {N_TWEETS:,} real tweets as {N_FILES} files of compressed JSONL, and no database")
    steps = (
        ("3. The run: files -> four servers -> Parquet", ("run", "--source", str(source), "--shard-bytes", "2MiB")),
        ("4. The same command again: nothing is left to do", ("run", "--source", str(source))),
        ("5. Consolidation of the shards", ("merge", "--name", COLLECTION)),
        (
            "6. The proof: files, checksums, ids, vectors, and the rows of the source",
            ("verify", "--source", str(source), "--level", "4"),
        ),
    )
    return _Part(
        uri="",
        database=FILES_DATABASE,
        collection=COLLECTION,
        steps=steps,
        named=("--source", str(source)),
    )


def _load(uri: str) -> int:
    with MongoClient[dict[str, Any]](uri) as client:
        collection = client[DATABASE][COLLECTION]
        collection.insert_many(list(documents(N_TWEETS)))
        return collection.count_documents({"retweeted": None, DONE_FIELD: None})


def _call(engine: EngineCommand, *arguments: str) -> int:
    """Run a command with its output indented below ours; returns its exit code."""
    _say(f"   $ engine {shlex.join(arguments)}")
    with engine.running(*arguments, merge_output=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            _say(f"     {line.rstrip()}")
        return process.wait()


def _show_files(cold: Path) -> None:
    for folder in ("shards", "consolidated"):
        for path in sorted((cold / folder).glob("*.parquet")):
            _say(f"   {folder}/{path.name}  {path.stat().st_size:,} bytes")
