"""What may go wrong in a round of chaos, drawn from one seed: documents, servers, file systems, kills."""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bson import Binary, Decimal128, ObjectId

POISON = "zzpoisonzz"
STATUSES = (300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 405, 408, 409, 410, 413, 414, 415, 418, 422)
STATUSES += (424, 429, 451, 499, 500, 501, 502, 503, 504, 505, 507, 511, 520, 522, 524, 530, 599)
_WORDS = (
    "rain",
    "na\u00efve",
    "\u6771\u4eac",
    "\U0001f600",
    "\u0627\u0644",
    "a\u0301",
    "\u200b",
    "\x07",
    "<script>",
    "\\",
    '"',
    "%00",
)
_ID_KINDS: dict[str, Callable[[random.Random, int], Any]] = {
    "int": lambda _, number: number - 40,
    "large": lambda _, number: (1 << 62) + number,
    "str": lambda draw, number: f"{number}-{draw.choice(_WORDS)}",
    "objectid": lambda _, number: ObjectId(f"{number:024x}"),
    "uuid": lambda draw, _: Binary.from_uuid(uuid.UUID(int=draw.getrandbits(128))),
    "date": lambda _, number: datetime.datetime.fromtimestamp(1_700_000_000 + number / 1000, datetime.timezone.utc),
    "decimal": lambda _, number: Decimal128(f"{number}.5"),
    "document": lambda draw, number: {"n": number, "of": draw.choice(_WORDS[:4])},
    "float": lambda _, number: number + 0.25,
    "mixed": lambda draw, number: draw.choice([number, f"s{number}", ObjectId(f"{number:024x}"), number + 0.5]),
}
_COLLECTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"capped": True, "size": 16 << 20}, ()),
    ({"collation": {"locale": "en", "strength": 1}}, ()),
    ({"collation": {"locale": "sv", "strength": 3, "numericOrdering": True}}, ("--scan", "id")),
    ({"clusteredIndex": {"key": {"_id": 1}, "unique": True}}, ("--scan", "id")),
    ({"viewOn": "base", "pipeline": []}, ()),
]
"""How a collection may be made, and what a run on it has to say."""
DIALECTS = ("vLLM", "Infinity", "Ollama", "LM Studio", "LocalAI", "Gemini")
_UNUSABLE: tuple[Any, ...] = ("", " \n\t", None, 7, ["x"], {"a": "x"})


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One thing that goes wrong while the command runs.

    Attributes:
        kind: For the count at the end.
        faults: Of the stand-in servers.
        failpoints: Of the command's own processes.
        kill: What is killed, or None: `group`, `supervisor`, `child`, `stop`, `term`, `mongod`.
        after_s: When.
        only_texts: Whether it concerns single texts only: a run must settle them all by itself.
    """

    kind: str
    faults: tuple[str, ...] = ()
    failpoints: tuple[str, ...] = ()
    kill: str | None = None
    after_s: float = 0.0
    only_texts: bool = False


@dataclass(kw_only=True)
class Round:
    """Everything about one round that the seed decides.

    Attributes:
        documents: Of the collection.
        unusable: The ids of those without a text that could be embedded.
        options: Of the command.
        attempts: The troubles of each run; a last run without any follows.
        disk: Refusals of the file system for the whole round; None for a plain folder.
        collection: How the collection is made: arguments of `create_collection`.
        refused: Whether no run can read such a collection.
        dialect: The product whose manners the servers have (`tests.parts.manners.KNOWN`); None for TEI's.
        merge_failpoints: For the first merge, which may fail then.
    """

    name: str
    documents: list[dict[str, Any]]
    unusable: list[Any]
    options: tuple[str, ...]
    attempts: list[list[Trouble]] = field(default_factory=list)
    disk: tuple[str, ...] | None = None
    mark: bool = True
    merge: bool = False
    collection: dict[str, Any] = field(default_factory=dict)
    refused: bool = False
    dialect: str | None = None
    merge_failpoints: str = ""


def draw_round(seed: int, number: int) -> Round:
    """The round of a number: always the same for the same seed."""
    draw = random.Random(f"{seed}/{number}")
    documents, unusable = _documents(draw)
    options = [
        "--shard-bytes",
        draw.choice(["64KiB", "96KiB", "1MiB"]),
        "--batch-size",
        str(draw.choice([1, 3, 8, 32])),
    ]
    options += ["--shard-seconds", draw.choice(["0.3", "1", "5"]), "--concurrency", draw.choice(["auto", "1", "4"])]
    options += ["--dedup"] if draw.random() < 0.3 else []
    options += ["--bucketing", draw.choice(["auto", "on", "off"])]
    mark = draw.random() < 0.85
    options += [] if mark else ["--no-mark"]
    made, more = draw.choice(_COLLECTIONS) if draw.random() < 0.3 else ({}, ())
    options += more
    dialect = draw.choice(DIALECTS) if draw.random() < 0.2 else None
    troubles = _TROUBLES if dialect is None else _TROUBLES_OF_ANY_SERVER
    disks = [("LINK=EPERM",), ("LINK=ENOSYS", "FSYNCDIR=EINVAL"), ("FALLOCATE=EOPNOTSUPP",)]
    disks += [("LINK=EOPNOTSUPP", "FALLOCATE=ENOSYS"), ("FSYNCDIR=EINVAL",)]
    return Round(
        name=f"{seed}/{number}",
        documents=documents,
        unusable=unusable,
        options=tuple(options),
        attempts=[[draw.choice(troubles)(draw) for _ in range(draw.randint(1, 2))] for _ in range(draw.randint(1, 2))],
        disk=draw.choice(disks) if draw.random() < 0.2 else None,
        mark=mark,
        merge=draw.random() < 0.3,
        collection=made,
        refused="viewOn" in made,
        dialect=dialect,
        merge_failpoints=_of_merge(draw) if draw.random() < 0.6 else "",
    )


def _documents(draw: random.Random) -> tuple[list[dict[str, Any]], list[Any]]:
    id_kind = draw.choice(list(_ID_KINDS))
    identity = _ID_KINDS[id_kind]
    documents, unusable = [], []
    for number in range(draw.choice([20, 150, 400, 900])):
        document: dict[str, Any] = {"_id": identity(draw, number), "text": _text(draw, number)}
        if draw.random() < 0.3:
            document["lang"] = draw.choice(["en", "de", "", None, 5])
        chance = draw.random()
        if number and chance < 0.02:  # the first is sound: a collection without any text is refused, and rightly
            document["text"] = draw.choice(_UNUSABLE)
            unusable.append(document["_id"])
        elif number and chance < 0.03:
            del document["text"]
            unusable.append(document["_id"])
        elif chance < 0.08:
            document["retweeted"] = {"of": number}
        documents.append(document)
    order = documents[1:]
    draw.shuffle(order)
    return documents[:1] + order, unusable


def _text(draw: random.Random, number: int) -> str:
    words = [draw.choice(_WORDS) for _ in range(draw.choice([0, 1, 3, 60]))]
    poison = [POISON] if draw.random() < 0.01 else []
    return " ".join([f"text {number if draw.random() < 0.9 else 0}", *words, *poison])


def _poison(draw: random.Random) -> Trouble:
    """Some texts that no server takes, whatever they are sent with."""
    code = draw.choice(STATUSES)
    body = draw.choice(["auto", "html", "plain", "empty"])
    fault = f"poison:contains={POISON},code={code},body={body}"
    return Trouble(kind=f"poison {code}", faults=(fault,), only_texts=True)


def _servers(draw: random.Random) -> Trouble:
    """Servers that are ill in some of their answers, one of them or all."""
    share = draw.choice([0.02, 0.1, 0.4])
    chosen = f"probability={share},seed={draw.randrange(1000)}"
    on = draw.choice(["", ",on=0"])
    kinds = [
        f"status:code={draw.choice(STATUSES)},body={draw.choice(['auto', 'html', 'empty'])},{chosen}",
        f"delay:s=0.5,{chosen}",
        f"reset:at={draw.choice(['accept', 'request', 'headers', 'body'])},how={draw.choice(['rst', 'fin'])},{chosen}",
        f"truncated_json:{chosen}",
        f"count:delta={draw.choice([-1, 1])},{chosen}",
        f"dim:to={draw.choice([0, 1, 23, 25])},{chosen}",
        f"value:value={draw.choice(['nan', 'inf', '1e400', 'null', 'string'])},{chosen}",
        f"zero:{chosen}",
        f"html200:{chosen}",
        f"content_type:value=text/plain,{chosen}",
        f"close:{chosen}",
        f"refuse:down_s=1,{chosen}",
    ]
    fault = draw.choice(kinds)
    return Trouble(kind=f"server {fault.partition(':')[0]}", faults=(fault + on,))


def _device(draw: random.Random) -> Trouble:
    """A call to the device that fails once."""
    role = draw.choice(["writer", "writer", "supervisor"])
    calls = ["write", "fsync_file"] + (["link", "fsync_folder", "create", "unlink"] if role == "writer" else [])
    call, error = draw.choice(calls), draw.choice(["ENOSPC", "EIO", "EDQUOT", "EROFS"])
    return Trouble(kind=f"device {call}", failpoints=(f"{role}/durable.{call}#{draw.randint(1, 6)}={error}",))


def _kill(draw: random.Random) -> Trouble:
    """A signal at any moment from the start of the interpreter on."""
    kill = draw.choice(["group", "supervisor", "child", "child", "stop", "term"])
    return Trouble(
        kind=f"kill {kill}", kill=kill, after_s=draw.choice([0.3, 1.0, 1.5, 2.0, 3.0]) * draw.uniform(0.8, 1.6)
    )


def _mongod(draw: random.Random) -> Trouble:
    """MongoDB is killed as by a power cut, and comes back after a while."""
    return Trouble(kind="kill mongod", kill="mongod", after_s=draw.choice([0.5, 1.5, 2.5]) * draw.uniform(0.8, 1.6))


def _of_merge(draw: random.Random) -> str:
    """A call to the device that fails, or kills, while the shards are merged."""
    role = draw.choice(["merge", "merge-worker"])
    call = draw.choice(["write", "fsync_file", "fsync_folder", "link", "create", "unlink", "rename"])
    return f"{role}/durable.{call}#{draw.randint(1, 5)}={draw.choice(['ENOSPC', 'EIO', 'EROFS', 'kill'])}"


_TROUBLES_OF_ANY_SERVER: list[Callable[[random.Random], Trouble]] = [_device, _kill, _kill, _mongod]
_TROUBLES = [_poison, _poison, _servers, _servers, *_TROUBLES_OF_ANY_SERVER]
