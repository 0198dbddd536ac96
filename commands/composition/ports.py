"""What the parts of a run are to each other where one of them is imported only by the runs that need it."""

from __future__ import annotations

from typing import Any, Protocol

from engine.ledger.runfolder import RunFolders


class FilePlans(Protocol):
    """Files as the source of a run, as the composer of its stages sees them (`commands.composition.files.Files`)."""

    def plan(self, folders: RunFolders) -> dict[str, Any]:
        """Write what the next generation reads; what its reader is told of it."""
