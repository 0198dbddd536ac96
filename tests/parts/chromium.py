"""Looks at a page in a real browser, without a screen."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def shown(page: Path, profile: Path, *, width: int, height: int, options: tuple[str, ...] = ()) -> tuple[str, str]:
    """What the browser made of a file: the document after its scripts have run, and what was written to the log.

    Args:
        profile: Folder for the browser's own files.
        width, height: Of the window, in pixels.
    """
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", *options),
            *(f"--user-data-dir={profile}", f"--window-size={width},{height}", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


def title_by(script: str, text: str, folder: Path, *, width: int) -> str:
    """The title that a script has given a page once it was loaded; the browser has had no complaint.

    Args:
        script: Only the test adds it, to measure what the browser came to; sees the root element as `e`.
        text: The page.
        folder: For the page and the browser's own files.
        width: Of the window, in pixels.
    """
    probe = f"<script>addEventListener('load',()=>{{const e=document.documentElement;{script}}})</script>"
    path = folder / "page.html"
    path.write_text(text.replace("</body>", probe + "</body>"), encoding="utf-8")
    document, log = shown(path, folder / "profile", width=width, height=2000, options=("--enable-logging=stderr",))
    assert "CONSOLE" not in log, log[-2000:]
    title = re.search(r"<title>(.*?)</title>", document)  # the page's own; those of drawings come behind it
    assert title is not None
    return title[1]
