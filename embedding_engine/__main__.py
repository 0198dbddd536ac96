"""The console command `engine`, and `python -m embedding_engine`."""

import sys
from pathlib import Path


def _forget_the_users_folder() -> None:
    """Take the folder that `python -m` puts first off the search path.

    A `numpy.py` that lies where the user stands would be imported in place of the library.
    """
    root = Path(__file__).resolve().parents[1]
    if sys.path and Path(sys.path[0] or ".").resolve() == Path.cwd() != root:
        del sys.path[0]


def main() -> None:
    """Run the command line."""
    from cli import main as command_line  # noqa: PLC0415 - the search path comes first

    command_line()


if __name__ == "__main__":
    _forget_the_users_folder()
    main()
