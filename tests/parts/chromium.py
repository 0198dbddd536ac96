"""Looks at a page in a real browser, without a screen."""

from __future__ import annotations

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
