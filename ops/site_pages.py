"""Hook of mkdocs: pages that are made (one a command, README, changelog), navigation, links that leave `docs/`.

The documents link to each other as they lie in the tree, so that they can be read there. On the site, README is the
first page, and a link to a file of the source becomes the file's name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from commands.reference import commands

ROOT = Path(__file__).resolve().parents[1]
FROM_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Documents of the tree's root, and what they are called on the site."""

GUIDES = "guides"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Make the navigation: what is read first, guides, reference, explanation."""
    titled = {path.name: f"{GUIDES}/{path.name}" for path in sorted((ROOT / "docs" / GUIDES).glob("*.md"))}
    protocols = sorted((ROOT / "docs" / "protocols").glob("*.md"))
    decisions = sorted((ROOT / "docs" / "adr").glob("*.md"))
    reference = ["mongodb.md", "servers.md", "tuning.md", "reading.md", "library.md", "operations.md", "versioning.md"]
    known = {*reference, "design.md", "glossary.md", "performance.md", "dependencies.md", "cli.md"}
    others = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in known)
    config["nav"] = [
        {"Start": "index.md"},
        {"Guides": list(titled.values())},
        {"Commands": [{f"engine {name}": _page_of(name)} for name in commands()]},
        {"Reference": [*reference, *others, "changelog.md", "security.md"]},
        {
            "Explanation": [
                "design.md",
                {"Protocols": [f"protocols/{path.name}" for path in protocols]},
                "performance.md",
                "glossary.md",
                "dependencies.md",
                {"Decisions": [f"adr/{path.name}" for path in decisions]},
                "contributing.md",
            ]
        },
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what does not lie in `docs/`; the one long page of all commands is for the tree."""
    for name, page in FROM_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for name, text in commands().items():
        content = f"# engine {name}\n\n```text\n{text}\n```\n"
        files.append(File.generated(config, _page_of(name), content=content))
    for file in list(files):
        if file.src_uri == "cli.md":
            files.remove(file)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links to where the documents are on the site."""
    here = page.file.src_uri
    of_tree = next((name for name, made in FROM_ROOT.items() if made == here), f"docs/{here}")

    def relink(found: re.Match[str]) -> str:
        bang, text, target = found.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return found.group(0)
        path, _, anchor = target.partition("#")
        there = posixpath.normpath(posixpath.join(posixpath.dirname(of_tree), path))
        if there == "docs/cli.md":
            there = f"docs/{_page_of('run')}"
        page_there = FROM_ROOT.get(there) or (there.removeprefix("docs/") if there.startswith("docs/") else None)
        if page_there is None or files.get_file_from_path(page_there) is None:
            return f"`{there}`" if text.strip("`") in (there, path) else f"{text} (`{there}`)"
        link = posixpath.relpath(page_there, posixpath.dirname(here) or ".")
        return f"{bang}[{text}]({link}{'#' + anchor if anchor else ''})"

    return _LINK.sub(relink, markdown)


def _page_of(name: str) -> str:
    return f"commands/{name.replace(' ', '-')}.md"
