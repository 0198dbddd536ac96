"""What a PromQL expression would find among given series: their labels, whatever the values are.

Comparisons let everything pass here: of an alert it is asked whether it could fire at all, that is whether what it
compares exists. A metric, a label or a value of one that is misspelt finds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import promql_parser as promql
from prometheus_client.parser import text_string_to_metric_families

Series = frozenset[tuple[str, str]]
"""The labels of one series; its name is the label `__name__`."""

_OF_SERIES = {"rate", "increase", "avg_over_time", "histogram_quantile"}


def scraped(text: str) -> list[Series]:
    """The series of a scrape in the text format, as Prometheus takes them in."""
    return [
        frozenset({"__name__": sample.name, **sample.labels}.items())
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def found(expression: str, series: list[Series]) -> set[Series]:
    """The labels of what an expression would give, without values.

    Raises:
        ValueError: no PromQL.
    """
    return _found(promql.parse(expression), series)


def metrics_in(expression: str) -> set[str]:
    """Names of the metrics in an expression."""
    return set(re.findall(r"\b(engine_\w+)", expression))


def _found(node: Any, series: list[Series]) -> set[Series]:
    match node:
        case promql.VectorSelector():
            return {one for one in series if _selects(node, dict(one))}
        case promql.MatrixSelector():
            return _found(node.vector_selector, series)
        case promql.ParenExpr() | promql.UnaryExpr():
            return _found(node.expr, series)
        case promql.NumberLiteral():
            return {frozenset()}
        case promql.Call() if node.func.name == "time":
            return {frozenset()}
        case promql.Call() if node.func.name in _OF_SERIES:
            dropped = {"__name__"} | ({"le"} if node.func.name == "histogram_quantile" else set())
            inner = _found(node.args[-1], series)
            if node.func.name == "histogram_quantile":
                inner = {one for one in inner if "le" in dict(one)}
            return {_without(one, dropped) for one in inner}
        case promql.AggregateExpr():
            return _aggregated(node, _found(node.expr, series))
        case promql.BinaryExpr():
            return _joined(node, _found(node.lhs, series), _found(node.rhs, series))
    raise ValueError(f"no rule for {type(node).__name__}: {node}")


def _selects(node: Any, labels: dict[str, str]) -> bool:
    if labels["__name__"] != node.name:
        return False
    return all(_matches(matcher, labels.get(matcher.name, "")) for matcher in node.matchers.matchers)


def _matches(matcher: Any, value: str) -> bool:
    match matcher.op:
        case promql.MatchOp.Equal:
            return bool(value == matcher.value)
        case promql.MatchOp.NotEqual:
            return bool(value != matcher.value)
        case promql.MatchOp.Re:
            return re.fullmatch(matcher.value, value) is not None
    return re.fullmatch(matcher.value, value) is None


def _aggregated(node: Any, inner: set[Series]) -> set[Series]:
    if node.modifier is None:
        return {frozenset()} if inner else set()
    labels = set(node.modifier.labels)
    if node.modifier.type == promql.AggModifierType.By:
        for one in inner:
            assert labels <= dict(one).keys(), f"{node}: {sorted(labels - dict(one).keys())} on none of {dict(one)}"
        return {_only(one, labels) for one in inner}
    return {_without(one, labels | {"__name__"}) for one in inner}


def _joined(node: Any, left: set[Series], right: set[Series]) -> set[Series]:
    scalar: set[Series] = {frozenset()}
    if isinstance(node.rhs, promql.NumberLiteral):
        return left
    if scalar in (left, right):
        return {_without(one, {"__name__"}) for one in (right if left == scalar else left)} if left and right else set()
    matching = node.modifier.matching if node.modifier is not None else None

    def key(one: Series) -> Series:
        if matching is None:
            return _without(one, {"__name__"})
        labels = set(matching.labels)
        is_on = str(matching).startswith("on")
        return _only(one, labels) if is_on else _without(one, labels | {"__name__"})

    keys = {key(one) for one in right}
    cardinality = node.modifier.card if node.modifier is not None else None
    if str(node.op) not in ("and", "or", "unless"):
        assert len(keys) == len(right), f"{node}: several series on the right match one on the left"
        if cardinality in (None, promql.VectorMatchCardinality.OneToOne):
            assert len({key(one) for one in left}) == len(left), f"{node}: several on the left match one on the right"
    return {_without(one, {"__name__"}) for one in left if key(one) in keys}


def _only(one: Series, labels: Iterable[str]) -> Series:
    return frozenset((name, value) for name, value in one if name in labels)


def _without(one: Series, labels: Iterable[str]) -> Series:
    return frozenset((name, value) for name, value in one if name not in labels)
