"""Builds the wheel: the whole tree under one name, `embedding_engine`; everything else is in `setup.cfg`.

The source tree has its layers side by side (`engine`, `readers`, ...), which are names that other projects use too.
In site-packages they lie inside `embedding_engine`, and each `from engine.x import y` says
`from embedding_engine._layers.engine.x import y` (ADR 16). Lines keep their numbers.
"""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

PACKAGE = "embedding_engine"
INSIDE = "_layers"
"""Their folder in it: `embedding_engine.bench` is a function of the library, not the layer."""
LAYERS = ("engine", "readers", "gpu_clients", "writers", "bench", "commands", "cli")
_FROM = re.compile(rf"^(\s*from )({'|'.join(LAYERS)})(?=[.\s])", re.MULTILINE)


def under_one_name(source: str, name: str) -> str:
    """A module's text with the imports of our own modules under the package's name.

    Args:
        source: The text as it stands in the source tree.
        name: The file, for an error.

    Raises:
        ValueError: the module imports one of ours in a form that cannot be carried over, `import engine`.
    """
    moved = _FROM.sub(rf"\1{PACKAGE}.{INSIDE}.\2", source)
    for node in ast.walk(ast.parse(moved, name)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        else:
            continue
        for found in names:
            if found.partition(".")[0] in LAYERS:
                raise ValueError(f"{name}:{node.lineno} imports {found}: write it as `from {found} import ...`")
    return moved


class BuildUnderOneName(build_py):
    """Builds as always, then moves all layers into the package; an editable installation stays as the tree is."""

    def run(self) -> None:
        """Build into `build_lib`."""
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)  # what an earlier build left would be packed too
        super().run()
        root = Path(self.build_lib)
        (root / PACKAGE / INSIDE).mkdir()
        (root / PACKAGE / INSIDE / "__init__.py").write_text(
            '"""The layers of the engine, as they lie side by side in its source."""\n'
        )
        for layer in LAYERS:
            for path in (root / layer, root / f"{layer}.py"):
                if path.exists():
                    shutil.move(str(path), root / PACKAGE / INSIDE / path.name)
        for path in sorted((root / PACKAGE).rglob("*.py")):
            path.write_text(under_one_name(path.read_text("utf-8"), str(path)), "utf-8")


class OneTopLevelName(egg_info):
    """Writes the metadata; the one name that it promises is the package's."""

    def run(self) -> None:
        """Write into the metadata's folder."""
        super().run()
        (Path(self.egg_info) / "top_level.txt").write_text(f"{PACKAGE}\n", "utf-8")


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildUnderOneName, "egg_info": OneTopLevelName})
