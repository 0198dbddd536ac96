"""The files of a recording: bounded, thinned with age, appended to by every run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.recording.recording import read_recording
from engine.errors import ConfigError
from engine.recording.frames import frame, schema_frame
from engine.recording.history import LIMITS_BYTES, MIB, History
from engine.recording.sampling import Sample

SERVERS = {"client-0": "http://a", "client-1": "http://b"}


def sample(at: float, seconds: float = 5.0, **more: float) -> Sample:
    """A sample with ten rows a second, seven of them by the first server."""
    counts = {"rows": 10 * seconds, "client-0.rows": 7 * seconds, "client-1.rows": 3 * seconds}
    return Sample(at=at, seconds=seconds, counts=counts, levels={"machine.load": at % 100, **more})


def fill(folder: Path, n: int, *, first: int = 0, limits: dict[str, int] | None = None) -> None:
    """A run of `n` samples."""
    history = History(folder, limits)
    for index in range(first, first + n):
        history.append(sample(1000.0 + 5 * (index + 1)), SERVERS)
    history.flush(SERVERS)
    history.close()


def test_samples_are_read_back_as_columns_by_server(tmp_path: Path) -> None:
    fill(tmp_path / "history", 10)

    found = read_recording(tmp_path / "history")

    assert found.servers == ["http://a", "http://b"]
    assert found.at.tolist() == [1005.0 + 5 * index for index in range(10)]
    assert found.column("server-0.rows").tolist() == [35.0] * 10
    assert found.column("machine.load").tolist() == [at % 100 for at in found.at]
    assert found.column("nobody.counts.this").tolist() == [0.0] * 10


def test_another_run_appends_and_a_server_keeps_its_column_when_its_role_changes(tmp_path: Path) -> None:
    fill(tmp_path / "history", 3)
    history = History(tmp_path / "history")
    history.append(sample(2000.0), {"client-0": "http://b", "client-1": "http://c"})
    history.close()

    found = read_recording(tmp_path / "history")

    assert found.servers == ["http://a", "http://b", "http://c"]
    assert found.column("server-1.rows").tolist() == [15.0, 15.0, 15.0, 35.0]
    assert found.column("server-0.rows").tolist() == [35.0, 35.0, 35.0, 0.0]


def test_it_stays_within_its_bounds_and_what_is_old_is_there_in_less_detail(tmp_path: Path) -> None:
    limits = {"fine": 4096, "minutes": 4096, "coarse": 16_384, "events": 1024}
    fill(tmp_path / "history", 5000, limits=limits)

    sizes = {path.name: path.stat().st_size for path in (tmp_path / "history").iterdir()}
    found = read_recording(tmp_path / "history")

    assert all(size <= limits[name.removesuffix(".old")] for name, size in sizes.items())
    assert len(found) < 1000
    assert found.seconds[0] == 600.0
    assert found.seconds[-1] == 5.0
    assert float(found.at[-1] - found.begin[0]) == 25_000.0
    lost_s = 25_000.0 - float(found.seconds.sum())  # where one resolution ends and the next begins
    assert 0 <= lost_s < 660.0
    assert set((found.column("rows") / found.seconds).tolist()) == {10.0}


def test_all_of_it_is_at_most_64_mb() -> None:
    assert 2 * sum(LIMITS_BYTES.values()) <= 64 * 10**6
    assert 2 * sum(LIMITS_BYTES.values()) > 32 * MIB


def test_fields_that_come_later_are_missing_before(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.append(sample(1.0), SERVERS)
    history.append(sample(2.0, **{"gpu-0.power": 300.0}), SERVERS)
    history.close()

    column = read_recording(tmp_path / "history").column("gpu-0.power").tolist()

    assert column[0] != column[0]
    assert column[1] == 300.0


def test_a_recording_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "history"
    folder.mkdir()
    body = schema_frame(1, ["rows"], "c", {})[12:].replace(b'"format":1', b'"format":9')
    (folder / "fine").write_bytes(frame(1, body))

    with pytest.raises(ConfigError, match="has format 9, this version knows 1"):
        read_recording(folder)


def test_no_recording_is_said_with_what_to_check(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recording in"):
        read_recording(tmp_path / "history")


@pytest.mark.parametrize("n", [1, 11, 12, 119, 120, 121, 250])
def test_every_resolution_holds_all_of_a_run_that_is_over(tmp_path: Path, n: int) -> None:
    """Also one that ends with a minute, or with ten of them."""
    fill(tmp_path / "history", n)

    for name in ("minutes", "coarse"):
        alone = tmp_path / name
        alone.mkdir()
        (tmp_path / "history" / name).rename(alone / "coarse")
        assert read_recording(alone).column("rows").sum() == 50 * n
