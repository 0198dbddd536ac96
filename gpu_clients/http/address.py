"""Where a server is: a URL, taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from engine.errors import ConfigError

_ROUTES = ("/v1/embeddings", "/embeddings", "/embed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server is.

    Attributes:
        url: As the user wrote it.
        host: Name or address.
        port: TCP port.
        tls: Whether the URL says https.
        base: Path in front of the server's routes, without a slash at its end; mostly empty.
    """

    url: str
    host: str
    port: int
    tls: bool
    base: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a base URL, or one that ends in an embedding route.

        Raises:
            ConfigError: not an http or https URL, or one with credentials or a query in it.
        """
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"server URL {url!r} cannot be read: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"server URL {url!r} is not of the form http://host:port[/embed]")
        if parts.username is not None or parts.query or parts.fragment:
            raise ConfigError(
                f"server URL of {parts.hostname} holds credentials, a query or a fragment: "
                "put a key into the environment instead (see --help)"
            )
        path = parts.path.rstrip("/")
        for route in _ROUTES:
            if path.endswith(route):
                path = path[: -len(route)]
                break
        tls = parts.scheme == "https"
        return cls(url=url.strip(), host=parts.hostname, port=port or (443 if tls else 80), tls=tls, base=path)

    @property
    def authority(self) -> str:
        """`host:port` for messages."""
        return f"{self._bracketed_host}:{self.port}"

    @property
    def host_header(self) -> str:
        """What stands in the Host header: routers compare it literally, so a scheme's own port is left out."""
        return self._bracketed_host if self.port == (443 if self.tls else 80) else self.authority

    @property
    def _bracketed_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host
