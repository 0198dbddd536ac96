"""URLs of object stores, where shards go or files are read, and how their stores are spoken to; no secrets in them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

from engine.errors import ConfigError

SCHEMES = ("s3", "gs", "az")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET = re.compile(r"secret|token|password|credential|access_key|account_key|service_account|sas_|access_signature")
_Url = TypeVar("_Url", bound="StoreUrl")
_OPTION = re.compile(r"[a-z][a-z0-9_]*")


def scheme_of(text: str) -> str | None:
    """`s3` of `s3://bucket/prefix`; None for a path."""
    found = _SCHEME.match(text)
    return found[1].lower() if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUrl:
    """A prefix on an object store.

    Attributes:
        option: The option of the command line that named it, for messages.
        url: `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`, without a slash at its end.
        endpoint: `http://HOST:PORT` or `https://HOST` of a server that speaks the protocol, or None for the vendor's.
        region: The bucket's region, or None.
        options: Further settings of the store's library, name and value; never credentials.
    """

    option: ClassVar[str] = "--cold-dir"

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
                f"{self.option} is {_without_user(self.url)}; expected a folder, or s3://BUCKET/PREFIX, gs://... or az://..."
            )
        if "@" in bucket or any(character in self.url for character in "?#"):
            raise ConfigError(
                f"{self.option} is {_without_user(self.url)}; expected {scheme}://BUCKET/PREFIX and no more: "
                "credentials come from the environment (AWS_ACCESS_KEY_ID, ...)"
            )
        if not bucket or "//" in rest or any(part in (".", "..") for part in rest.split("/")):
            raise ConfigError(f"{self.option} is {self.url}; expected {scheme}://BUCKET/PREFIX, each part with a name")
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
    def from_dict(cls: type[_Url], values: dict[str, Any]) -> _Url:
        """Read `as_dict` back."""
        return cls(**{**values, "options": tuple((str(name), str(value)) for name, value in values["options"])})


class ColdUrl(StoreUrl):
    """Where shards go when cold is no folder."""

    __slots__ = ()


class SourceUrl(StoreUrl):
    """What the names of source files begin below when they are objects: no pattern, and maybe the bucket alone."""

    __slots__ = ()
    option = "--source"


def _without_user(url: str) -> str:
    """The URL without what may be a password, for a message."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
