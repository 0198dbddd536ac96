"""How every Python process of the engine is started: with the modules of this one, and none of the user's folder.

`python -m` and `python -c` put the folder that the user stands in before everything else. A `numpy.py` or a folder
`engine/` there would be imported in place of the real one, in the child alone.

In the source tree a module is called `readers.stage`; an installed package holds the whole tree under one name, so
there it is `embedding_engine._layers.readers.stage`. A module's name in a string is always that of the source tree.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

from engine.errors import Exit

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_HERE = "engine.supervision.interpreter"
_PACKAGE = __name__.removesuffix(_HERE)
_ROOT = str(Path(__file__).resolve().parents[__name__.count(".")])


def full_name(module: str) -> str:
    """The name under which `importlib` finds one of the engine's modules.

    Args:
        module: Its name in the source tree; a full name stays as it is.
    """
    return module if module.startswith(_PACKAGE) else _PACKAGE + module


def python(module: str, *arguments: str) -> list[str]:
    """The command of a process that calls `main()` of a module.

    Args:
        module: Name of one of the engine's modules, as for `full_name`.
        arguments: The process finds them in `sys.argv[1:]`.
    """
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if p] + [{_ROOT!r}]; "
        f"from {full_name(module)} import main; sys.exit(main())"
    )
    return [sys.executable, "-c", code, *arguments]


def tie_to_parent(name: str, parent_pid: int | None) -> None:
    """Let this process die with its parent, leave no core dump with texts in it, and carry a readable name.

    Args:
        parent_pid: Who started it; when that one has gone already, this process ends here. None for a process that has
            another life-line: the kernel means the parent's *thread*, which may be a passing one.
    """
    import ctypes  # noqa: PLC0415 - only the child needs it

    libc = ctypes.CDLL(None, use_errno=True)
    if parent_pid is not None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_NAME, f"engine-{name}"[:15].encode())
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(Exit.UNEXPECTED)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
