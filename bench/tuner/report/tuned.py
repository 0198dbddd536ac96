"""The tuned file of `engine bench` and `engine run --tuned`: an operating point, and the fleet it was found on."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.ledger import durable
from engine.records import Fingerprint
from gpu_clients.servers.doctor import Fleet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = 1
_LIMITS = (
    "max_input_length",
    "max_client_batch_size",
    "max_concurrent_requests",
    "max_batch_tokens",
    "tokenization_workers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedServer:
    """How the servers were started that the point was found on.

    Attributes:
        backend: `tei`, `vllm`, or a stand-in's.
        flags: The flags that were found, on one line.
    """

    backend: str
    flags: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """An operating point and where it holds.

    Attributes:
        batch_size: Texts of a request.
        concurrency: Requests in flight per server.
        max_concurrency: Requests in flight per server up to which points were measured and good.
        bucketing: `on` or `off`.
        target_p95_s: The bound that it holds, or None.
        docs_per_second, tokens_per_second, p95_s: What was measured there.
        tokens_per_document: Mean tokens of a text of the sample.
        fingerprint: The vector space of the servers, prompt included.
        servers: URL and limits of each server.
        written_at: When, in UTC.
        engine_version: By which version.
        server: The flags of the servers, None when they were not looked for.
    """

    batch_size: int
    concurrency: int
    max_concurrency: int
    bucketing: str
    target_p95_s: float | None
    docs_per_second: float
    tokens_per_second: float
    tokens_per_document: float
    p95_s: float
    fingerprint: Fingerprint
    servers: tuple[dict[str, Any], ...]
    written_at: str
    engine_version: str
    server: TunedServer | None = None


def servers_of(fleet: Fleet) -> tuple[dict[str, Any], ...]:
    """URL and limits of every server that answers."""
    return tuple(
        {"url": report.url, **{name: getattr(report.facts, name) for name in _LIMITS}}
        for report in fleet.servers
        if report.facts is not None
    )


def write_tuned(path: Path, tuned: Tuned) -> None:
    """Write the file as a whole, or not at all.

    Raises:
        OSError: it cannot be written.
    """
    head = (
        f"# Written by `engine bench` ({tuned.engine_version}) at {tuned.written_at}; `engine run --tuned {path.name}` "
        "takes it.\n"
    )
    point = {
        "format": FORMAT,
        "batch_size": tuned.batch_size,
        "concurrency": tuned.concurrency,
        "max_concurrency": tuned.max_concurrency,
        "bucketing": tuned.bucketing,
        "target_p95": tuned.target_p95_s,
    }
    measured = {
        "docs_per_second": round(tuned.docs_per_second, 2),
        "tokens_per_second": round(tuned.tokens_per_second, 1),
        "tokens_per_document": round(tuned.tokens_per_document, 2),
        "p95": round(tuned.p95_s, 6),
        "at": tuned.written_at,
        "engine_version": tuned.engine_version,
    }
    parts = [head, _table("[tuned]", point), _table("[measured]", measured)]
    parts.append(_table("[fingerprint]", tuned.fingerprint.as_dict()))
    if tuned.server is not None:
        parts.append(_table("[server]", dataclasses.asdict(tuned.server)))
    parts += [_table("[[servers]]", server) for server in tuned.servers]
    durable.replace_file(path, "\n".join(parts).encode("utf-8"))


def read_tuned(path: Path) -> Tuned:
    """Read the file back.

    Raises:
        ConfigError: it cannot be read, is not such a file, or was written by a newer version.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--tuned {path} cannot be read ({error.strerror}): run `engine bench` first") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--tuned {path} is not TOML ({error}); expected a file that `engine bench` wrote") from error
    point, measured = document.get("tuned"), document.get("measured")
    if not isinstance(point, dict) or not isinstance(measured, dict) or not isinstance(point.get("format"), int):
        raise ConfigError(f"--tuned {path} was not written by `engine bench`: it has no [tuned] table with a format")
    if point["format"] > FORMAT:
        raise ConfigError(
            f"--tuned {path} has format {point['format']}, this version knows {FORMAT}: use the newer version, or run "
            "`engine bench` again"
        )
    try:
        target = point.get("target_p95")
        return Tuned(
            batch_size=_count(point, "batch_size"),
            concurrency=_count(point, "concurrency"),
            max_concurrency=_count(point, "max_concurrency"),
            bucketing=str(point["bucketing"]),
            target_p95_s=None if target is None else float(target),
            docs_per_second=float(measured["docs_per_second"]),
            tokens_per_second=float(measured["tokens_per_second"]),
            tokens_per_document=float(measured["tokens_per_document"]),
            p95_s=float(measured["p95"]),
            fingerprint=Fingerprint.from_dict(_with_nulls(document["fingerprint"])),
            servers=tuple(dict(server) for server in document["servers"]),
            written_at=str(measured["at"]),
            engine_version=str(measured["engine_version"]),
            server=_server(document.get("server")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"--tuned {path} is damaged ({type(error).__name__}: {error}): run `engine bench` again"
        ) from error


def _server(table: dict[str, Any] | None) -> TunedServer | None:
    return None if table is None else TunedServer(backend=str(table["backend"]), flags=str(table["flags"]))


def fleet_changes(tuned: Tuned, fleet: Fleet) -> list[str]:
    """What is different from when the point was found; one phrase each, none for the same fleet."""
    phrases = tuned.fingerprint.differences(fleet.fingerprint)
    then = {server["url"]: server for server in tuned.servers}
    now = {server["url"]: server for server in servers_of(fleet)}
    if len(then) != len(now):
        phrases.append(f"{len(now)} servers are not {len(then)}")
    elif set(then) != set(now):
        phrases.append(
            f"{', '.join(sorted(set(now) - set(then)))} instead of {', '.join(sorted(set(then) - set(now)))}"
        )
    for name in _LIMITS:
        before = sorted({str(server.get(name)) for server in then.values()})
        after = sorted({str(server.get(name)) for server in now.values()})
        if before != after:
            phrases.append(f"{name} {'/'.join(after)} is not {'/'.join(before)}")
    return phrases


def _count(table: dict[str, Any], name: str) -> int:
    value = table[name]
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is {value!r}, expected 1 or more")
    return value


def _with_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """A fingerprint as it was: TOML has no null, so what was None is absent."""
    optional = ("model_sha", "dtype", "pooling", "prompt", "server_version")
    return {**dict.fromkeys(optional), **values}


def _table(head: str, values: dict[str, Any]) -> str:
    lines = [f"{name} = {_toml(value)}" for name, value in values.items() if value is not None]
    return "\n".join([head, *lines]) + "\n"


def _toml(value: Any) -> str:
    """A string, number or boolean; JSON's are TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
