"""Dotted paths."""

from __future__ import annotations

from readers.batching.paths import MISSING, getter


def test_paths_find_what_is_there_and_enter_no_array() -> None:
    document = {"a": {"b": {"c": 1}, "n": None}, "list": [{"b": 1}]}
    assert getter("a.b.c")(document) == 1
    assert getter("a.n")(document) is None
    assert getter("a")(document) == document["a"]
    for path in ("x", "a.x", "a.b.c.d", "a.n.x", "list.b", "list.0"):
        assert getter(path)(document) is MISSING
