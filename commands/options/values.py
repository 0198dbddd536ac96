"""What the texts of options mean: sizes, numbers, lists, and who gave them."""

from __future__ import annotations

import math

import typer

from engine.part import Part

_SIZE_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9}
_SIZE_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "tb": 10**12}


def size(name: str, text: str) -> int:
    """Bytes from `268435456`, `256MiB`, `1GiB` or `500MB`, as option `name` was given.

    Raises:
        typer.BadParameter: not a size.
    """
    compact = str(text).strip().lower().replace(" ", "").replace("_", "")
    digits = compact.rstrip("bkmgti")
    unit = _SIZE_UNITS.get(compact[len(digits) :])
    try:
        value = float(digits)
    except ValueError:
        value = -1.0
    if unit is None or not 0 <= value < math.inf:
        raise typer.BadParameter(f"--{name} is {text!r}; expected a number of bytes, or for example 256MiB")
    return int(value * unit)


def positive(name: str, text: str, expected: str) -> int:
    """The number that option `name` was given, at least 1.

    Raises:
        typer.BadParameter: not such a number; says what was expected.
    """
    if not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(f"--{name} is {text!r}; expected {expected}")
    return int(text)


def concurrency_of(text: str) -> int | None:
    """Requests in flight per server from `--concurrency`; None for `auto`.

    Raises:
        typer.BadParameter: neither.
    """
    return None if text == "auto" else positive("concurrency", text, "auto or a number of at least 1")


def listed(text: str | None) -> tuple[str, ...]:
    """The parts of a comma-separated option."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def retweeted_of(text: str) -> str:
    """What `--retweeted` was given; a TOML file may hold the truth value false, which arrives as `False`."""
    return str(text).strip().lower()


def part_of(text: str | None) -> Part | None:
    """The share of the queue from `--part`, None for the whole.

    Raises:
        ConfigError: no such share.
    """
    return None if text is None else Part.parse(str(text))


def source_of(context: typer.Context, name: str) -> str:
    """Where a parameter's value comes from: COMMANDLINE, ENVIRONMENT, DEFAULT_MAP (the TOML file) or DEFAULT."""
    source = context.get_parameter_source(name)
    return "DEFAULT" if source is None else str(source.name)


def given(context: typer.Context) -> frozenset[str]:
    """Names of the options that a person set in any way; the rest are defaults."""
    return frozenset(name for name in context.params if source_of(context, name) != "DEFAULT")
