"""Cold on an object store: the real command line, a real mongod, a real S3 server, one oracle."""

from __future__ import annotations

import pytest

from tests.crash.cold_job import ColdJob
from tests.crash.job import tweets

pytestmark = pytest.mark.crash

N = 900


def test_a_run_to_an_object_store_embeds_the_queue_and_the_next_picks_up_what_is_new(cold_job: ColdJob) -> None:
    """G1, G7: every document in exactly one row of one object, marked; nothing is left on hot."""
    cold_job.insert(tweets(N))

    first = cold_job.run()
    cold_job.database[cold_job.collection].insert_many([{"_id": N + n, "text": f"late {n}"} for n in range(50)])
    second = cold_job.run()

    assert first.code == 0, first.err
    assert second.code == 0, second.err
    assert second.summary["embedded"] == 50
    assert len(cold_job.state().commits) > 2
    cold_job.assert_exact()
