"""The crash tests' own tools can fail."""

from __future__ import annotations

import pytest

from tests.crash.job import Job, tweets, wait_until


def test_the_wait_helper_fails_when_nothing_happens() -> None:
    """The tests' own tool can go red."""
    with pytest.raises(AssertionError, match="did not come true"):
        wait_until(lambda: False, 0.05)


@pytest.mark.crash
def test_the_oracle_notices_a_doubled_and_a_lost_document(job: Job) -> None:
    """A crash test that cannot fail is worth nothing: break the guarantee on purpose and see it go red."""
    job.insert(tweets(50))
    assert job.run().code == 0
    job.assert_exact()

    job.database[job.collection].update_one({"_id": 7}, {"$unset": {"embedded": ""}})
    assert job.run().code == 0
    with pytest.raises(AssertionError, match="is in two committed rows"):
        job.assert_exact()

    job.database[job.collection].insert_one({"_id": 1000, "text": "never read", "embedded": True})
    with pytest.raises(AssertionError):
        job.assert_exact()
