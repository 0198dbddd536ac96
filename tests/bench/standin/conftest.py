"""Servers that the tests of stand-in servers share, module by module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.standin import Dialect, GpuConfig, StandinConfig, StandinFleet
from tests.bench.standin.client import FAST_GPU, PROMPTS
from tests.bench.standin.target import Target


@pytest.fixture(scope="module", params=["canned", "sim"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server without faults, of either kind."""
    config = StandinConfig(
        backend=request.param,
        gpu=FAST_GPU,
        prompts=PROMPTS,
        payload_limit_bytes=200_000,
        max_input_length=64,
    )
    with StandinFleet(config) as fleet:
        yield fleet.urls[0]


@pytest.fixture(scope="module")
def old() -> Iterator[StandinFleet]:
    """A server of the older dialect with few permits, whose GPU needs a noticeable time."""
    config = StandinConfig(
        backend="sim",
        dialect=Dialect.V1_8,
        max_concurrent_requests=4,
        max_input_length=64,
        gpu=GpuConfig(tokens_per_s=1e6, fixed_overhead_s=0.05),
    )
    with StandinFleet(config) as fleet:
        yield fleet


@pytest.fixture(scope="module", params=["canned", "sim"])
def fleet(request: pytest.FixtureRequest) -> Iterator[StandinFleet]:
    """A server for faults, of either kind."""
    with StandinFleet(StandinConfig(backend=request.param, gpu=FAST_GPU)) as running:
        yield running


@pytest.fixture
def target(fleet: StandinFleet) -> Iterator[Target]:
    """The same with its sound answer; all faults end with the test."""
    yield Target(fleet)
    fleet.control(fleet.ports[0], clear_faults=True)
