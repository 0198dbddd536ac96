"""The measurement of files as a source works; what it measures is for people to judge."""

from __future__ import annotations

import sys

import pytest

from bench.measure import sources
from engine.errors import ConfigError


@pytest.mark.slow
def test_the_engine_is_measured_beside_programs_and_each_says_what_it_guarantees() -> None:
    """Without others here: they live in an environment of their own."""
    found = sources.measure_beside(1_000, (), sys.executable, dim=16)

    assert 0 < found["programs"]["engine"]["seconds"] < found["programs"]["engine"]["wall_s"]
    text = sources.beside_as_text(found)
    assert text.startswith("1,000 rows of 16 dimensions")
    assert "after kill -9 the same command goes on" in text
    with pytest.raises(ConfigError, match="allowed is ray-data, daft"):
        sources.measure_beside(1_000, ("spark",), sys.executable)
    with pytest.raises(ConfigError, match="pip install"):
        sources.run_other("daft", sys.executable, {"urls": [], "source": "", "out": "", "batch_size": 1, "dim": 1})


@pytest.mark.slow
def test_growth_is_shown_by_runs_over_some_documents_and_over_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Private memory of every process by its role, and the bytes of the hot folder."""
    monkeypatch.setattr(sources, "KINDS", {"store": ("parquet", True)})
    for name, value in sources.CREDENTIALS.items():
        monkeypatch.setenv(name, value)

    found = sources.measure_growth(500, factor=2, dim=16)

    assert [(ran["documents"], ran["kind"]) for ran in found["runs"]] == [(500, "store"), (1_000, "store")]
    for ran in found["runs"]:
        assert set(ran["private_mib"]) >= {"reader", "writer", "client-0", "client-1", "supervisor"}
        assert ran["hot_bytes"] > 0
    assert len(sources.growth_as_text(found).splitlines()) == 3
