"""MongoDB's errors: how they become the engine's, and which calls are retried for how long.

Whether to retry is decided by type and code, never by message text:

* the server or the way to it is away for now (connection lost, election, shutdown, overload): retried;
* the user has to change something (credentials, URI, rights): ConfigError, at once;
* anything else the server refuses: SourceError, at once.

No message shows a password: pymongo's own messages carry host names but not the user's part of the URI, and what
looks like one is cut out all the same.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    ConnectionFailure,
    CursorNotFound,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
    WTimeoutError,
)

from engine.errors import ConfigError, EngineError, SourceError

T = TypeVar("T")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0

_AWAY_CODES = frozenset(
    (
        *(
            6,
            7,
            89,
            91,
            134,
            189,
            262,
            9001,
            10107,
            11600,
            11602,
            13388,
            13435,
            13436,
        ),  # Source: retryable reads, writes
        *(43, 175, 237),  # a cursor or a plan that got lost
        *(24, 46, 50, 64, 112, 133, 202, 10058),  # a wait that ended too early
        462,  # overload
    )
)
_AWAY_LABELS = ("RetryableWriteError", "TransientTransactionError", "SystemOverloadedError", "RetryableError")
_RIGHTS_CODES = frozenset((13, 18, 31, 33, 391, 8000))  # unauthorized, authentication failed, ...
_NO_SUCH_NAMESPACE = 26
_USER_PART = re.compile(r"//[^/@\s]*@")


def is_away(error: BaseException) -> bool:
    """Whether MongoDB is away for now, so that the same call may work later."""
    if isinstance(error, OperationFailure):
        if isinstance(error, CursorNotFound | WTimeoutError) or error.code in _AWAY_CODES:
            return True
        return any(error.has_error_label(label) for label in _AWAY_LABELS)
    return isinstance(error, AutoReconnect | ConnectionFailure | WaitQueueTimeoutError)


def is_missing_collection(error: OperationFailure) -> bool:
    """Whether the server says that the collection does not exist."""
    return error.code == _NO_SUCH_NAMESPACE


def is_refusal(error: OperationFailure) -> bool:
    """Whether the server does not take the command as such: neither away nor a matter of rights."""
    return not is_away(error) and error.code not in _RIGHTS_CODES


def describe(error: BaseException) -> str:
    """What the error says, in one line of at most 300 characters, without secrets."""
    if isinstance(error, WTimeoutError):
        return f"the primary took the write, but no majority of the replica set has confirmed it (code {error.code})"
    if isinstance(error, OperationFailure) and isinstance(error.details, dict):
        text = f"{error.details.get('errmsg') or error} (code {error.code})"
    else:
        text = str(error) or type(error).__name__
    text = text.partition(", Timeout:")[0]  # behind it pymongo prints the whole topology
    text = text.partition(" (configured timeouts:")[0]
    text = " ".join(_USER_PART.sub("//***@", text).split())
    return text if len(text) <= 300 else text[:297] + "..."


def translate(error: PyMongoError, where: str) -> EngineError:
    """The engine's error for one of pymongo's.

    Args:
        error: What pymongo raised.
        where: What was being done, for the sentence: `reading twitter_data.tweets`.
    """
    said = describe(error)
    if isinstance(error, InvalidURI | ConfigurationError):
        return ConfigError(
            f"--mongo-uri cannot be used: {said}; expected mongodb://[user:password@]host:port/[?options], "
            "with special characters of the password percent-encoded"
        )
    if isinstance(error, OperationFailure) and error.code in _RIGHTS_CODES:
        return ConfigError(
            f"{where}: MongoDB refuses the credentials or their rights ({said}): check the user, the password and "
            "authSource in --mongo-uri, and that the user may read and write this collection"
        )
    if isinstance(error, WTimeoutError):
        return SourceError(
            f"{where}: {said}: start the secondary that is down or far behind, or take it out of the set; the same "
            "command continues afterwards"
        )
    if is_away(error):
        return SourceError(
            f"{where}: MongoDB does not answer ({said}): check that it runs and that --mongo-uri names it; "
            "the same command continues afterwards"
        )
    return SourceError(f"{where}: MongoDB refused: {said}")


def attempt(call: Callable[[], T], where: str) -> T:
    """Call once; pymongo's errors become the engine's.

    Raises:
        ConfigError, SourceError: see `translate`.
    """
    try:
        return call()
    except PyMongoError as error:
        raise translate(error, where) from error


class Outage:
    """Counts how long MongoDB has been away, and how long to wait before the next try.

    Attributes:
        last_error: What the last failure said, or None.
    """

    def __init__(self, max_outage_s: float, where: str) -> None:
        self._max_outage_s = max_outage_s
        self._where = where
        self._since: float | None = None
        self._failures = 0
        self.last_error: str | None = None

    @property
    def going_on(self) -> bool:
        """Whether the last call failed."""
        return self._since is not None

    @property
    def failures(self) -> int:
        """Failed calls since the last good one."""
        return self._failures

    def over(self) -> None:
        """Note that a call worked."""
        self._since = None
        self._failures = 0

    def pause_s(self, error: PyMongoError) -> float:
        """Note a failed call; how long to wait before the next one: capped, growing, with jitter.

        Raises:
            ConfigError, SourceError: the error does not pass by itself, or the outage has lasted too long.
        """
        self.last_error = describe(error)
        if not is_away(error):
            raise translate(error, self._where) from error
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since > self._max_outage_s and isinstance(error, WTimeoutError):
            raise SourceError(
                f"{self._where}: {self.last_error} for {now - self._since:.0f} s, longer than --max-outage "
                f"{self._max_outage_s:.0f}: start the secondary that is down or far behind, or take it out of the set; "
                "the same command continues then"
            ) from error
        elif now - self._since > self._max_outage_s:
            raise SourceError(
                f"{self._where}: MongoDB has not answered for {now - self._since:.0f} s, longer than --max-outage "
                f"{self._max_outage_s:.0f} ({self.last_error}): the same command continues when it is back"
            ) from error
        self._failures += 1
        ceiling: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, 16))
        return ceiling / 2 + random.uniform(0, ceiling / 2)
