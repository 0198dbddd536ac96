"""What has come out of the clients under test, and whether it is what has to come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.standin.backends.vectors import text_rows
from engine.memory.channels import Message


@dataclass(slots=True)
class Outcome:
    """What came out of a run of the harness.

    Attributes:
        texts: The documents' texts; document i has the id i.
        rows: Vectors by id, float32 (dim,), in the order of arrival.
        deliveries: How many rows came for each id.
        quarantined: Entries by id.
        truncated: Ids flagged as truncated.
        events: All events of every client, by role.
        seconds: Wall time from the first batch to the last.
        finished: Whether everything was accounted for before the deadline.
    """

    texts: list[str]
    rows: dict[int, npt.NDArray[np.float32]] = field(default_factory=dict)
    deliveries: dict[int, int] = field(default_factory=dict)
    columns: dict[int, Any] = field(default_factory=dict)
    quarantined: dict[int, dict[str, Any]] = field(default_factory=dict)
    truncated: set[int] = field(default_factory=set)
    events: dict[str, list[Message]] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False

    def figures(self, role: str) -> Message:
        """The last `client` event of a client; empty before the first."""
        return next((event for event in reversed(self.events[role]) if event["event"] == "client"), {})

    def states(self) -> set[str]:
        """The states that the clients are in by their own account."""
        return {str(self.figures(role).get("state", "starting")) for role in self.events}

    def told(self, name: str, role: str | None = None) -> list[Message]:
        """All events of a name, of one client or of all."""
        roles = [role] if role else list(self.events)
        return [event for one in roles for event in self.events[one] if event["event"] == name]

    def total(self, name: str) -> int:
        """A counter summed over the clients."""
        return sum(self.figures(role)[name] for role in self.events)

    def check_exact(self, model_id: str, dim: int = 768) -> None:
        """Every document is in exactly one row, with the vector of its own text, or in quarantine, never in both."""
        assert self.finished, f"not everything came out: {self.explain()}"
        expected = set(range(len(self.texts)))
        assert set(self.deliveries) | set(self.quarantined) == expected
        assert not set(self.deliveries) & set(self.quarantined)
        assert set(self.deliveries.values()) <= {1}
        wanted = text_rows(model_id, self.texts, dim)
        for number, vector in self.rows.items():
            np.testing.assert_allclose(vector, wanted[number], atol=1e-6, err_msg=f"vector of document {number}")

    def explain(self) -> str:
        """A few facts for a failed assertion."""
        last = {role: {**self.figures(role), "latency": "..."} for role in self.events if self.events[role]}
        outs = self.told("server_out") + self.told("server_back")
        return f"{len(self.deliveries)} delivered, {len(self.quarantined)} quarantined, {last}, {outs}"
