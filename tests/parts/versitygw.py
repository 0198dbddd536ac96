"""A second S3 server, versitygw, for tests: another program's mind on what the protocol says; objects are files.

go install github.com/versity/versitygw/cmd/versitygw@v1.8.0     # then VERSITYGW=$(go env GOPATH)/bin/versitygw
"""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from bench.parts.s3_server import CREDENTIALS, S3Server
from tests.parts.listening_program import free_port, pids_of, start_listening


def versitygw_binary() -> str | None:
    """The program: what VERSITYGW names, or what is on the PATH."""
    return os.environ.get("VERSITYGW") or shutil.which("versitygw")


class VersityServer(S3Server):
    """The server over a folder of its own."""

    def __init__(self, binary: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="versitygw-")
        self.port = free_port()
        key, secret = CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
        self._credentials = Credentials(key, secret)
        command = [binary, "--port", f"127.0.0.1:{self.port}", "--quiet", "--keep-alive", "posix", self._folder.name]
        environment = {"ROOT_ACCESS_KEY": key, "ROOT_SECRET_KEY": secret}
        self._process = start_listening(command, self.port, environment=environment)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._folder.cleanup()

    @property
    def pids(self) -> list[int]:
        """The shell, `cat`, and the server."""
        return pids_of(self._process)

    @property
    def folder(self) -> Path:
        """Its buckets are folders in it."""
        return Path(self._folder.name)

    def _call(self, method: str, path: str, data: bytes | None = None) -> bytes:
        signed = AWSRequest(method=method, url=f"{self.endpoint}/{path}", data=data or b"")
        S3SigV4Auth(self._credentials, "s3", "us-east-1").add_auth(signed)
        request = urllib.request.Request(signed.url, method=method, data=data, headers=dict(signed.headers.items()))
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:300]!r}") from error
