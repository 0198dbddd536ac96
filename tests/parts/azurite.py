"""Azurite, Microsoft's own stand-in of Azure's Blob Storage, for tests: what `az://` is tried with.

npm install azurite@3.37    # then AZURITE=node_modules/.bin/azurite-blob
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import os
import shutil
import urllib.request
from types import TracebackType

import obstore
from obstore.store import AzureStore

from tests.parts.listening_program import free_port, pids_of, start_listening

# every installation has these, they are in its documentation
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
ENVIRONMENT = {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": KEY}


def azurite_binary() -> str | None:
    """The program: what AZURITE names, or what is on the PATH."""
    return os.environ.get("AZURITE") or shutil.which("azurite-blob")


class Azurite:
    """A server with containers in its memory; it ends when its standard input does, so also with the tests.

    Attributes:
        port: On 127.0.0.1.
    """

    def __init__(self, binary: str) -> None:
        self.port = free_port()
        where = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        command = [binary, *where, "--inMemoryPersistence", "--skipApiVersionCheck"]
        # asked to end, it would wait a minute for kept connections
        self._process = start_listening(command, self.port, kill="kill -9")

    @property
    def endpoint(self) -> str:
        """For `--cold-endpoint`."""
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def pids(self) -> list[int]:
        """The shell, `cat`, and the server."""
        return pids_of(self._process)

    def __enter__(self) -> Azurite:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate("")

    def make_bucket(self, name: str) -> None:
        """Make a container; the library of the engine has no such act."""
        headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        lines = ["PUT", *[""] * 11, *(f"{key}:{value}" for key, value in headers.items())]
        text = "\n".join([*lines, f"/{ACCOUNT}/{ACCOUNT}/{name}", "restype:container"])
        signed = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signed).decode()}"
        url = f"{self.endpoint}/{name}?restype=container"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=60).close()

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store an object, over another one if need be."""
        obstore.put(self._store(bucket), key, data)

    def names(self, bucket: str) -> list[str]:
        """Keys of all objects."""
        return [meta["path"] for page in obstore.list(self._store(bucket)) for meta in page]

    def _store(self, bucket: str) -> AzureStore:
        return AzureStore(
            bucket,
            config={"account_name": ACCOUNT, "account_key": KEY, "endpoint": self.endpoint},
            client_options={"allow_http": True},
        )
