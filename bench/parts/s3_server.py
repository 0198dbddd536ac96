"""A real S3 server (that of moto) for tests and measurements, in a process of its own, and looks at what it has."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from types import TracebackType
from urllib.parse import quote
from xml.etree import ElementTree

_SERVER = """
import sys, threading
from werkzeug.serving import make_server, WSGIRequestHandler
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    def log(self, *_): pass

server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), True, request_handler=Quiet)
print(server.server_port, flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
server.serve_forever()
"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIATESTS", "AWS_SECRET_ACCESS_KEY": "s3cr3t-marker-of-a-key"}


class S3Server:
    """A server with buckets; it ends when its standard input does, so also with the tests.

    Attributes:
        port: On 127.0.0.1.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None  # asked for
        line = self._process.stdout.readline()
        assert line.strip(), "moto's server did not start"
        self.port = int(line)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        return [self.pid]

    @property
    def endpoint(self) -> str:
        """For `--cold-endpoint`."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> S3Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate("")

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        self._call("PUT", name)

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Keys of all objects."""
        found: list[str] = []
        token = ""
        while True:
            more = f"&continuation-token={quote(token, safe='')}" if token else ""
            tree = ElementTree.fromstring(
                self._call("GET", f"{bucket}?list-type=2&prefix={quote(prefix, safe='')}{more}")
            )
            space = tree.tag.partition("}")[0] + "}"
            found += [str(item.text) for item in tree.iter(f"{space}Key")]
            token = tree.findtext(f"{space}NextContinuationToken") or ""
            if not token:
                return found

    def get(self, bucket: str, key: str) -> bytes:
        """An object."""
        return self._call("GET", f"{bucket}/{quote(key)}")

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object, over another one if need be."""
        self._call("PUT", f"{bucket}/{quote(key)}", data)

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object."""
        self._call("DELETE", f"{bucket}/{quote(key)}")

    def _call(self, method: str, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.endpoint}/{path}", method=method, data=data)
        if data is not None:
            request.add_header("Content-Type", "application/octet-stream")
        request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=AKIATESTS/20260101/us-east-1/s3/aws4_request")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())
