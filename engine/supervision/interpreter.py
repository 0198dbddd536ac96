"""How every Python process of the engine is started: with the modules of this one, and none of the user's folder.

`python -m` and `python -c` put the folder that the user stands in before everything else. A `numpy.py` or a folder
`engine/` there would be imported in place of the real one, in the child alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[2])


def python(module: str, *arguments: str) -> list[str]:
    """The command of a process that calls `main()` of a module.

    Args:
        module: Full name of one of the engine's modules.
        arguments: The process finds them in `sys.argv[1:]`.
    """
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if p] + [{_ROOT!r}]; "
        f"from {module} import main; sys.exit(main())"
    )
    return [sys.executable, "-c", code, *arguments]
