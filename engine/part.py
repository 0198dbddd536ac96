"""A share of the queue: which of `n` disjoint parts a machine works on (`--part i/n`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.errors import ConfigError

MOST_PARTS = 1000
_FORM = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Part:
    """The share `number` of `count`; its text is `2/3`.

    Attributes:
        number: Which one, from 1.
        count: How many there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read `2/3`.

        Raises:
            ConfigError: no such share.
        """
        found = _FORM.fullmatch(text.strip())
        part = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= part.number <= part.count <= MOST_PARTS:
            raise ConfigError(
                f"--part is {text!r}; expected i/n, the i-th of n shares, such as 1/3, 2/3 and 3/3 on three machines "
                f"(n at most {MOST_PARTS})"
            )
        return part

    def has(self, number: int) -> bool:
        """Whether what is numbered so (any integer) belongs to this share: its remainder by `count` says."""
        return number % self.count == self.number - 1

    @property
    def in_names(self) -> str:
        """How names of shards tell it: `p2of3`."""
        return f"p{self.number}of{self.count}"

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
