"""Files as a source, killed anywhere: the same steps, the same command again, the same oracle as with MongoDB."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.standin import StandinFleet
from tests.crash.files_job import QUARANTINED, FilesJob, text_of
from tests.crash.job import SLOW, finish, full_speed, roles, slow_down, wait_for_commit

pytestmark = pytest.mark.crash

N = 900


@pytest.fixture
def job(tmp_path: Path, fleet: StandinFleet) -> FilesJob:
    """A job without files, on two of the servers."""
    return FilesJob(folder=tmp_path, urls=fleet.urls[:2])


@pytest.mark.parametrize(
    "point",
    ["files.before", "files.after", "recovery.after_epoch", "commit.before", "commit.after"],
)
def test_g6_the_supervisor_killed_at_each_step_goes_on_with_the_rows_that_are_missing(
    job: FilesJob, point: str
) -> None:
    """G1, G2, G6: the ledger alone says which rows are done."""
    job.fill(N)
    job.assert_the_supervisor_may_be_killed(point)


@pytest.mark.parametrize(
    "point",
    [
        "reader/reader.page",
        "reader/reader.slot_filled#20",
        "client/client.answered#5",
        "writer/writer.before_row_group#2",
        "writer/writer.after_close",
        "writer/writer.after_fsync",
        "writer/writer.after_link",
        "writer/writer.after_folder_fsync",
    ],
)
def test_g6_a_child_killed_at_each_step_loses_and_doubles_no_row(job: FilesJob, point: str) -> None:
    """A shard that has its name and no COMMIT is adopted with the rows that its footer names."""
    job.fill(N)
    job.assert_a_child_may_be_killed(point)


def test_g6_one_process_or_all_killed_at_random_times_leave_every_row_once(job: FilesJob, fleet: StandinFleet) -> None:
    """The seed is printed; every start is the same command. SOAK_ROUNDS=1000 makes a night of it."""
    rounds = int(os.environ.get("SOAK_ROUNDS", "5"))
    seed = int(os.environ.get("SOAK_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"SOAK_SEED={seed}")
    rng = random.Random(seed)
    job.options = SLOW
    slow_down(fleet)
    job.fill(450 * rounds)
    for _ in range(rounds):
        process = job.start_run()
        victim = rng.choice(("group", "supervisor", "reader", "client-0", "writer"))
        deadline = time.monotonic() + rng.uniform(0.5, 4.0)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        pid = process.pid if victim == "supervisor" else roles(process).get(victim)
        if pid is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + rng.uniform(0.0, 2.0)
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        finish(process)
    full_speed(fleet)

    last = job.run()

    assert last.code == QUARANTINED, last.err
    job.assert_exact()


def test_the_oracle_of_files_notices_a_doubled_and_a_lost_row(job: FilesJob) -> None:
    """Without it no test of this file would say anything."""
    job.fill(90)
    assert job.run().code == QUARANTINED
    job.assert_exact()
    name = next(iter(job.texts))
    text = job.texts.pop(name)
    with pytest.raises(AssertionError):
        job.assert_exact()
    job.texts[name] = text
    ledger = job.folders.ledger.read_bytes()
    commit = next(line for line in ledger.splitlines(keepends=True) if b'"COMMIT"' in line)
    shard = job.state().commits.popitem()[1]["file"]
    again = job.folders.shards / f"{shard.removesuffix('.parquet')}x.parquet"
    again.write_bytes((job.folders.shards / shard).read_bytes())
    body = commit[18:-1].replace(shard.removesuffix(".parquet").encode(), again.stem.encode())
    job.folders.ledger.write_bytes(ledger + b"%08x %08x %b\n" % (len(body), zlib.crc32(body), body))
    with pytest.raises(AssertionError, match="two committed rows"):
        job.assert_exact()
    doubled = job.run()
    assert doubled.code == 1
    assert "of the source is in two committed rows" in doubled.err


def test_new_files_are_read_by_the_next_run_and_nothing_else(job: FilesJob) -> None:
    """Also in a folder that was not there before; the source itself is left as it was."""
    job.fill(90)
    before = {path: path.stat().st_mtime_ns for path in job.source.rglob("*")}
    assert job.run().code == QUARANTINED
    assert {path: path.stat().st_mtime_ns for path in job.source.rglob("*")} == before
    job.add_jsonl("new/more.ndjson", range(1000, 1040))
    job.add_parquet("a-first.parquet", range(2000, 2030))

    again = job.run()

    assert (again.summary["embedded"], again.summary["resumed"]) == (70, len(job.texts) - 70)
    job.assert_exact()


def test_a_file_that_has_changed_is_refused_by_name_before_anything_is_embedded(job: FilesJob) -> None:
    """Its rows may no longer be those that were embedded; with another --name it is another data set."""
    job.fill(90)
    assert job.run().code == QUARANTINED
    path = job.source / "part-0.jsonl"
    content, stat = path.read_text(), path.stat()
    before = (job.folders.ledger.read_bytes(), sorted(job.folders.shards.iterdir()))

    for changed, mtime_ns in (
        (content + '{"text": "one more"}\n', stat.st_mtime_ns + 1),
        (content, stat.st_mtime_ns + 1),
        (content.replace("article number 3 ", "article number 4 "), stat.st_mtime_ns),
    ):
        path.write_text(changed)
        os.utime(path, ns=(stat.st_atime_ns, mtime_ns))
        refused = job.run()
        assert refused.code == 2
        assert str(path) in refused.err
    path.write_text(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    renamed = path.rename(path.with_name("other.jsonl"))
    refused = job.run()
    assert refused.code == 2
    assert f"{renamed} is part-0.jsonl under another name" in refused.err
    assert (job.folders.ledger.read_bytes(), sorted(job.folders.shards.iterdir())) == before
    assert job.run("--name", "afresh").code == QUARANTINED


def test_a_file_that_is_gone_keeps_its_rows_and_another_folder_is_refused(job: FilesJob) -> None:
    """Files may be archived once they are embedded; a mistyped folder must not begin all over under the same name."""
    job.fill(90)
    assert job.run().code == QUARANTINED
    n_rows = len(job.rows())
    (job.source / "deep" / "part-1.parquet").unlink()

    again = job.run()
    assert again.code == QUARANTINED, again.err
    assert (again.summary["embedded"], len(job.rows())) == (0, n_rows)

    elsewhere = job.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.jsonl").write_text('{"text": "some text"}\n')
    refused = job.run("--source", str(elsewhere), "--name", "articles")
    assert refused.code == 2
    assert "none of the 3 files of this data set" in refused.err


def test_a_clean_stop_and_a_limit_go_on_where_they_ended(job: FilesJob, fleet: StandinFleet) -> None:
    """Ctrl-C midway: what was read is embedded, sealed and known; a limit says that work is left."""
    job.fill(N)
    limited = job.run("--limit", "100")
    assert limited.code == 8
    assert limited.summary["read"] == 100
    job.options = SLOW
    slow_down(fleet)
    process = job.start_run()
    wait_for_commit(job, process, n_shards=len(job.state().commits) + 1)  # type: ignore[arg-type]
    process.send_signal(signal.SIGINT)
    full_speed(fleet)
    assert finish(process).code == 130

    job.options = ("--shard-bytes", "64KiB", "--batch-size", "8")
    assert job.run().code == QUARANTINED
    job.assert_exact()


def test_a_text_that_no_server_takes_goes_into_quarantine_under_its_row(job: FilesJob, fleet: StandinFleet) -> None:
    """The clients know rows by their positions only; people see the file and the row, also with an id field."""
    job.add_jsonl("a.jsonl", range(200))
    path = job.source / "a.jsonl"
    path.write_text(path.read_text().replace(text_of(33), "this one is POISON for all"))
    for port in fleet.ports:
        fleet.control(port, faults=["poison:contains=POISON,code=424"])

    for _ in range(2):
        ended = job.run("--id-field", "id")
        assert ended.code == QUARANTINED, ended.err
        assert list(job.quarantined()) == ["a.jsonl#33"]
        assert set(job.rows()) == set(range(200)) - {33}

    for port in fleet.ports:
        fleet.control(port, clear_faults=True)
    assert job.call("quarantine", "retry", "--json").summary == {"released": 1}
    assert job.run("--id-field", "id").code == 0
    assert set(job.rows()) == set(range(200))


def test_rows_with_one_id_are_all_embedded_and_verify_names_them(job: FilesJob) -> None:
    """An id field does not make a row: each row of the files is a document (docs/files.md)."""
    job.add_jsonl("a.jsonl", range(20))
    job.add_jsonl("b.jsonl", range(15, 30))

    ended = job.run("--id-field", "id", "--columns", "id")

    assert ended.code == 0, ended.err
    assert ended.summary["embedded"] == 35
    ids = [
        value
        for commit in job.state().commits.values()
        for value in pq.read_table(job.folders.shards / commit["file"]).column("_id").to_pylist()
    ]
    assert sorted(ids) == sorted([*range(20), *range(15, 30)])
    again = job.run("--id-field", "id", "--columns", "id")
    assert (again.code, again.summary["embedded"], again.summary["resumed"]) == (0, 0, 35)
    verified = job.call("verify", "--level", "4", "--id-field", "id", "--json")
    assert verified.code == 4
    assert verified.summary["findings"]["duplicate"]["count"] == 5
    assert list(verified.summary["findings"]) == ["duplicate"]
    assert job.call("merge", "--name", "articles", ENGINE_SOURCE="").code == 4
    merged = job.call("merge", "--name", "articles", "--on-duplicate", "latest", "--json", ENGINE_SOURCE="")
    assert merged.code == 0, merged.err


def test_the_other_commands_know_a_data_set_of_files(job: FilesJob) -> None:
    """Status, quarantine, plan and verify: by the source's folder or by its name."""
    job.fill(90)
    planned = job.call("plan", "--json", "--max-seconds", "2")
    assert planned.code == 0, planned.err
    assert planned.summary["queue"]["documents"] == 90
    assert not job.folders.hot.exists()
    assert job.run().code == QUARANTINED

    status = job.call("status", "--json").summary
    assert status["documents"]["committed"] == len(job.texts)
    assert status["documents"]["left"] == 0
    assert status["documents"]["unmarked_shards"] == 0
    assert status["quarantine"]["documents"] == len(job.broken)
    listed = job.call("quarantine", "list", "--name", "articles", "--json", ENGINE_SOURCE="")
    assert {entry["_id"] for entry in listed.summary} == set(job.broken)
    assert job.call("plan", "--json").summary["documents"] == 0
    (nearest,) = job.call("search", "--text", text_of(3), "--k", "1", "--with-text", "--json").summary
    assert (nearest["_id"], nearest["text"]) == ("part-0.jsonl#3", text_of(3))
    verified = job.call("verify", "--level", "4", "--json")
    assert verified.code == 0, verified.out

    released = job.call("quarantine", "retry", "--id", "part-0.jsonl#11", "--json")
    assert released.summary["released"] == 1
    again = job.run()
    assert (again.code, again.summary["read"], again.summary["quarantined"]) == (QUARANTINED, 3, 3)
    job.assert_exact()


def test_merged_shards_of_files_may_go_for_the_ledger_knows_their_rows(job: FilesJob) -> None:
    job.fill(90)
    assert job.run().code == QUARANTINED
    n_shards = len(list(job.folders.shards.glob("*.parquet")))
    merged = job.call("merge", "--name", "articles", "--delete-sources", "--json", ENGINE_SOURCE="")
    assert merged.code == 0, merged.err
    assert (merged.summary["sources_removed"], merged.summary["sources_kept"]) == (n_shards, 0)
    assert not list(job.folders.shards.glob("*.parquet"))
    again = job.run()
    assert again.summary["embedded"] == 0, "what was merged is not embedded again"
    verified = job.call("verify", "--level", "4", "--json")
    assert verified.code == 0, verified.out


def test_verify_names_a_row_that_is_no_row_of_the_files(job: FilesJob) -> None:
    """Level 4 reads the source: a row that the ledger does not have at its place is a difference."""
    job.fill(90)
    assert job.run().code == QUARANTINED
    (job.source / "part-2.csv.gz").unlink()  # its rows' documents are gone, which is no difference
    report = job.call("verify", "--level", "4", "--json")
    assert (report.code, report.summary["gone"]) == (0, 30)
    lines = job.folders.ledger.read_bytes().splitlines(keepends=True)
    job.folders.ledger.write_bytes(b"".join(line for line in lines if b'"FILES"' not in line))
    assert job.call("verify", "--level", "4", "--json").code == 4


def test_a_run_over_mongodb_and_one_over_files_never_share_a_ledger(job: FilesJob) -> None:
    """The database `files` is a name as any other."""
    job.fill(30)
    assert job.run().code == QUARANTINED
    other = job.run("--source", str(job.source), "--id-field", "id")
    assert other.code == 2
    assert "--id-field is id, but the data set" in other.err


def test_hidden_files_and_the_runs_own_output_are_no_source(job: FilesJob, fleet: StandinFleet) -> None:
    """A folder that holds hot and cold folders, too, as when everything happens in one place."""
    job.add_jsonl("a.jsonl", range(20))
    (job.source / "_SUCCESS").touch()
    (job.source / ".b.jsonl").write_text("nothing\n")
    hot, cold = job.source / "hot", job.source / "cold"
    for _ in range(2):
        ended = job.run(ENGINE_HOT_DIR=str(hot), ENGINE_COLD_DIR=str(cold))
        assert ended.code == 0, ended.err
    assert (ended.summary["embedded"], ended.summary["resumed"]) == (0, 20)
