"""A second S3 server, versitygw, for tests: another program's mind on what the protocol says; objects are files.

go install github.com/versity/versitygw/cmd/versitygw@v1.8.0     # then VERSITYGW=$(go env GOPATH)/bin/versitygw
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

import psutil
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from bench.parts.s3_server import CREDENTIALS, S3Server

START_S = 180.0  # only a failure waits that long
# ends when its standard input does, so also with the tests
_UNTIL_STDIN_ENDS = '"$@" & pid=$!; cat > /dev/null; kill $pid; wait $pid'


def versitygw_binary() -> str | None:
    """The program: what VERSITYGW names, or what is on the PATH."""
    return os.environ.get("VERSITYGW") or shutil.which("versitygw")


class VersityServer(S3Server):
    """The server over a folder of its own."""

    def __init__(self, binary: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="versitygw-")
        with socket.socket() as listener:  # the server takes no port 0
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        key, secret = CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
        self._credentials = Credentials(key, secret)
        command = [binary, "--port", f"127.0.0.1:{self.port}", "--quiet", "--keep-alive", "posix", self._folder.name]
        self._process = subprocess.Popen(
            ["sh", "-c", _UNTIL_STDIN_ENDS, "sh", *command],
            env={**os.environ, "ROOT_ACCESS_KEY": key, "ROOT_SECRET_KEY": secret},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, "versitygw did not start"
                assert time.monotonic() < deadline, "versitygw does not listen"
                time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._folder.cleanup()

    @property
    def pids(self) -> list[int]:
        """The shell, `cat`, and the server."""
        shell = psutil.Process(self.pid)
        return [self.pid, *(child.pid for child in shell.children(recursive=True))]

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
