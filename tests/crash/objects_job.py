"""A job over files that are objects: the same files in a bucket of a real S3 server, behind a proxy that does wrong."""

from __future__ import annotations

import base64
import gzip
import json
import random
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from bench.parts.s3_server import CREDENTIALS, S3Server
from tests.crash.files_job import NAME, FilesJob, text_of

PAD_BYTES = 15_000


@dataclass(kw_only=True)
class ObjectsJob(FilesJob):
    """A job with `--source s3://BUCKET/articles`; what is written into the local folder is uploaded before a command.

    Attributes:
        server: Has the bucket.
        bucket: Its name.
        endpoint: What the command is told; a proxy's, for faults.
    """

    server: S3Server
    bucket: str
    endpoint: str
    _uploaded: dict[Path, bytes] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """What `--source` is."""
        return f"s3://{self.bucket}/{NAME}"

    def key(self, name: str) -> str:
        """The key of a file."""
        return f"{NAME}/{name}"

    def add_large(self, name: str, numbers: range) -> None:
        """A file of JSON lines, compressed by gzip, in which a row takes more than 10 KB that nobody reads."""
        rng = random.Random(1)
        with gzip.open(self._path(name), "wt", compresslevel=1) as stream:
            for row, number in enumerate(numbers):
                pad = base64.b64encode(rng.randbytes(PAD_BYTES)).decode()
                stream.write(json.dumps({"text": text_of(number), "pad": pad}) + "\n")
                self._note(name, row, number, None)

    def upload(self) -> None:
        """Store what is new in the local folder, and delete what is gone there."""
        paths = [path for path in self.source.rglob("*") if path.is_file()]
        for path in paths:
            if self._uploaded.get(path) != (content := path.read_bytes()):
                self.server.put(self.bucket, self.key(path.relative_to(self.source).as_posix()), content)
                self._uploaded[path] = content
        for path in self._uploaded.keys() - set(paths):
            self.server.delete(self.bucket, self.key(path.relative_to(self.source).as_posix()))
            del self._uploaded[path]

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in a session of its own."""
        self.upload()
        settings = {**CREDENTIALS, "ENGINE_SOURCE": self.url, "ENGINE_COLD_ENDPOINT": self.endpoint, **environment}
        return super().start(*arguments, **settings)

    def assert_exact(self) -> None:
        """The oracle of files; and nothing was written to the bucket, and no secret is in anything that is kept."""
        super().assert_exact()
        names = {self.key(path.relative_to(self.source).as_posix()) for path in self._uploaded}
        assert set(self.server.names(self.bucket)) == names
        for path in (self.folder / "hot").rglob("*"):
            assert path.is_dir() or CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode() not in path.read_bytes(), path
