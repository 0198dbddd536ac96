"""The driver of many nodes whose shards are objects of a real S3 server: what it looks for, and what it removes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.parts.s3_server import CREDENTIALS, S3Server
from engine.errors import SinkError
from engine.ledger.runfolder import RunFolders
from engine.memory.channels import Message
from engine.objects.url import ColdUrl
from tests.engine.cluster.scripted import PIECES, ROWS, ScriptedNodes, run
from tests.engine.cluster.test_supervisor import records
from writers.cold.settings import ColdSettings

BUCKET = "bucket-driver"
SHARDS = "x/db.c/shards/"


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> S3Server:
    """A server with the bucket."""
    s3.make_bucket(BUCKET)
    return s3


@pytest.fixture
def cold(bucket: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[ColdSettings]:
    """The store, empty before and after."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    yield ColdSettings(url=ColdUrl(url=f"s3://{BUCKET}/x", endpoint=bucket.endpoint), prefix="db.c", budget_s=5.0)
    for name in bucket.names(BUCKET):
        bucket.delete(BUCKET, name)


def nodes(bucket: S3Server, folder: Path) -> ScriptedNodes:
    """Nodes whose shards are objects."""
    shards = RunFolders.of(folder / "hot", folder / "cold", "db", "c", "done").shards

    def store(file: str, data: bytes) -> None:
        bucket.put(BUCKET, SHARDS + file, data)

    return ScriptedNodes(shards, store=store)


@pytest.mark.seconds
def test_shards_on_a_store_are_committed_under_their_tokens(
    bucket: S3Server, cold: ColdSettings, tmp_path: Path
) -> None:
    summary = run(tmp_path, nodes(bucket, tmp_path), cold=cold)

    commits = records(tmp_path, "COMMIT")
    assert (summary["exit"], summary["embedded"]) == (0, PIECES * ROWS)
    assert {commit["token"] for commit in commits} == {"1-1", "1-2"}
    assert {SHARDS + commit["file"] for commit in commits} == set(bucket.names(BUCKET))


def test_an_object_of_a_token_that_has_ended_is_never_committed_and_goes(
    bucket: S3Server, cold: ColdSettings, tmp_path: Path
) -> None:
    scripted = nodes(bucket, tmp_path)
    sealed: list[str] = []

    def die_and_come_back(nodes: ScriptedNodes, session: int, role: str, command: Message) -> bool:
        if nodes.node_of[session] != "b" or sealed:
            return False
        nodes.embed(session, command)
        nodes.lose(session)
        sealed.append(nodes.seal(session))  # a zombie: it has uploaded, and is heard behind its end
        assert f"{SHARDS}{sealed[0]}.parquet" in bucket.names(BUCKET)
        return True

    scripted.disturb = die_and_come_back
    summary = run(tmp_path, scripted, cold=cold)

    assert (summary["exit"], summary["embedded"]) == (0, PIECES * ROWS)
    assert sealed[0] not in {commit["shard"] for commit in records(tmp_path, "COMMIT")}
    assert f"{SHARDS}{sealed[0]}.parquet" not in bucket.names(BUCKET)


@pytest.mark.parametrize("content", [None, b"less"])
def test_an_object_that_the_driver_does_not_see_as_its_node_does_is_never_committed(
    bucket: S3Server, cold: ColdSettings, tmp_path: Path, content: bytes | None
) -> None:
    scripted = nodes(bucket, tmp_path)
    if content is None:
        scripted.store = lambda file, data: None
    else:
        scripted.store = lambda file, data: bucket.put(BUCKET, SHARDS + file, content)

    with pytest.raises(SinkError, match=r"it is not there|it has 4"):
        run(tmp_path, scripted, cold=cold)

    assert not records(tmp_path, "COMMIT")
