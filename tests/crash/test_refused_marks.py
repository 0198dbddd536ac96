"""Documents that may not be marked: a validator of the collection refuses the done field on some of them."""

from __future__ import annotations

import pytest

from tests.crash.job import DONE, Job, tweets

pytestmark = pytest.mark.crash

REFUSED = (3, 7, 200, 201)


def refuse(job: Job) -> None:
    """Let the collection's validator refuse the mark on some documents, all of which are there already."""
    rule = {"$or": [{DONE: {"$exists": False}}, {"locked": {"$exists": False}}]}
    job.database[job.collection].update_many({"_id": {"$in": list(REFUSED)}}, {"$set": {"locked": True}})
    job.database.command("collMod", job.collection, validator=rule)


def test_documents_that_may_not_be_marked_are_listed_and_all_others_are_marked(job: Job) -> None:
    """Exit 2 at every start until it is mended, without embedding anything twice; then the same command goes on."""
    job.insert(tweets(300))
    refuse(job)

    first = job.run()
    embedded = set(job.rows())
    second = job.run()
    unchanged = set(job.rows())
    marked = {document["_id"] for document in job.database[job.collection].find({DONE: True})}
    job.database.command("collMod", job.collection, validator={})
    mended = job.run()

    assert (first.code, second.code) == (2, 2), first.err + second.err
    assert f"a validator of {job.database.name}.tweets refuses {DONE}: true" in second.err
    assert "4 documents cannot be marked (_id " in second.err
    for number in REFUSED:
        assert f'"$numberInt": "{number}"' in second.err.replace('":"', '": "')
    assert unchanged == embedded
    assert marked == embedded - set(REFUSED)
    assert mended.code == 0, mended.err
    job.assert_exact()
