"""The address that a server of ours listens at: HOST:PORT, with an IPv6 address in brackets."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        host: Name or address; `0.0.0.0` and `::` are all of this machine's.
        port: 0 for any that is free.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `127.0.0.1:9100` or `[::1]:9100`.

        Raises:
            ConfigError: neither.
        """
        host, colon, port = text.strip().rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        is_host = bool(host) and (bracketed or ":" not in host) and not set(host) & set("[]/@ ")
        if not colon or not is_host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ConfigError(
                f"--http is {text!r}; expected HOST:PORT, such as 127.0.0.1:9100, 0.0.0.0:9100 or [::1]:9100"
            )
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
