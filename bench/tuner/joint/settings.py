"""Settings of servers: which flags may be tried with which values, and one choice of them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from engine.errors import ConfigError

MAX_SETTINGS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One flag and the values that may be tried.

    Attributes:
        name: The flag, without hyphens.
        values: Rising when they are numbers, else in the order in which they were given.
    """

    name: str
    values: tuple[str, ...]

    @property
    def is_ordered(self) -> bool:
        """Whether the values are numbers: then the best one is looked for uphill, not everywhere."""
        return all(_is_number(value) for value in self.values)

    @property
    def start(self) -> str:
        """Where to begin: in the middle of numbers, else with the first."""
        return self.values[len(self.values) // 2] if self.is_ordered else self.values[0]


@dataclass(frozen=True, slots=True)
class Setting:
    """One value for every axis, in their order."""

    values: tuple[tuple[str, str], ...]

    def value(self, name: str) -> str:
        """The value of a flag."""
        return dict(self.values)[name]

    def changed(self, name: str, value: str) -> Setting:
        """The same with another value of one flag."""
        return Setting(tuple((key, value if key == name else old) for key, old in self.values))

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.values)


def parse_axes(text: str) -> tuple[Axis, ...]:
    """Read `max-batch-tokens=8192,16384,32768 dtype=float16,float32`.

    Raises:
        ConfigError: not written like that, a flag twice, or far too many settings.
    """
    axes = []
    for word in shlex.split(text):
        name, equals, values = word.lstrip("-").partition("=")
        found = list(dict.fromkeys(value.strip() for value in values.split(",") if value.strip()))
        if not name or not equals or not found:
            raise ConfigError(
                f"--server-flags holds {word!r}; expected FLAG=VALUE,VALUE,... such as max-batch-tokens=8192,16384"
            )
        if all(_is_number(value) for value in found):
            found.sort(key=float)
        axes.append(Axis(name=name, values=tuple(found)))
    names = [axis.name for axis in axes]
    if not axes or len(set(names)) != len(names):
        raise ConfigError(f"--server-flags is {text!r}; name at least one flag, and each flag once")
    if count_settings(tuple(axes)) > MAX_SETTINGS:
        raise ConfigError(f"--server-flags makes {count_settings(tuple(axes)):,} settings; at most {MAX_SETTINGS}")
    return tuple(axes)


def count_settings(axes: tuple[Axis, ...]) -> int:
    """How many settings there are in all."""
    count = 1
    for axis in axes:
        count *= len(axis.values)
    return count


def start_of(axes: tuple[Axis, ...]) -> Setting:
    """The setting that a search begins with."""
    return Setting(tuple((axis.name, axis.start) for axis in axes))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
