"""The judge of the dashboard's and the alerts' expressions: it must be able to say no."""

from __future__ import annotations

import pytest

from tests.parts.promql import found, scraped

SERIES = scraped(
    'a_total{run="r",server="x"} 1\na_total{run="r",server="y"} 1\nb_total{run="r",server="x",kind="k"} 1\n'
    'c_bucket{run="r",le="1"} 1\nd{run="r",phase="running"} 0\n'
)


@pytest.mark.parametrize(
    "expression",
    [
        "rate(a_total[1m]) > 5",
        'sum by (run) (rate(a_total{server=~"x|y"}[1m])) == 0 and on (run) d{phase="running"} == 1',
        "sum by (run, server) (rate(b_total[1m])) / on (run, server) rate(a_total[1m])",
        "histogram_quantile(0.9, sum by (le) (rate(c_bucket[1m])))",
        "time() - d > 3",
    ],
)
def test_an_expression_over_series_that_are_there_finds_them(expression: str) -> None:
    assert found(expression, SERIES)


@pytest.mark.parametrize(
    "expression",
    [
        "rate(a[1m])",
        'a_total{servers="x"}',
        'd{phase="runing"}',
        "a_total / b_total",
        "sum by (run) (a_total) and on (run) nothing",
        "histogram_quantile(0.9, rate(a_total[1m]))",
        "time() - nothing",
    ],
)
def test_a_misspelt_metric_label_or_value_finds_nothing(expression: str) -> None:
    assert not found(expression, SERIES)


@pytest.mark.parametrize("expression", ["sum by (servers) (a_total)", "d / on (run) a_total"])
def test_what_prometheus_would_group_wrongly_or_refuse_is_an_error(expression: str) -> None:
    with pytest.raises(AssertionError):
        found(expression, SERIES)


def test_what_is_no_promql_is_refused() -> None:
    with pytest.raises(ValueError, match=r"."):
        found("sum by (", SERIES)
