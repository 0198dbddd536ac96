"""The URL of a cold store: where shards go when cold is no folder, and how its store is spoken to; no secrets in it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from engine.errors import ConfigError

SCHEMES = ("s3", "gs", "az")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET = re.compile(r"secret|token|password|credential|access_key|account_key|service_account|sas_|access_signature")
_OPTION = re.compile(r"[a-z][a-z0-9_]*")


def scheme_of(text: str) -> str | None:
    """`s3` of `s3://bucket/prefix`; None for a path."""
    found = _SCHEME.match(text)
    return found[1].lower() if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdUrl:
    """A prefix on an object store.

    Attributes:
        url: `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`, without a slash at its end.
        endpoint: `http://HOST:PORT` or `https://HOST` of a server that speaks the protocol, or None for the vendor's.
        region: The bucket's region, or None.
        options: Further settings of the store's library, name and value; never credentials.
    """

    url: str
    endpoint: str | None = None
    region: str | None = None
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.rstrip("/"))
        scheme, _, rest = self.url.partition("://")
        bucket = rest.partition("/")[0]
        if scheme not in SCHEMES:
            raise ConfigError(
                f"--cold-dir is {_without_user(self.url)}; expected a folder, or s3://BUCKET/PREFIX, gs://... or az://..."
            )
        if "@" in bucket or any(character in self.url for character in "?#"):
            raise ConfigError(
                f"--cold-dir is {_without_user(self.url)}; expected {scheme}://BUCKET/PREFIX and no more: "
                "credentials come from the environment (AWS_ACCESS_KEY_ID, ...)"
            )
        if not bucket or "//" in rest or any(part in (".", "..") for part in rest.split("/")):
            raise ConfigError(f"--cold-dir is {self.url}; expected {scheme}://BUCKET/PREFIX, each part with a name")
        if self.endpoint is not None and (
            not re.fullmatch(r"https?://[^/?#@]+(/[^?#@]*)?", self.endpoint) or scheme == "gs"
        ):
            why = "Google's store has one endpoint" if scheme == "gs" else "expected http://HOST:PORT or https://HOST"
            raise ConfigError(f"--cold-endpoint is {_without_user(self.endpoint)}; {why}")
        if self.region is not None and scheme != "s3":
            raise ConfigError(f"--cold-region is {self.region}, which only s3:// has; leave it out")
        for name, value in self.options:
            if not _OPTION.fullmatch(name):
                raise ConfigError(f"--cold-option names {name!r}; expected KEY=VALUE with a key of the store's library")
            if _SECRET.search(name) or re.search(r"://[^/]*@", value):
                raise ConfigError(
                    f"--cold-option names {name!r}, which looks like a credential: these come from the environment "
                    "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...), never from arguments or files of the engine"
                )

    def __str__(self) -> str:
        return self.url

    def as_dict(self) -> dict[str, Any]:
        """For the message that starts a process."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ColdUrl:
        """Read `as_dict` back."""
        return cls(**{**values, "options": tuple((str(name), str(value)) for name, value in values["options"])})


def _without_user(url: str) -> str:
    """The URL without what may be a password, for a message."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
