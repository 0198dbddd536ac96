"""Stores of other makers: the same whole job over each that this machine has, documents and shards on it.

`make test-stores` runs all tests of cold storage and of objects over versitygw.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.parts.s3_server import CREDENTIALS
from bench.standin import StandinFleet
from tests.conftest import outlives_tests
from tests.crash.files_job import BROKEN, FilesJob
from tests.parts.azurite import ENVIRONMENT, Azurite, azurite_binary
from tests.parts.versitygw import VersityServer, versitygw_binary

pytestmark = pytest.mark.crash

BUCKET = "any-bucket"
QUARANTINED = 3  # the exit code with documents in quarantine


@dataclass(frozen=True, slots=True)
class Store:
    """A store that runs.

    Attributes:
        scheme: Of its URLs.
        environment: Its credentials.
    """

    scheme: str
    environment: dict[str, str]
    server: VersityServer | Azurite


@pytest.fixture(params=["versitygw", "azurite"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Each store, skipped where it is not there."""
    with contextlib.ExitStack() as stack:
        if request.param == "versitygw":
            if (binary := versitygw_binary()) is None:
                pytest.skip("versitygw is not on the PATH, and VERSITYGW does not name it (tests/parts/versitygw.py)")
            found = Store("s3", CREDENTIALS, stack.enter_context(VersityServer(binary)))
        else:
            if (binary := azurite_binary()) is None:
                pytest.skip("azurite-blob is not on the PATH, and AZURITE does not name it (tests/parts/azurite.py)")
            found = Store("az", ENVIRONMENT, stack.enter_context(Azurite(binary)))
        stack.enter_context(outlives_tests(*found.server.pids))
        yield found


def test_documents_and_shards_on_a_store_of_another_maker_are_read_resumed_verified_and_merged(
    store: Store, tmp_path: Path, fleet: StandinFleet
) -> None:
    """A killed run, the next one, a new object, level 4, a merge; and no other object is left."""
    job = FilesJob(folder=tmp_path, urls=fleet.urls[:2])
    store.server.make_bucket(BUCKET)
    job.fill(300)
    base = f"{store.scheme}://{BUCKET}"
    settings = {
        **store.environment,
        "ENGINE_SOURCE": f"{base}/articles",
        "ENGINE_COLD_DIR": f"{base}/cold",
        "ENGINE_COLD_ENDPOINT": store.server.endpoint,
    }

    def upload() -> None:
        for path in job.source.rglob("*"):
            if path.is_file():
                store.server.put(BUCKET, f"articles/{path.relative_to(job.source).as_posix()}", path.read_bytes())

    upload()
    killed = job.run(**settings, ENGINE_FAILPOINTS="supervisor/commit.after=kill")
    assert killed.code == -9, killed.err
    again = job.run(**settings)
    assert again.code == QUARANTINED, again.err
    job.add_jsonl("more é.jsonl", range(1000, 1040))
    store.server.put(BUCKET, "articles/more é.jsonl", (job.source / "more é.jsonl").read_bytes())

    more = job.run(**settings)

    assert (more.code, more.summary["embedded"], more.summary["resumed"]) == (QUARANTINED, 40, 300 - len(BROKEN))
    verified = job.call("verify", "--level", "4", "--json", **settings)
    assert (verified.code, verified.summary["rows"]) == (0, len(job.texts)), verified.out
    merged = job.call("merge", "--name", "articles", "--json", **{**settings, "ENGINE_SOURCE": ""})
    assert merged.code == 0, merged.err
    assert job.call("verify", "--level", "4", "--json", **settings).code == 0
    written = {name.rpartition("/")[0] for name in store.server.names(BUCKET) if name.startswith("cold/")}
    assert written == {f"cold/files.articles/{folder}" for folder in ("shards", "consolidated")}
