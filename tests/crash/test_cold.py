"""Cold on an object store: the real command line, a real mongod, a real S3 server, one oracle."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time

import pytest

from bench.standin import StandinFleet
from tests.crash.cold_job import ColdJob
from tests.crash.job import TIMEOUT_S, finish, tweets, wait_until
from tests.parts.fault_proxy import Fault, FaultProxy
from writers.settings import HOT_SHARDS

pytestmark = pytest.mark.crash

N = 1800


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


STEPS = ("cold.before_put", "cold.after_put", "cold.after_check")
WRITER = [f"writer/{step}#2" for step in STEPS]
SUPERVISOR = [
    f"supervisor/{step}"
    for step in (
        "commit.before",
        "commit.after",
        "mark.mid",
        "marked.before",
        "cold.before_release",
        "cold.after_release",
    )
]
FIRST = ["writer/writer.after_folder_fsync", "writer/cold.after_put"]
SECOND = [*STEPS, "recovery.before_adopt", "cold.before_release", "cold.after_release"]


@pytest.mark.parametrize("point", WRITER)
def test_g6_a_writer_killed_at_each_step_of_an_upload_loses_nothing(cold_job: ColdJob, point: str) -> None:
    """A shard that is whole on hot is uploaded by the recovery, or found to be there; every document once."""
    cold_job.insert(tweets(N))
    witness = cold_job.folder / "killed"

    ended = cold_job.run(ENGINE_FAILPOINTS=f"{point}=kill_once:{witness}")

    assert ended.code == 0, ended.err
    assert witness.exists(), f"{point} was never reached"
    assert "generation_ended" in ended.err
    cold_job.assert_exact()


@pytest.mark.parametrize("point", SUPERVISOR)
def test_g6_a_supervisor_killed_at_each_step_behind_an_upload_is_continued(cold_job: ColdJob, point: str) -> None:
    """Uploaded and not committed, committed and not marked, marked and still on hot."""
    cold_job.insert(tweets(N))

    killed = cold_job.run(ENGINE_FAILPOINTS=f"{point}=kill")
    again = cold_job.run()

    assert killed.code == -signal.SIGKILL
    assert again.code == 0, again.err
    cold_job.assert_exact()


@pytest.mark.parametrize("second", SECOND)
def test_g6_a_recovery_that_is_killed_at_each_step_of_an_upload_is_recovered_from(
    cold_job: ColdJob, second: str
) -> None:
    """The writer dies with a shard on its way, the recovery on the rest of the way; the next start completes both."""
    cold_job.insert(tweets(N))
    first = "supervisor/commit.after" if "release" in second else "writer/writer.after_folder_fsync"

    killed = cold_job.run(ENGINE_FAILPOINTS=f"{first}=kill;supervisor/recovery.after_epoch#2=kill")
    killed_again = cold_job.run(ENGINE_FAILPOINTS=f"supervisor/{second}=kill")
    again = cold_job.run()

    assert killed.code == killed_again.code == -signal.SIGKILL
    assert again.code == 0, again.err
    cold_job.assert_exact()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="error", status=500),
        Fault(kind="error", status=503, times=3),
        Fault(kind="error", status=409),
        Fault(kind="drop"),
        Fault(kind="error_after", status=500, times=2),
        Fault(kind="error_after", status=503),
        Fault(kind="drop_after"),
        Fault(kind="flip"),
        Fault(kind="error", method="HEAD", status=503, times=2),
        Fault(kind="drop", method="HEAD"),
        Fault(kind="size", method="HEAD"),
        Fault(kind="etag", method="HEAD"),
        Fault(kind="hidden", method="HEAD"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.method}-{fault.status}x{fault.times}",
)
def test_an_upload_whose_end_is_unknown_is_looked_for_before_it_is_done_again(
    cold_job: ColdJob, proxy: FaultProxy, fault: Fault
) -> None:
    """Errors, cuts, lost answers, damaged transfers, answers that are wrong once: exit 0, every document once."""
    proxy.faults.append(dataclasses.replace(fault))
    cold_job.insert(tweets(N))

    ended = cold_job.run()

    assert ended.code == 0, ended.err
    assert proxy.faults[0].hits == fault.times
    assert "generation_ended" not in ended.err
    cold_job.assert_exact()


def test_a_store_that_stays_away_is_exit_5_and_the_next_run_uploads_what_is_sealed(
    cold_job: ColdJob, proxy: FaultProxy
) -> None:
    """Beyond the budget: one sentence with the object's URL; nothing is marked that the store does not have."""
    cold_job.insert(tweets(N))
    proxy.faults.append(Fault(kind="error", status=503, times=1 << 30))

    ended = cold_job.run("--max-outage", "1")
    marked = cold_job.database[cold_job.collection].count_documents({"embedded": True})
    on_hot = [path.name for path in cold_job.folders.shards.glob("*.parquet")]
    proxy.faults.clear()
    again = cold_job.run()

    assert ended.code == 5, ended.err
    assert cold_job.url in ended.err
    assert "503" in ended.err
    assert marked == 0
    assert on_hot
    assert again.code == 0, again.err
    assert set(on_hot) <= cold_job.shard_names()
    cold_job.assert_exact()


def test_a_taken_name_with_other_content_is_exit_4_and_stays_untouched(cold_job: ColdJob, proxy: FaultProxy) -> None:
    """An object that came between: never replaced, named; moved away, the same command goes on."""
    cold_job.insert(tweets(N))
    taken: list[str] = []

    def come_between(method: str, path: str, _: int) -> None:
        if method == "PUT" and path.endswith(".parquet") and not taken:
            taken.append(path.partition("/")[2].partition("/")[2])
            cold_job.server.put(cold_job.bucket, taken[0], b"somebody else's")

    proxy.watch(come_between)
    ended = cold_job.run()
    content = cold_job.server.get(cold_job.bucket, taken[0])
    cold_job.server.delete(cold_job.bucket, taken[0])
    again = cold_job.run()

    assert ended.code == 4, ended.err
    assert taken[0] in ended.err
    assert content == b"somebody else's"
    assert again.code == 0, again.err
    cold_job.assert_exact()


def test_an_object_that_no_ledger_knows_is_adopted_when_it_is_sound_and_set_aside_when_not(cold_job: ColdJob) -> None:
    """A hot disk that lost its newest copies: what the store has of this ledger counts once it was read whole."""
    cold_job.insert(tweets(N))
    assert cold_job.run(ENGINE_FAILPOINTS="supervisor/commit.before#2=kill").code == -signal.SIGKILL
    (committed,) = (commit["file"] for commit in cold_job.state().commits.values())
    unknown = sorted(cold_job.shard_names() - {committed})
    for path in cold_job.folders.shards.glob("*.parquet"):
        if path.name in unknown:
            path.unlink()
    unsound = f"{unknown[0].rpartition('-')[0]}-999999.parquet"
    whole = cold_job.server.get(cold_job.bucket, cold_job.key(unknown[0]))
    cold_job.server.put(cold_job.bucket, cold_job.key(unsound), whole[:-100])

    again = cold_job.run()

    assert again.code == 0, again.err
    assert "shard_adopted" in again.err
    assert f"{unsound}.set-aside" in cold_job.shard_names()
    cold_job.server.delete(cold_job.bucket, cold_job.key(f"{unsound}.set-aside"))
    cold_job.assert_exact()


def test_a_committed_object_that_was_changed_or_is_missing_is_never_marked_from(cold_job: ColdJob) -> None:
    """Exit 4 and its URL; put back, the same command continues."""
    cold_job.insert(tweets(N))
    assert cold_job.run(ENGINE_FAILPOINTS="supervisor/commit.after=kill").code == -signal.SIGKILL
    key = cold_job.key(next(iter(cold_job.state().commits.values()))["file"])
    whole = cold_job.server.get(cold_job.bucket, key)
    cold_job.server.put(cold_job.bucket, key, whole[:-1] + b"?")

    changed = cold_job.run()
    cold_job.server.delete(cold_job.bucket, key)
    missing = cold_job.run()
    marked = cold_job.database[cold_job.collection].count_documents({"embedded": True})
    cold_job.server.put(cold_job.bucket, key, whole)
    again = cold_job.run()

    assert changed.code == missing.code == 4, changed.err + missing.err
    assert key in changed.err
    assert key in missing.err
    assert marked == 0
    assert again.code == 0, again.err
    cold_job.assert_exact()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(kind="error", method="GET", path=r"/bucket[^/]*$", status=403, times=9), "list"),
        (Fault(kind="error", path="preflight", status=403, times=9), "create"),
        (Fault(kind="error", method="POST", path=".", status=403, times=9), "delete"),
        (Fault(kind="flip", path="preflight"), "read back"),
        (Fault(kind="error", method="GET", path=r"/bucket[^/]*$", status=500, times=1 << 30), "list"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_a_store_that_cannot_do_what_is_needed_is_one_sentence_before_anything_is_embedded(
    cold_job: ColdJob, proxy: FaultProxy, fleet: StandinFleet, fault: Fault, said: str
) -> None:
    """Exit 5, which act it is, no document read."""
    cold_job.insert(tweets(20))
    proxy.faults.append(dataclasses.replace(fault))

    refused = cold_job.run("--max-outage", "0.5")

    assert refused.code == 5, refused.err
    assert f"cannot do what is needed there: {said}" in refused.err
    assert refused.summary["read"] == 0
    assert not cold_job.folders.ledger.exists()
    proxy.faults.clear()
    assert cold_job.run().code == 0
    cold_job.assert_exact()


@pytest.mark.parametrize(
    "url",
    [
        "s3://no-such-bucket/x",
        "s3://{bucket}?x=1",
        "s3://user:s3cr3t-marker@{bucket}/x",
        "ftp://somewhere/x",
        "s3:///x",
    ],
)
def test_a_url_that_cannot_be_cold_is_refused_in_one_sentence(cold_job: ColdJob, url: str) -> None:
    """No traceback, no password, exit 2 for the URL and 5 for the store."""
    cold_job.insert(tweets(20))

    refused = cold_job.run("--cold-dir", url.format(bucket=cold_job.bucket), "--max-outage", "0.5")

    assert refused.code == (5 if "no-such" in url else 2), refused.err
    assert refused.err.count("\n") <= 3


def test_documents_are_not_marked_and_the_store_says_what_is_done(cold_job: ColdJob) -> None:
    """`--no-mark`: the copy on hot goes after the COMMIT, and the next run reads the ids from the store."""
    cold_job.insert(tweets(300))

    first = cold_job.run("--no-mark", "--limit", "100")
    second = cold_job.run("--no-mark")

    assert first.code == 8, first.err
    assert second.code == 0, second.err
    cold_job.assert_exact(marked=False)


def test_g5_whole_shards_on_hot_are_bounded_while_the_store_is_slow(cold_job: ColdJob, proxy: FaultProxy) -> None:
    """The writer is held when eight full shards lie there, and goes on when one is settled."""
    cold_job.insert(tweets(12_000))
    gate = threading.Event()
    proxy.watch(lambda method, path, _: gate.wait(TIMEOUT_S) if (method, path[-8:]) == ("PUT", ".parquet") else None)
    bound = HOT_SHARDS * (64 << 10)

    def on_hot() -> int:
        return sum(path.stat().st_size for path in cold_job.folders.shards.glob("*.parquet"))

    process = cold_job.start_run()
    try:
        wait_until(lambda: on_hot() >= bound, what="the bound", process=process)
        time.sleep(0.5)  # it would begin another one at once
        held, open_ones = on_hot(), list(cold_job.folders.shards.glob("*.inprogress"))
    finally:
        gate.set()
    ended = finish(process)

    assert ended.code == 0, ended.err
    assert held < bound + max(commit["bytes"] for commit in cold_job.state().commits.values())
    assert not open_ones
    cold_job.assert_exact()
