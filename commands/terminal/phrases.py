"""Phrases that several commands use in what they say."""

from __future__ import annotations

from collections.abc import Mapping


def by_reason(counts: Mapping[str, int]) -> str:
    """Counts by reason, as in `3 empty, 1 missing`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))
