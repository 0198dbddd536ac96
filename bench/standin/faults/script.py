"""Scripted faults: what goes wrong, for which requests, and how it is written down.

A fault is a kind, selectors and parameters, written `kind:name=value,name=value` (percent-encode commas, colons or
equals signs inside a value) or as a JSON object `{"kind": "status", "code": 503, "every": 10}`.

Selectors (all that are given must hold; none means every embedding request):

    contains=TEXT       a text of the request contains TEXT
    route=PATH          requests of this path instead of the embedding routes; * means every path
    every=N             each Nth of the requests that are left
    after=N, first=N    skip the first N, then only the next N
    probability=P       each with probability P, drawn from seed=S
    period_s=T, duty=D  only during the first D (0..1) of each T seconds (flapping)
    for_s=T             only for T seconds from when the fault was set
    on=I or on=I+J      only the servers at these positions of the process's ports
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import orjson

from engine.errors import ConfigError

Value = str | int | float | bool | None


_Convert = Callable[[Any], Value]


def _count(value: Any) -> int:
    number = int(value)
    if number < 0:
        raise ValueError("below 0")
    return number


def _positive(value: Any) -> int:
    number = int(value)
    if number < 1:
        raise ValueError("below 1")
    return number


def _seconds(value: Any) -> float:
    number = float(value)
    if not 0 <= number < 1e9:
        raise ValueError("not a number of seconds")
    return number


def _share(value: Any) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError("not in 0..1")
    return number


def _one_of(*choices: str) -> _Convert:
    def convert(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"not one of {', '.join(choices)}")
        return str(value)

    return convert


def _text(value: Any) -> str:
    if not str(value):
        raise ValueError("empty")
    return str(value)


def _header(value: Any) -> str:
    text = str(value)
    text.encode("latin-1")  # raises a ValueError of its own
    if "\r" in text or "\n" in text:
        raise ValueError("a header is one line")
    return text


def _flag(value: Any) -> bool:
    if value in (True, "true", "1"):
        return True
    if value in (False, "false", "0"):
        return False
    raise ValueError("not true or false")


_SELECTORS: Final[dict[str, tuple[_Convert, Value]]] = {
    "contains": (_text, None),
    "route": (_text, None),
    "every": (_positive, 1),
    "after": (_count, 0),
    "first": (_positive, None),
    "probability": (_share, None),
    "seed": (int, 0),
    "period_s": (_seconds, None),
    "duty": (_share, 0.5),
    "for_s": (_seconds, None),
    "on": (_text, None),
}


_BODY = _one_of("auto", "native", "openai", "html", "plain", "empty")


#: kind -> its parameters, each with a converter and its default.
KINDS: Final[dict[str, dict[str, tuple[_Convert, Value]]]] = {
    # answers instead of the right one
    "status": {
        "code": (_positive, 503),
        "body": (_BODY, "auto"),
        "error_type": (_text, None),
        "message": (_text, None),
        "retry_after": (_header, None),
    },
    "poison": {  # needs contains=
        "code": (_positive, 424),
        "body": (_BODY, "auto"),
        "scope": (_one_of("request", "batch"), "request"),
    },
    "dead_gpu": {"health": (_one_of("red", "green"), "red")},
    "html200": {},
    "redirect": {"code": (_positive, 307), "location": (_header, "http://127.0.0.1:1/elsewhere")},
    "huge_body": {"bytes": (_positive, 2_000_000_000), "chunked": (_flag, False)},
    "gzip_bomb": {"bytes": (_positive, 512 * 1024 * 1024)},
    "endless_headers": {"interval_s": (_seconds, 0.02)},
    # time and connection
    "delay": {"s": (_seconds, 1.0)},
    "drip": {"bytes_per_s": (_positive, 1)},
    "slow": {"factor": (float, 50.0)},
    "reset": {
        "at": (_one_of("accept", "request", "headers", "body"), "request"),
        "how": (_one_of("rst", "fin"), "rst"),
    },
    "black_hole": {"at": (_one_of("accept", "request"), "request")},
    "refuse": {"down_s": (_seconds, 5.0)},
    "close": {},  # the connection, right after the answer and without saying so
    "exit": {"code": (_count, 139), "down_s": (_seconds, 5.0)},
    # the right answer, damaged
    "truncated_json": {"share": (_share, 0.5)},
    "content_type": {"value": (_header, "text/plain")},
    "count": {"delta": (int, -1)},
    "dim": {"to": (_count, 767)},
    "value": {
        "value": (_one_of("nan", "inf", "-inf", "1e400", "null", "string"), "nan"),
        "row": (_count, 0),
        "column": (_count, 0),
    },
    "index": {"how": (_one_of("reorder", "duplicate", "missing", "gap"), "reorder")},
    "zero": {},
    "same": {},
    "previous": {},
    "other_model": {},
    "switch_model": {"model_id": (_text, "other/model")},
}


#: Kinds that act when they are set, unless a selector makes them wait for a request.
_AT_ONCE: Final = frozenset({"refuse", "slow", "switch_model"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One checked fault; `params` and `select` hold every value, defaults filled in."""

    kind: str
    params: Mapping[str, Any]
    select: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """Return a parameter."""
        return self.params[name]

    @property
    def at_once(self) -> bool:
        """Return whether the fault acts when it is set, without waiting for a request."""
        waits = ("contains", "first", "probability", "period_s")
        return (
            self.kind in _AT_ONCE
            and self.select["every"] == 1
            and self.select["after"] == 0
            and all(self.select[name] is None for name in waits)
        )

    def is_for(self, position: int) -> bool:
        """Return whether the server at `position` of the ports is meant."""
        on = self.select["on"]
        return on is None or str(position) in on.split("+")


def parse_fault(spec: str | Mapping[str, Any]) -> Fault:
    """Return the fault that `spec` describes.

    Raises:
        ConfigError: unknown kind, unknown name, or a value of the wrong sort.
    """
    if isinstance(spec, str):
        kind, given = _split(spec)
    else:
        given = dict(spec)
        kind = str(given.pop("kind", ""))
    known = KINDS.get(kind)
    if known is None:
        raise ConfigError(f"fault {spec!r}: unknown kind {kind!r}, expected one of {', '.join(sorted(KINDS))}.")
    params = {name: default for name, (_, default) in known.items()}
    select = {name: default for name, (_, default) in _SELECTORS.items()}
    for name, value in given.items():
        into, table = (params, known) if name in known else (select, _SELECTORS)
        if name not in table:
            names = ", ".join([*known, *_SELECTORS])
            raise ConfigError(f"fault {spec!r}: {kind} has no parameter {name!r}, expected one of {names}.")
        try:
            into[name] = table[name][0](value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"fault {spec!r}: {name}={value!r} cannot be used ({error}).") from error
    if kind == "poison" and select["contains"] is None:
        raise ConfigError(f"fault {spec!r}: poison needs contains=TEXT, the text that always fails.")
    return Fault(kind=kind, params=params, select=select)


def for_positions(spec: str, positions: Sequence[int]) -> str | None:
    """Return `spec` for a process that serves only `positions` of a fleet; None when it concerns none of them.

    Raises:
        ConfigError: as `parse_fault`.
    """
    on = parse_fault(spec).select["on"]
    if on is None:
        return spec
    local = [str(at) for at, position in enumerate(positions) if str(position) in on.split("+")]
    if not local:
        return None
    kind, given = _split(spec)
    return orjson.dumps({**given, "kind": kind, "on": "+".join(local)}).decode()


def _split(spec: str) -> tuple[str, dict[str, Any]]:
    if spec.lstrip().startswith("{"):
        try:
            given = orjson.loads(spec)
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"fault {spec!r} is not a JSON object ({error}).") from error
        return str(given.pop("kind", "")), given
    kind, _, rest = spec.partition(":")
    given = {}
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"fault {spec!r}: {part!r} is not name=value.")
        given[name.strip()] = unquote(value)
    return kind.strip(), given
