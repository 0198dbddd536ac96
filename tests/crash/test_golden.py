"""State of earlier versions stays readable, state of later ones is refused in one sentence (tests/golden)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.ledger.log import FORMAT, frame, read_records
from tests.crash.job import DONE, Job, tweets

pytestmark = pytest.mark.crash

GOLDEN = Path(__file__).parent.parent / "golden"


def put_back(job: Job, name: str) -> None:
    """The folders and the collection as they were when that version stopped."""
    shutil.copytree(GOLDEN / name / "hot", job.folders.hot)
    shutil.copytree(GOLDEN / name / "shards", job.folders.shards)
    shutil.copytree(GOLDEN / name / "consolidated", job.folders.consolidated)
    documents = tweets(40)
    documents[2]["text"], documents[8]["text"] = "", 7
    job.insert(documents)
    job.database[job.collection].update_many({"_id": {"$in": list(job.rows())}}, {"$set": {DONE: True}})


def test_every_format_so_far_has_its_sample() -> None:
    """A new format comes with a sample of it, and keeps those of the old ones."""
    names = {path.name for path in GOLDEN.iterdir() if path.is_dir()}

    assert names == {f"format-{number}" for number in range(1, FORMAT + 1)}


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()))
def test_state_of_an_earlier_version_is_continued(job: Job, name: str) -> None:
    """Looked at, continued without a document twice, merged and proved, all by this version."""
    put_back(job, name)

    status = job.call("status", "--json")
    ended = job.run("--columns", "lang")
    merged = job.call("merge", "--json")
    proved = job.call("verify", "--level", "4", "--json")

    assert status.summary["documents"]["committed"] == 18, status.err
    assert status.summary["quarantine"]["documents"] == 2
    assert ended.code == 3, ended.err
    assert ended.summary["resumed"] == 18
    assert merged.code == 0, merged.err
    assert proved.code == 0, proved.out + proved.err
    job.assert_exact(quarantined={2: "empty", 8: "not_text"})


@pytest.mark.parametrize("command", [("run",), ("status",), ("merge",), ("verify",)])
def test_state_of_a_later_version_is_refused_and_left_alone(job: Job, command: tuple[str, ...]) -> None:
    """Exit 2: which file, which format, what to do."""
    put_back(job, "format-1")
    records, _ = read_records(job.folders.ledger)
    records[0]["format"] = FORMAT + 1
    later = b"".join(map(frame, records)) + b"a torn tail"
    job.folders.ledger.write_bytes(later)

    refused = job.call(*command)

    assert refused.code == 2, refused.err
    sentence = f"the ledger {job.folders.ledger} has format {FORMAT + 1}, this version knows {FORMAT}: use the newer"
    assert sentence in refused.err
    assert len(refused.err.splitlines()) == 1
    assert job.folders.ledger.read_bytes() == later


def test_a_merge_of_a_later_version_is_refused(job: Job) -> None:
    """A merge's ledger carries a format, too."""
    put_back(job, "format-1")
    ledger = job.folders.consolidated / ".merge-ledger"
    records, _ = read_records(ledger)
    records[0]["format"] = FORMAT + 1
    ledger.write_bytes(b"".join(map(frame, records)))

    refused = job.call("merge")

    assert refused.code == 2, refused.err
    assert f"the ledger {ledger} has format {FORMAT + 1}" in refused.err
