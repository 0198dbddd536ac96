"""What a run says was its bottleneck, with each real one, in small runs and in larger ones.

Nothing here is slow for lack of processor time, and the machine may be as busy as it likes: what was waited for is
named.
"""

from __future__ import annotations

import json

import pytest

from bench.standin import StandinFleet
from tests.crash.job import Job, full_speed, slow_down

TWO = ("--batch-size", "8", "--concurrency", "1")


def documents(n: int) -> list[dict[str, object]]:
    """Short texts, all in the queue."""
    return [{"_id": number, "text": f"tweet number {number}"} for number in range(n)]


def bottleneck(job: Job, *options: str, **environment: str) -> str:
    """The verdict of a run that came to its end."""
    job.options = TWO
    ended = job.run(*options, **environment)
    assert ended.code == 0, ended.err
    verdict = ended.summary["bottleneck"]
    assert isinstance(verdict, str)
    return verdict


@pytest.mark.parametrize(("n", "seconds"), [(160, 0.25), (1_000, 0.04)])
def test_slow_servers_are_named(job: Job, fleet: StandinFleet, n: int, seconds: float) -> None:
    """Also by a run whose documents all fit into the ring: it is empty, but not for lack of documents."""
    job.insert(documents(n))
    slow_down(fleet, seconds)

    assert bottleneck(job).startswith("the embedding servers: documents wait for them")
    full_speed(fleet)


@pytest.mark.parametrize(("n", "milliseconds"), [(600, 8), (1_200, 3)])
def test_a_slow_source_is_named(job: Job, n: int, milliseconds: int) -> None:
    """MongoDB thinks about every document for a while."""
    job.insert(documents(n))
    slow = json.dumps({"$where": f"sleep({milliseconds}) || true"})

    assert bottleneck(job, "--filter", slow).startswith("the source: clients wait for documents")


@pytest.mark.parametrize(
    ("n", "words"), [(100, "the end of the run: every document was embedded"), (1_600, "the writer: clients wait")]
)
def test_a_slow_disk_is_named(job: Job, n: int, words: str) -> None:
    """Few documents all fit into the vector ring, and nobody waits for the writer before the end."""
    job.insert(documents(n))

    slow = "writer/writer.before_row_group=sleep:3"
    verdict = bottleneck(job, "--ring-bytes", "16MiB", "--columns", "lang", ENGINE_FAILPOINTS=slow)

    assert verdict.startswith(words)


def test_a_run_of_a_moment_names_nothing(job: Job) -> None:
    """Two requests are no ground to judge on."""
    job.insert(documents(16))

    verdict = bottleneck(job)

    assert verdict.startswith(
        ("nothing to judge by", "the end of the run")
    )  # the latter on a machine that stands still
