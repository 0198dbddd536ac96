"""A run on a terminal, one of whose servers fails for a while, and the page that says so."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from pymongo import MongoClient

from bench.fleet.flags import Flags
from bench.fleet.fleet import ServerFleet
from bench.fleet.plan import FleetPlan
from bench.parts.local_mongod import LocalMongod
from bench.parts.tweets import documents
from engine.supervision.interpreter import python
from ops.pictures.terminal import as_svg, frames, written_to_terminal

DATABASE, COLLECTION = "twitter_data", "tweets"
N_TWEETS = 24_000
MODEL: Flags = {"tokens-per-s": "1800", "fixed-overhead-s": "0.02", "max-batch-tokens": "1024"}
"""Of each modelled GPU: small batches, so that rates are even from one second to the next."""
FAULT = "status:code=503,on=1,after=200"
"""The second server answers 200 requests and then none any more."""
WIDTH, HEIGHT = 1100, 750
COMMAND = ("run", "--collection", COLLECTION)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def parts(work: Path, n_tweets: int, flags: Flags) -> Iterator[dict[str, str]]:
    """A mongod with tweets and four servers; the environment of a command that uses them."""
    plan = FleetPlan(backend="sim", ports=(0,) * 4, logs=work / "servers", flags=flags)
    with LocalMongod(work / "mongod") as mongod, ServerFleet(plan).quietly() as fleet:
        with MongoClient[dict[str, Any]](mongod.uri) as client:
            client[DATABASE][COLLECTION].insert_many(list(documents(n_tweets, retweeted=False)))
        environment = {
            "ENGINE_MONGO_URI": mongod.uri,
            "ENGINE_DATABASE": DATABASE,
            "ENGINE_COLLECTION": COLLECTION,
            "ENGINE_TEI_URLS": ",".join(fleet.urls),
            "ENGINE_HOT_DIR": str(work / "hot"),
            "ENGINE_COLD_DIR": str(work / "cold"),
            "ENGINE_RETWEETED": "any",
            "ENGINE_SHARD_BYTES": "16MiB",
        }
        index = python("cli", "index")
        subprocess.run(index, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL)
        yield environment


def picture_run(folder: Path, work: Path) -> None:
    """Write `panel.svg` and `report.png`."""
    with parts(work, N_TWEETS, {**MODEL, "fault": FAULT}) as environment:
        written = "".join(written_to_terminal(python("cli", *COMMAND), environment))
    shown = [frame for frame in frames(written) if "documents waiting" in frame]
    lines = [f"$ engine {shlex.join(COMMAND)}", *shown[len(shown) * 3 // 5].rstrip("\n").split("\n")]
    (folder / "panel.svg").write_text(as_svg(lines, "engine run"), encoding="utf-8")
    page = work / "report.html"
    subprocess.run(
        python("cli", "report", "--collection", COLLECTION, "--hot-dir", str(work / "hot"), "--html", str(page)),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    text = page.read_text(encoding="utf-8")
    if "because a server" not in text:
        said = re.sub(r"<[^>]+>", " ", re.search(r'<section class="verdict.*?</section>', text, re.DOTALL)[0])  # type: ignore[index]
        sys.exit(f"the report does not name the server that fails: {said}")
    photograph(page, folder / "report.png", work)


def photograph(page: Path, picture: Path, work: Path) -> None:
    """A page as a browser shows its beginning, in few colours."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser for {picture.name}: {', '.join(BROWSERS)}")
    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--user-data-dir={work / 'browser'}", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}"),
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
    )
    with Image.open(picture) as shot:
        few = shot.convert("RGB").quantize(colors=48)
    few.save(picture, optimize=True)
