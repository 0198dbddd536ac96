"""The files are written once a session, and every reader reads them all in one go."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance import builds, readers
from tests.conformance.doctored import doctored_files
from tests.conformance.kinds import KINDS, Kind, Written, write
from tests.conformance.readers import Reader, Ways
from tests.writers.inline_pool import InlinePool


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Written]:
    """A file of every kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("writers.merge.merge.Pool", InlinePool)
        return {kind: write(kind, tmp_path_factory.mktemp(str(kind))) for kind in KINDS}


@pytest.fixture(scope="session")
def doctored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    """Files with something wrong that a reader has to notice, by what is wrong."""
    return doctored_files(tmp_path_factory.mktemp("doctored"))


@pytest.fixture(scope="session")
def read(files: dict[Kind, Written], doctored: dict[str, Written]) -> Callable[[Reader], dict[Path, Ways]]:
    """What a reader gives for all files; read when the first test asks for it.

    A reader that is not to be had skips its tests and says why; on the machine of continuous integration it fails them.
    """
    everything = [*files.values(), *doctored.values()]
    given: dict[Reader, dict[Path, Ways] | builds.Unavailable] = {}

    def of(reader: Reader) -> dict[Path, Ways]:
        if reader not in given:
            try:
                given[reader] = reader(everything)
            except builds.Unavailable as error:
                given[reader] = error
        found = given[reader]
        if isinstance(found, builds.Unavailable):
            if os.environ.get("CI"):
                pytest.fail(f"{reader.__name__} must not be left out here: {found}")
            pytest.skip(f"{reader.__name__} is left out: {found}")
        return found

    return of


PYTHON_READERS = (readers.pyarrow, readers.duckdb, readers.polars)
BUILT_READERS = (readers.parquet_java, readers.arrow_rs)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every reader for `reader`; those that are built first, for minutes, are `slow`."""
    if "reader" in metafunc.fixturenames:
        slow = [pytest.mark.slow, pytest.mark.timeout(2 * builds.BUILD_SECONDS)]
        parameters = [pytest.param(reader, id=reader.__name__) for reader in PYTHON_READERS]
        parameters += [pytest.param(reader, id=reader.__name__, marks=slow) for reader in BUILT_READERS]
        metafunc.parametrize("reader", parameters)
