"""Files on an object store as a source: the real command line, a real S3 server, faults on the way, one oracle."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from bench.parts.s3_server import S3Server
from bench.standin import StandinFleet
from tests.crash.files_job import QUARANTINED, text_of
from tests.crash.objects_job import ObjectsJob
from tests.parts.fault_proxy import Fault, FaultProxy

pytestmark = pytest.mark.crash

N = 900
IN_THE_MIDDLE = range(4 << 20, 8 << 20)
"""Where a large file's blocks begin that no look before a run reads."""
ALWAYS = 1 << 30


@pytest.fixture
def job(tmp_path: Path, fleet: StandinFleet, s3: S3Server, proxy: FaultProxy) -> ObjectsJob:
    """A job without files, on two of the servers, and a bucket of its own behind the proxy."""
    bucket = "source-" + tmp_path.name.strip("_").replace("_", "-")[-50:].lower()
    s3.make_bucket(bucket)
    return ObjectsJob(folder=tmp_path, urls=fleet.urls[:2], server=s3, bucket=bucket, endpoint=proxy.endpoint)


def test_objects_of_every_format_are_embedded_and_the_next_run_reads_what_is_new(job: ObjectsJob) -> None:
    """G1, G7, G10: listed, looked at, read by ranges; nothing is written to the bucket."""
    job.fill(N)
    first = job.run()
    assert first.code == QUARANTINED, first.err
    job.assert_exact()
    job.add_jsonl("new/more é%20.ndjson", range(1000, 1040))

    again = job.run()

    assert again.code == QUARANTINED, again.err
    assert (again.summary["embedded"], again.summary["resumed"]) == (40, len(job.texts) - 40)
    job.assert_exact()


@pytest.mark.parametrize("point", ["files.after", "commit.after"])
def test_g6_the_supervisor_killed_at_each_step_goes_on_with_the_rows_of_objects(job: ObjectsJob, point: str) -> None:
    """G1, G2, G6: the catalogue names objects and their versions."""
    job.fill(N)
    job.assert_the_supervisor_may_be_killed(point)


@pytest.mark.parametrize("point", ["reader/reader.page#2", "writer/writer.after_link"])
def test_g6_a_child_killed_at_each_step_loses_and_doubles_no_row_of_objects(job: ObjectsJob, point: str) -> None:
    """A new reader begins with the rows that no commit has."""
    job.fill(N)
    job.assert_a_child_may_be_killed(point)


def test_what_goes_wrong_with_a_range_is_tried_again_and_changes_no_row(job: ObjectsJob, proxy: FaultProxy) -> None:
    """Errors, throttling, cuts before and within the answer, and answers that are wrong once."""
    job.fill(N)
    job.add_large("part-3.jsonl.gz", range(N, N + 900))
    faults = [
        *(Fault(kind=kind, method="GET", path=r"part-3", first_byte=IN_THE_MIDDLE) for kind in ("drop", "cut", "etag")),
        Fault(kind="error", method="GET", path=r"part-3", first_byte=IN_THE_MIDDLE, status=503, times=2),
        Fault(kind="hidden", method="GET", path=r"part-1\.parquet"),
        Fault(kind="error", method="GET", path=r"part-1\.parquet", status=500, times=2),
        Fault(kind="cut", method="GET", path=r"part-0\.jsonl"),
        Fault(kind="delay", method="GET", path=r"part-2", seconds=0.5),
        Fault(kind="error", method="GET", path=r"^/[^/]*$", status=503),  # the listing
    ]
    proxy.faults.extend(faults)

    ended = job.run()

    assert ended.code == QUARANTINED, ended.err
    assert [fault.hits for fault in faults] == [fault.times for fault in faults]
    assert "source_asked_again" in ended.err
    assert ended.summary["restarts"] == 0
    job.assert_exact()


def test_a_store_that_stays_away_ends_the_run_with_a_sentence_and_the_next_one_goes_on(
    job: ObjectsJob, proxy: FaultProxy
) -> None:
    """Exit 6 beyond the budget, with the object's URL; what was committed by then counts."""
    job.add_large("part-3.jsonl.gz", range(900))
    away = Fault(kind="error", method="GET", path=r"part-3", first_byte=IN_THE_MIDDLE, status=503, times=ALWAYS)
    proxy.faults.append(away)

    ended = job.run("--max-outage", "1")

    assert ended.code == 6, ended.err
    assert f"{job.url}/part-3.jsonl.gz" in ended.err
    assert "within 1 s (answer 503 SlowDown): what is committed counts" in ended.err
    proxy.faults.clear()
    again = job.run()
    assert again.code == 0, again.err
    assert again.summary["embedded"] + again.summary["resumed"] == len(job.texts)
    job.assert_exact()


def test_an_object_that_was_replaced_is_refused_by_name_before_and_while_it_is_read(
    job: ObjectsJob, proxy: FaultProxy
) -> None:
    """By its ETag, whatever its size; the same content stored once more is the same object."""
    job.fill(90)
    assert job.run().code == QUARANTINED
    path = job.source / "part-0.jsonl"
    content = path.read_bytes()
    job.server.put(job.bucket, job.key(path.name), content)  # once more: another time, the same ETag
    assert job.run().code == QUARANTINED
    job.server.put(job.bucket, job.key(path.name), content.replace(b"article number 3 ", b"article number 4 "))

    refused = job.run()

    assert refused.code == 2
    assert f"{job.url}/part-0.jsonl has changed" in refused.err
    assert "replaced since" in refused.err
    job.server.put(job.bucket, job.key(path.name), content)
    job.add_large("part-3.jsonl.gz", range(100, 1000))
    job.upload()
    large = job.source / "part-3.jsonl.gz"

    def replace(method: str, path: str, first_byte: int) -> None:
        if method == "GET" and "part-3" in path and first_byte in IN_THE_MIDDLE:
            job.server.put(job.bucket, job.key(large.name), large.read_bytes() + gzip.compress(b""))

    proxy.watch(replace)
    refused = job.run()
    assert refused.code == 2, refused.err
    assert f"{job.url}/part-3.jsonl.gz was replaced while it was read" in refused.err


def test_the_other_commands_read_objects_too(job: ObjectsJob) -> None:
    """Plan, status, search with texts, verify against the source, quarantine, bench."""
    job.fill(90)
    planned = job.call("plan", "--json", "--max-seconds", "2")
    assert planned.code == 0, planned.err
    assert planned.summary["queue"]["documents"] == 90
    assert job.run().code == QUARANTINED

    assert job.call("status", "--json").summary["documents"]["left"] == 0
    (nearest,) = job.call("search", "--text", text_of(3), "--k", "1", "--with-text", "--json").summary
    assert (nearest["_id"], nearest["text"]) == ("part-0.jsonl#3", text_of(3))
    verified = job.call("verify", "--level", "4", "--json")
    assert verified.code == 0, verified.out
    out = str(job.folder / "tuned.toml")
    tuned = job.call("bench", "--json", "--batch-sizes", "8", "--seconds", "0.2", "--max-seconds", "2", "--out", out)
    assert tuned.code in (0, 9), tuned.err
    released = job.call("quarantine", "retry", "--id", "part-0.jsonl#11", "--json")
    assert released.summary["released"] == 1
    again = job.run()
    assert (again.code, again.summary["read"], again.summary["quarantined"]) == (QUARANTINED, 3, 3)
    job.assert_exact()


def test_a_source_and_a_cold_dir_on_one_store_do_not_read_each_other(job: ObjectsJob) -> None:
    """The shards lie beneath the source's own prefix, and are no source; where the store is, the environment says."""
    job.add_jsonl("a.jsonl", range(20))
    for _ in range(2):
        ended = job.run(ENGINE_COLD_DIR=job.url, ENGINE_COLD_ENDPOINT="", AWS_ENDPOINT_URL=job.endpoint)
        assert ended.code == 0, ended.err
    assert (ended.summary["embedded"], ended.summary["resumed"]) == (0, 20)
    assert len(job.server.names(job.bucket, f"{job.key('')}files.articles/shards/")) == 1


def test_a_url_that_cannot_be_read_is_one_sentence_before_anything_is_embedded(
    job: ObjectsJob, proxy: FaultProxy
) -> None:
    """Empty, no such bucket, denied, unreachable, something that is no store."""
    job.source.mkdir()
    for source, endpoint, code, words in (
        (job.url, job.endpoint, 2, "there is no .parquet"),
        ("s3://no-such-bucket-here/x", job.endpoint, 6, "NoSuchBucket"),
        (job.url, "http://127.0.0.1:9", 6, "Connection refused"),
        ("https://user:s3cr3t@host/x.jsonl", job.endpoint, 2, "expected a folder, or s3://"),
    ):
        ended = job.run("--max-outage", "1", ENGINE_SOURCE=source, ENGINE_COLD_ENDPOINT=endpoint)
        assert (ended.code, words in ended.err) == (code, True), ended.err
        assert "Traceback" not in ended.err
        assert "s3cr3t" not in ended.err
    proxy.faults.append(Fault(kind="error", method="GET", path=r"^/[^/]*$", status=403, times=ALWAYS))
    denied = job.run()
    assert (denied.code, "the object store refuses" in denied.err) == (6, True), denied.err
    assert not job.folders.ledger.exists()
