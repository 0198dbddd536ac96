"""The ledger: framed, torn tails dropped, damage in the middle refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import CommitFailed, DamageError
from engine.ledger import durable
from engine.ledger.log import Ledger, RunState, frame, read_records

COMMIT = {"type": "COMMIT", "shard": "s1", "rows": 7, "file": "s1.parquet", "bytes": 1, "sha256": "x", "epoch": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with four records."""
    path = tmp_path / "ledger"
    ledger = Ledger(path, RunState())
    ledger.append({"type": "EPOCH", "epoch": 1})
    ledger.append(COMMIT)
    ledger.append({"type": "MARKED", "shard": "s1", "matched": 6, "already": 0, "gone": 1})
    ledger.append({**COMMIT, "shard": "s2", "rows": 5})
    ledger.close()
    return path


def test_a_ledger_read_again_amounts_to_the_same(path: Path) -> None:
    """Rows, marks and epoch come back from the file alone."""
    state = Ledger(path, RunState()).state

    assert (state.rows, state.gone, state.epoch) == (12, 1, 1)
    assert [commit["shard"] for commit in state.unmarked()] == ["s2"]


def test_a_torn_last_record_is_dropped_wherever_it_was_cut(path: Path) -> None:
    """A power cut during an append leaves any prefix of the record; the records before it stay."""
    whole = path.read_bytes()
    last = len(frame({**COMMIT, "shard": "s2", "rows": 5}))

    for cut in range(1, last + 1):
        path.write_bytes(whole[: len(whole) - cut])
        ledger = Ledger(path, RunState())
        ledger.append({**COMMIT, "shard": "s3", "rows": 1})
        ledger.close()
        assert set(RunState.of(path).commits) == {"s1", "s3"}, f"cut {cut}"


def test_a_zero_filled_tail_is_dropped(path: Path) -> None:
    """Some file systems extend the size before the data arrive."""
    path.write_bytes(path.read_bytes() + b"\0" * 200)

    assert len(read_records(path)[0]) == 4


def test_a_flipped_bit_before_a_sound_record_is_refused_with_its_offset(path: Path) -> None:
    """Damage in the middle cannot come from a torn append; nothing is guessed and nothing is changed."""
    whole = path.read_bytes()
    first_lines = whole.index(b"MARKED")
    checked = 0
    for position in range(0, first_lines, 3):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(DamageError, match="damaged at byte"):
            Ledger(path, RunState())
        assert path.read_bytes() == flipped
        checked += 1
    assert checked > 30


def test_a_failed_append_leaves_the_ledger_as_it_was(path: Path) -> None:
    """ENOSPC and EIO at every durable call of an append; the next append stands where the failed one would have."""
    for call in ("durable.write", "durable.fsync_file"):
        before = path.read_bytes()
        ledger = Ledger(path, RunState())
        durable.arm("test", f"{call}#1=ENOSPC")
        try:
            with pytest.raises(CommitFailed, match="No space left"):
                ledger.append({**COMMIT, "shard": "bad"})
        finally:
            durable.arm("test", "")
        assert "bad" not in ledger.state.commits
        assert path.read_bytes() == before
        ledger.append({**COMMIT, "shard": f"after-{call}"})
        ledger.close()
        assert f"after-{call}" in RunState.of(path).commits


def test_a_ledger_that_was_removed_takes_no_record(tmp_path: Path) -> None:
    """Writing to the open file would work and be lost; nothing may be marked on the strength of it."""
    ledger = Ledger(tmp_path / "ledger", RunState())
    (tmp_path / "ledger").unlink()

    with pytest.raises(CommitFailed, match="was removed"):
        ledger.append({"type": "EPOCH", "epoch": 1, "at": 0.0})

    assert ledger.state.epoch == 0
    ledger.close()
