"""The configuration of a run: frozen, validated where it is made, free of secrets.

Environment and files are read once, at the edge of the command line; everything below gets these values.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.ledger.runfolder import RunFolders, check_folder_name
from engine.objects.url import ColdUrl, StoreUrl
from engine.part import Part
from engine.ray_address import RayAddress
from engine.records import RETWEETED_VALUES

MAX_BATCH_SIZE = 4096
MIN_RING_BYTES = 16 << 20
MAX_LIMIT = 1 << 62
FILES_DATABASE = "files"
"""What stands in place of a database in the names of a run that reads files."""

MAX_OBJECT_BYTES = 2 << 30
"""Of a shard on a store: it may get larger than it is meant to by a row group."""
_QUEUE_FIELDS = ("_id", "lang", "classified", "retweeted")


def check_range(name: str, value: float, low: float, high: float | None = None) -> None:
    """Refuse a number that an option does not take.

    Args:
        name: The option, with underscores or hyphens.
        low, high: What is allowed, both included; None means no upper bound. Never NaN, never infinite.

    Raises:
        ConfigError: it does not.
    """
    if not low <= value <= (math.inf if high is None else high) or not math.isfinite(value):
        allowed = f"at least {_plain(low)}" if high is None else f"{_plain(low)} to {_plain(high)}"
        raise ConfigError(f"--{name.replace('_', '-')} is {_plain(value)}; allowed is {allowed}")


def _plain(value: float) -> str:
    """A number as people write it: 1000000, not 1e+06."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def check_done_field(name: str) -> None:
    """Refuse a done field that is no plain field name, or that the work queue itself stands on.

    Raises:
        ConfigError: it is.
    """
    if not _is_path(name) or "." in name:
        raise ConfigError(f"--done-field is {name!r}; expected a plain field name")
    if name in _QUEUE_FIELDS:
        raise ConfigError(
            f"--done-field is {name!r}, a field that the work queue stands on; "
            "the engine overwrites it with true: name a field of its own"
        )


def check_retweeted(value: str) -> None:
    """Refuse what `--retweeted` does not take.

    Raises:
        ConfigError: it does not.
    """
    _one_of("retweeted", value, RETWEETED_VALUES)


def _is_path(path: str) -> bool:
    """Whether MongoDB takes it as a field's name or a dotted path."""
    return all(part and not part.startswith("$") and "\0" not in part for part in path.split("."))


def _root(path: str) -> str:
    return path.partition(".")[0]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        choice = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
        raise ConfigError(f"--{name.replace('_', '-')} is {value!r}; allowed is {choice}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """The source of documents: which collection and fields, and which of its documents.

    Attributes:
        filter: Extended JSON that is ANDed to the work query, or None.
        columns: Further fields carried into Parquet.
        scan: `queue` for the partial index, `id` for `_id` order over the whole collection.
        retweeted: Which value of a document's `retweeted` counts: `null` (or missing), `false` or `any`.
        files: A folder, glob or URL of files that is read instead of MongoDB, or None. Then `database` is `files`,
            `collection` the name of the data set, and nothing is marked.
        store: How the store is spoken to when the files are objects, or None.
        id_field: Field of the files' documents that becomes `_id`; None for the file and the row.
        part: The share of the queue that is read, or None for the whole.
    """

    database: str = "twitter_data"
    collection: str = "tweets"
    text_field: str = "text"
    done_field: str = "gemma_embedded_768"
    langs: tuple[str, ...] = ()
    filter: str | None = None
    columns: tuple[str, ...] = ()
    scan: str = "queue"
    mark: bool = True
    retweeted: str = "null"
    files: str | None = None
    store: StoreUrl | None = None
    id_field: str | None = None
    part: Part | None = None

    @classmethod
    def of_files(cls, source: str, name: str, **options: Any) -> SourceConfig:
        """A folder, glob or file as the source.

        Args:
            name: What the data set is called in folders, ledger and summary.
        """
        return cls(files=source, database=FILES_DATABASE, collection=name, mark=False, **options)

    def __post_init__(self) -> None:
        for name in ("database", "collection", "done_field"):
            option = "--name" if name == "collection" and self.files is not None else f"--{name.replace('_', '-')}"
            check_folder_name(option, getattr(self, name))
        _one_of("scan", self.scan, ("queue", "id"))
        check_retweeted(self.retweeted)
        check_done_field(self.done_field)
        if not _is_path(self.text_field):
            raise ConfigError(f"--text-field is {self.text_field!r}; expected a field name or a dotted path")
        for column in self.columns:
            if column in ("_id", "embedding", "truncated"):
                raise ConfigError(f"--columns names {column!r}, which the engine writes itself; leave it out")
            if not _is_path(column):
                raise ConfigError(f"--columns names {column!r}; expected field names or dotted paths")
        if len(set(self.columns)) != len(self.columns):
            raise ConfigError(f"--columns is {','.join(self.columns)!r}; name each column once")
        if self.files is not None:
            self._check_files()
            return
        if self.id_field is not None:
            raise ConfigError(
                "--id-field names a field of files, but no --source is given; MongoDB's documents have _id"
            )
        if self.done_field in (_root(self.text_field), *map(_root, self.columns)):
            raise ConfigError(
                f"--done-field is {self.done_field!r}, which --text-field or --columns reads; "
                "the engine overwrites it with true: name a field of its own"
            )
        if self.filter is not None:
            try:
                parsed = json.loads(self.filter)
            except json.JSONDecodeError as error:
                raise ConfigError(f"--filter is not JSON ({error.msg} at character {error.pos})") from error
            if not isinstance(parsed, dict):
                raise ConfigError("--filter must be a JSON object, a MongoDB query in extended JSON")

    def _check_files(self) -> None:
        if self.id_field is not None and not all(self.id_field.split(".")):  # `_id.$oid` is one of a MongoDB export
            raise ConfigError(f"--id-field is {self.id_field!r}; expected a field name or a dotted path")
        narrowed = {"lang": bool(self.langs), "filter": self.filter is not None, "scan": self.scan != "queue"}
        narrowed["retweeted"] = self.retweeted != "null"
        for name in (name for name, is_given in narrowed.items() if is_given):
            raise ConfigError(f"--{name} is about MongoDB's work queue, but --source names files: leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServersConfig:
    """The embedding servers, and how they are asked.

    Attributes:
        concurrency: Requests in flight per server, or None for adaptive.
        start_concurrency: What adaptive begins with, or None for the least; a tuned file says it.
        target_p95_s: Upper bound for the 95th percentile of request latency in adaptive mode.
        dimensions: Numbers to keep of each vector, or None for the model's.
        kind: `auto`, `tei` or `openai`.
        dedup: Embed identical texts of a window once.
        bucketing: `auto`, `on` or `off`: requests of like length.
    """

    urls: tuple[str, ...] = tuple(f"http://localhost:{port}/embed" for port in range(18080, 18084))
    batch_size: int = 32
    concurrency: int | None = None
    start_concurrency: int | None = None
    max_concurrency: int = 64
    target_p95_s: float | None = None
    prompt: str | None = None
    dimensions: int | None = None
    normalize: bool = True
    truncate: bool = True
    kind: str = "auto"
    model: str | None = None
    dedup: bool = False
    bucketing: str = "auto"
    accept_vectors: float | None = None

    def __post_init__(self) -> None:
        if not self.urls:
            raise ConfigError("--tei-urls is empty; name at least one embedding server")
        if len(set(self.urls)) != len(self.urls):
            raise ConfigError("--tei-urls names a server twice; one client process works for each URL")
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ConfigError(f"--tei-urls holds {url!r}; expected http://HOST:PORT with or without a path")
        check_range("batch_size", self.batch_size, 1, MAX_BATCH_SIZE)
        if self.concurrency is not None:
            check_range("concurrency", self.concurrency, 1, 1024)
        if self.start_concurrency is not None:
            check_range("start_concurrency", self.start_concurrency, 1, 1024)
        check_range("max_concurrency", self.max_concurrency, 1, 1024)
        if self.target_p95_s is not None:
            check_range("target_p95", self.target_p95_s, 0.001)
        if self.dimensions is not None:
            check_range("dimensions", self.dimensions, 1, 65536)
        if self.accept_vectors is not None:
            check_range("accept_vectors", self.accept_vectors, 0.5, 1.0)
        _one_of("server_kind", self.kind, ("auto", "tei", "openai"))
        _one_of("bucketing", self.bucketing, ("auto", "on", "off"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkConfig:
    """Where ledger and shards are written, and when a shard is full.

    Attributes:
        cold_dir: A folder, or a prefix on an object store.
    """

    hot_dir: Path = Path("hot")
    cold_dir: Path | ColdUrl = Path("cold")
    shard_bytes: int = 256 << 20
    shard_seconds: float = 60.0
    vector_type: str = "float32"
    truncated_column: bool = False
    keep_text: bool = False

    def __post_init__(self) -> None:
        check_range("shard_bytes", self.shard_bytes, 1 << 16)
        if isinstance(self.cold_dir, ColdUrl):  # a shard is one request, and stores take 5 GiB in one
            check_range("shard_bytes", self.shard_bytes, 1 << 16, MAX_OBJECT_BYTES)
        check_range("shard_seconds", self.shard_seconds, 0.1)
        _one_of("vector_type", self.vector_type, ("float32", "float16"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """When a run stops before its work is done, and how much memory its document ring may take."""

    limit: int | None = None
    max_time_s: float | None = None
    max_outage_s: float = 600.0
    ring_bytes: int = 48 << 20

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_range("limit", self.limit, 1, MAX_LIMIT)
        if self.max_time_s is not None:
            check_range("max_time", self.max_time_s, 0.1)
        check_range("max_outage", self.max_outage_s, 0)
        check_range("ring_bytes", self.ring_bytes, MIN_RING_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run does, without secrets."""

    source: SourceConfig = field(default_factory=SourceConfig)
    servers: ServersConfig = field(default_factory=ServersConfig)
    sink: SinkConfig = field(default_factory=SinkConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    ray: RayAddress | None = None

    def __post_init__(self) -> None:
        if self.ray is not None and self.source.part is not None:
            raise ConfigError(
                "--part is of machines without one ledger; leave it out, or run without --ray: nodes are given work "
                "out of the whole queue"
            )

    @property
    def folders(self) -> RunFolders:
        """The folders of this run."""
        return RunFolders.of(
            self.sink.hot_dir,
            self.sink.cold_dir,
            self.source.database,
            self.source.collection,
            self.source.done_field,
        )

    @property
    def namespace(self) -> str:
        """`<database>.<collection>`."""
        return f"{self.source.database}.{self.source.collection}"

    @property
    def name(self) -> str:
        """`<database>.<collection>.<done-field>`."""
        return self.folders.hot.name

    def options(self) -> dict[str, Any]:
        """The configuration under the names of the command's options, as it would stand in a TOML file."""
        source, servers, sink, limits = self.source, self.servers, self.sink, self.limits
        mongo: dict[str, Any] = {
            "database": source.database,
            "collection": source.collection,
            "lang": ",".join(source.langs) or None,
            "filter": source.filter,
            "scan": source.scan,
            "retweeted": source.retweeted,
            "no_mark": not source.mark,
        }
        files = {"source": source.files, "name": source.collection, "id_field": source.id_field}
        values: dict[str, Any] = {
            **(mongo if source.files is None else files),
            "part": None if source.part is None else str(source.part),
            "text_field": source.text_field,
            "done_field": source.done_field,
            "columns": ",".join(source.columns) or None,
            "tei_urls": ",".join(_without_credentials(url) for url in servers.urls),
            "batch_size": servers.batch_size,
            "concurrency": "auto" if servers.concurrency is None else str(servers.concurrency),
            "max_concurrency": servers.max_concurrency,
            "target_p95": servers.target_p95_s,
            "prompt": servers.prompt,
            "dimensions": servers.dimensions,
            "normalize": servers.normalize,
            "truncate": servers.truncate,
            "server_kind": servers.kind,
            "model": servers.model,
            "dedup": servers.dedup,
            "bucketing": servers.bucketing,
            "accept_vectors": servers.accept_vectors,
            "hot_dir": str(sink.hot_dir),
            "cold_dir": str(sink.cold_dir),
            **_options_of(sink.cold_dir if isinstance(sink.cold_dir, ColdUrl) else source.store),
            "shard_bytes": sink.shard_bytes,
            "shard_seconds": sink.shard_seconds,
            "vector_type": sink.vector_type,
            "truncated_column": sink.truncated_column,
            "keep_text": sink.keep_text,
            "limit": limits.limit,
            "max_time": limits.max_time_s,
            "max_outage": limits.max_outage_s,
            "ring_bytes": limits.ring_bytes,
            "ray": None if self.ray is None else self.ray.address,
            "ray_resource": None if self.ray is None else self.ray.resource,
        }
        return {name: value for name, value in values.items() if value is not None}


def _options_of(store: StoreUrl | None) -> dict[str, Any]:
    if store is None:
        return {}
    return {
        "cold_endpoint": store.endpoint,
        "cold_region": store.region,
        "cold_option": [f"{name}={value}" for name, value in store.options] or None,
    }


def to_toml(table: str, options: dict[str, Any]) -> str:
    """A flat table of strings, numbers and booleans as TOML (JSON's strings and numbers are TOML's)."""
    lines = [f"[{table}]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    return "\n".join(lines) + "\n"


def recorded_option(path: Path, name: str) -> Any:
    """An option as a run's `config.toml` has it (`to_toml`), None when the run or the option is not there."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    values = [line.partition(" = ")[2] for line in lines if line.startswith(f"{name} = ")]
    return json.loads(values[0]) if values else None


def _without_credentials(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
