"""An object store through obstore: the few acts that the engine needs, each done once, and what went wrong told apart.

    Trouble
    |-- Unsure     an act may have happened or not: no answer, a time-out, an answer 5xx, 409     look, then again
    |   `-- Throttled  the store asks for patience (503, 429, SlowDown)                           wait, then again
    |-- Taken      a name was to be new and is there                                              look
    |-- Absent     there is no such object
    |-- Changed    it is not the version that was looked at
    `-- Refused    the store will say the same next time: rights, no bucket, bad request   tell the user

obstore tries nothing again (`max_retries` 0): whether an act may be repeated is decided in `engine.objects.patience`.
This is the one file that imports obstore, and only a command with a URL as --cold-dir or --source imports this file.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from engine.errors import ConfigError
from engine.objects.url import StoreUrl

try:
    import obstore
    from obstore import exceptions
    from obstore.store import from_url
except ImportError as error:  # pragma: no cover - every environment of the tests has it
    raise ConfigError(
        "a URL names an object store, and the library for these is not installed: "
        "pip install 'embedding-engine[cloud]', or name a folder"
    ) from error

CONNECT_TIMEOUT_S = 10
ACT_TIMEOUT_S = 60
"""For everything but bodies that are sent: ranges that are read have a few MiB."""
SLOWEST_BYTES_PER_S = 1 << 20
"""An upload may take as long as it would at this rate, and `ACT_TIMEOUT_S`."""
_CLIENT_OPTIONS = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "http1_only",
        "http2_only",
        "proxy_url",
        "proxy_excludes",
        "user_agent",
    }
)
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]{1,100})</Code>")
_THROTTLES = ("SlowDown", "Throttl", "RequestLimitExceeded", "ServerBusy", "TooManyRequests")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
_UNSURE_STATUS = frozenset({408, 409, 425})


class Trouble(Exception):
    """An act on the store did not end well; the text is one phrase."""


class Unsure(Trouble):
    """It may have happened or not."""


class Throttled(Unsure):
    """The store asks for patience."""


class Taken(Trouble):
    """The name is there already."""


class Absent(Trouble):
    """There is no such object."""


class Changed(Trouble):
    """An object is not the version that was looked at."""


class Refused(Trouble):
    """The store will say the same next time."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the store has it.

    Attributes:
        name: Its name beneath the store's prefix.
        size_bytes: Its size.
        e_tag: Whatever the store tells its versions apart by, without quotes; with many the MD5 of its bytes.
        modified_ns: When it was stored, nanoseconds since 1970.
    """

    name: str
    size_bytes: int
    e_tag: str
    modified_ns: int = 0


class ObjectStore:
    """The objects beneath one prefix of an object store; any thread may use it."""

    def __init__(self, url: StoreUrl, prefix: str, *, largest_bytes: int = 0) -> None:
        """Make it; nothing is asked of the store yet.

        Args:
            url: The store.
            prefix: Beneath the URL, empty for all of it; names are told and given without it.
            largest_bytes: Size of the largest body that is sent, for time-outs.

        Raises:
            ConfigError: an option that the library does not know, or credentials that it cannot read.
        """
        self._prefix = f"{prefix.strip('/')}/" if prefix else ""
        self._where = f"{url}/{self._prefix}"
        endpoint = url.endpoint or _endpoint_of_environment(url)
        settings: dict[str, Any] = {"endpoint": endpoint, "region": url.region}
        if url.url.startswith("s3:"):
            # the body is compared by what the store has of it (`writers.cold.upload`); one hash less of every byte
            settings["unsigned_payload"] = "true"
        client: dict[str, Any] = {"connect_timeout": f"{CONNECT_TIMEOUT_S}s"}
        client["timeout"] = f"{ACT_TIMEOUT_S + largest_bytes // SLOWEST_BYTES_PER_S}s"
        if endpoint is not None and endpoint.startswith("http:"):
            client["allow_http"] = "true"
        for name, value in url.options:
            (client if name in _CLIENT_OPTIONS else settings)[name] = value
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        retry: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
        try:
            self._store = from_url(url.url, config=given, client_options=client, retry_config=retry)  # type: ignore[call-overload]
        except (exceptions.BaseError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{url.option} {url} cannot be used: {_phrase(error)}; look at --cold-option and the environment"
            ) from error

    def where(self, name: str = "") -> str:
        """The URL of an object, for messages."""
        return self._where + name

    def put_new(self, name: str, body: memoryview | bytes) -> None:
        """Store an object under a name that nothing has yet, in one request.

        Raises:
            Taken: the name is there.
            Trouble: see the module's first lines.
        """
        with _told_apart():
            # a mode other than overwrite is one PUT: the store sees all of it or nothing, and no parts are left behind
            obstore.put(self._store, self._prefix + name, body, mode="create")

    def head(self, name: str) -> Stored:
        """What the store says of an object.

        Raises:
            Absent: there is none.
            Trouble: see the module's first lines.
        """
        with _told_apart():
            return _stored(name, obstore.head(self._store, self._prefix + name))

    def get_range(self, name: str, start: int, length: int, version: Stored | None = None) -> memoryview:
        """Some bytes of an object, all that were asked for.

        Args:
            version: The object as it has to be, by its size and its ETag; None for whatever is there.

        Raises:
            Changed: it is another version.
            Trouble: see the module's first lines; `Unsure` when fewer came.
        """
        with _told_apart():
            if version is None:
                data = obstore.get_range(self._store, self._prefix + name, start=start, length=length)
            else:
                # the answer tells its version, so none has to be asked for: stores differ in how they refuse one
                answer = obstore.get(self._store, self._prefix + name, options={"range": (start, start + length)})
                there = _stored(name, answer.meta)
                if (there.size_bytes, there.e_tag) != (version.size_bytes, version.e_tag):
                    raise Changed(f"{there.size_bytes} bytes of the version {there.e_tag}")
                data = answer.bytes()
        if len(data) != length:
            raise Unsure(f"{len(data)} bytes came where {length} were asked for")
        return memoryview(data)

    def list(self, stem: str = "") -> Iterator[Stored]:
        """The objects whose names begin with `stem`, which ends with a slash or is a folder's name; in no order.

        Raises:
            Trouble: see the module's first lines.
        """
        with _told_apart():
            for page in obstore.list(self._store, prefix=(self._prefix + stem).rstrip("/")):
                for meta in page:
                    yield _stored(meta["path"].removeprefix(self._prefix), meta)

    def delete(self, name: str) -> None:
        """Delete an object; its absence is no error.

        Raises:
            Trouble: see the module's first lines.
        """
        with _told_apart(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, self._prefix + name)

    def copy(self, name: str, to: str) -> None:
        """Copy an object within the store.

        Raises:
            Trouble: see the module's first lines.
        """
        with _told_apart():
            obstore.copy(self._store, self._prefix + name, self._prefix + to)


def _endpoint_of_environment(url: StoreUrl) -> str | None:
    """What other programs go by; the library reads it, too, but then refuses `http:`."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT") if url.url.startswith("s3:") else ()
    return next((value for name in names if (value := os.environ.get(name))), None)


def _stored(name: str, meta: Any) -> Stored:
    modified_ns = int(meta["last_modified"].timestamp()) * 1_000_000_000
    return Stored(name, int(meta["size"]), str(meta["e_tag"] or "").strip('"'), modified_ns)


@contextlib.contextmanager
def _told_apart() -> Iterator[None]:
    """The one edge at which what obstore raises becomes a `Trouble`."""
    try:
        yield
    except Trouble:
        raise
    except exceptions.AlreadyExistsError as error:
        # also what a store says to two at once (409): whoever looks then finds an object, or none yet
        raise Taken(_phrase(error)) from error
    except FileNotFoundError as error:
        kind = Refused if any(sign in str(error) for sign in _NO_BUCKET) else Absent
        raise kind(_phrase(error)) from error
    except (
        exceptions.PermissionDeniedError,
        exceptions.UnauthenticatedError,
        exceptions.NotSupportedError,
        exceptions.InvalidPathError,
        exceptions.UnknownConfigurationKeyError,
    ) as error:
        raise Refused(_phrase(error)) from error
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise _unsure_or_not(error)(_phrase(error)) from error


def _unsure_or_not(error: Exception) -> type[Trouble]:
    text = str(error)
    status = _STATUS.search(text)
    number = int(status[1]) if status else 0
    if any(sign in text for sign in _NO_BUCKET):
        return Refused
    if number in (429, 503) or any(sign in text for sign in _THROTTLES):
        return Throttled
    if 400 <= number < 500 and number not in _UNSURE_STATUS and "RequestTimeout" not in text:
        return Refused
    if number == 501 or (not number and "builder error" in text):
        return Refused
    return Unsure


def _phrase(error: Exception) -> str:
    """What the store said, short: status and code, or the library's first line."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    if status is not None:
        return f"answer {status[1]}{f' {code[1]}' if code else ''}"
    line = (text.splitlines() or [type(error).__name__])[0]
    causes = [
        cause
        for cause in ("Connection refused", "dns error", "operation timed out", "Connection reset")
        if cause in text
    ]
    return f"{line[-200:]}{f': {causes[0]}' if causes and causes[0] not in line else ''}"
