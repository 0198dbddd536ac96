"""What a server, or the proxy before it, wants to see before it lets a client in. Secret: none of it is ever logged."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Key, further headers and authorities for one server.

    Attributes:
        api_key: Sent as `Authorization: Bearer ...`, unless a header of that name is among `headers`; or None.
        headers: Further headers, name and value.
        ca_file: Certificates of the authorities that may vouch for the server, or None for the system's.
    """

    api_key: str | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_file: str | None = None

    def head_lines(self) -> str:
        """The lines of a request's head."""
        lines = [f"{name}: {value}\r\n" for name, value in self.headers]
        if self.api_key and all(name.lower() != "authorization" for name, _ in self.headers):
            lines.insert(0, f"Authorization: Bearer {self.api_key}\r\n")
        return "".join(lines)


NO_ACCESS = Access()
"""A server that asks for nothing."""
