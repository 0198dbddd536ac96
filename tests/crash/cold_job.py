"""A job whose cold is an object store: a bucket of a real S3 server, looked at behind the engine's back."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from bench.parts.s3_server import CREDENTIALS, S3Server
from engine.ledger.runfolder import RunFolders
from engine.objects.url import ColdUrl
from tests.crash.job import DONE, SECRET, Job

PREFIX = "some/where"


def bucket_of(job: Job, server: S3Server) -> str:
    """The name of a bucket of a job's own, which is made."""
    bucket = f"bucket-{job.database.name.replace('_', '-')}"
    server.make_bucket(bucket)
    return bucket


@dataclass(kw_only=True)
class ColdJob(Job):
    """A job with `--cold-dir s3://BUCKET/some/where`.

    Attributes:
        server: Has the bucket.
        bucket: Its name.
        endpoint: What the command is told; a proxy's, for faults.
    """

    server: S3Server
    bucket: str
    endpoint: str

    def __post_init__(self) -> None:
        self.environment = {
            **self.environment,
            **CREDENTIALS,
            "ENGINE_COLD_DIR": self.url,
            "ENGINE_COLD_ENDPOINT": self.endpoint,
        }

    @property
    def url(self) -> str:
        """What `--cold-dir` is."""
        return f"s3://{self.bucket}/{PREFIX}"

    @property
    def folders(self) -> RunFolders:
        """The folders of the run."""
        cold = ColdUrl(url=self.url)
        return RunFolders.of(self.hot or self.folder / "hot", cold, self.database.name, self.collection, DONE)

    @property
    def base(self) -> str:
        """What all keys of the collection begin with."""
        return f"{PREFIX}/{self.folders.namespace}/"

    def key(self, file: str) -> str:
        """The key of a shard."""
        return f"{self.base}shards/{file}"

    def shard(self, file: str) -> Any:
        """A committed shard, as the store has it."""
        return io.BytesIO(self.server.get(self.bucket, self.key(file)))

    def shard_names(self) -> set[str]:
        """Names of all objects where shards are; any other object is a fault."""
        names = self.server.names(self.bucket)
        shards = self.key("")
        assert all(name.startswith(shards) for name in names), names
        return {name.removeprefix(shards) for name in names}

    def assert_clean(self) -> None:
        """Every commit is an object and there is no other, no copy is left on hot, no secret is anywhere."""
        assert not list(self.folders.shards.iterdir())
        for name in self.server.names(self.bucket):
            assert SECRET.encode() not in self.server.get(self.bucket, name), name
        super().assert_clean()
