"""Makes the pictures of the documents.

    python -m ops.pictures [NAME ...] [--folder docs/pictures]

`architecture.svg` is drawn; `panel.svg` is what a run wrote to a terminal, `report.png` the page of that same run in a
browser, `tuning.svg` what `engine bench --plot` drew. Run and search are the real commands over a real mongod and four
stand-in servers, so their rates are those of modelled GPUs. It takes some four minutes, and wants Chromium.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ops.pictures.architecture import draw_architecture
from ops.pictures.run import picture_run
from ops.pictures.tuning import picture_tuning

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "pictures"
MAKERS: dict[tuple[str, ...], Callable[[Path, Path], None]] = {
    ("architecture.svg",): lambda folder, _: draw_architecture(folder / "architecture.svg"),
    ("panel.svg", "report.png"): picture_run,
    ("tuning.svg",): picture_tuning,
}
"""Names of pictures, and what makes them, given the folder of pictures and one to work in."""

NAMES = tuple(name for names in MAKERS for name in names)


def main() -> int:
    """Make the pictures that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} [default: all]")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"no picture {', '.join(unknown)}: there are {', '.join(NAMES)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    for names, make in MAKERS.items():
        if not options.names or set(names) & set(options.names):
            with tempfile.TemporaryDirectory(prefix="engine-pictures-") as work:
                make(options.folder, Path(work))
            for name in names:
                print(f"{options.folder / name}  {(options.folder / name).stat().st_size:,} bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
