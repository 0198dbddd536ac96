"""What `engine bench --plot` draws."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from bench.fleet.flags import Flags
from engine.supervision.interpreter import python
from ops.pictures.run import parts

N_TWEETS = 20_000
MODEL: Flags = {"tokens-per-s": "20000", "fixed-overhead-s": "0.05", "max-batch-tokens": "4096"}


def picture_tuning(folder: Path, work: Path) -> None:
    """Write `tuning.svg`."""
    picture = folder / "tuning.svg"
    # a seed: the search goes the same way again as far as the machine lets it
    command = python("cli", "bench", "--target-p95", "1.5", "--seconds", "4", "--seed", "1", "--plot", str(picture))
    with parts(work, N_TWEETS, MODEL) as environment:
        subprocess.run(
            [*command, "--out", str(work / "tuned.toml")],
            env={**os.environ, **environment},
            check=True,
            stdout=subprocess.DEVNULL,
        )
    text = picture.read_text(encoding="utf-8")
    picture.write_text(re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL), encoding="utf-8")
