"""The preflight of a cold store: every act that a run will need there is tried before anything is embedded."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
from collections.abc import Iterator

from engine.errors import SinkError
from engine.objects.object_store import ObjectStore, Taken, Trouble
from engine.objects.patience import repeated

_log = logging.getLogger("engine.preflight")
START_BUDGET_S = 10.0
"""How long a start waits for a store that does not answer."""
TRIALS = "preflight"
_BYTES = b"the engine tries what it will need here\n"


def check_store(store: ObjectStore, name: str, budget_s: float) -> bool:
    """Try what shards need: list, create, a taken name that is refused, size and bytes read back, delete.

    Args:
        name: Told apart from other runs' trials.
        budget_s: Seconds that a store which does not answer is waited for.

    Returns:
        Whether the store's ETag of an object is the MD5 of its bytes.

    Raises:
        SinkError: something is missing; the sentence says what.
    """
    trial = f"{TRIALS}/{name}.{secrets.token_hex(8)}"
    with _needs(store, "list objects"):
        left = repeated(lambda: [found.name for found in store.list(TRIALS)], store.where(), budget_s)
    with _needs(store, "create an object"):
        repeated(lambda: _create(store, trial), store.where(trial), budget_s)
    left.append(trial)
    try:
        with _needs(store, "refuse a name that is taken"):
            try:
                store.put_new(trial, _BYTES)
            except Taken:
                pass
            else:
                raise Trouble("it gave the name a second time, so objects could replace each other there")
        with _needs(store, "read back what was stored"):
            stored = repeated(lambda: store.head(trial), store.where(trial), budget_s)
            data = repeated(lambda: store.get_range(trial, 0, len(_BYTES)), store.where(trial), budget_s)
            if stored.size_bytes != len(_BYTES) or bytes(data) != _BYTES:
                raise Trouble("it gave other bytes")
        with _needs(store, "list what was stored"):
            names = repeated(lambda: [found.name for found in store.list(TRIALS)], store.where(), budget_s)
            if trial not in names:
                raise Trouble("its list does not have an object that it has")
    finally:
        with _needs(store, "delete an object"):
            for each in left:
                if each.startswith(f"{TRIALS}/{name}."):  # what a killed start left of its own goes too
                    repeated(lambda each=each: store.delete(each), store.where(each), budget_s)  # type: ignore[misc]
    by_e_tag = stored.e_tag == hashlib.md5(_BYTES, usedforsecurity=False).hexdigest()
    _log.info("cold_store where=%s compared_by=%s", store.where(), "etag (MD5)" if by_e_tag else "reading back")
    return by_e_tag


def _create(store: ObjectStore, trial: str) -> None:
    with contextlib.suppress(Taken):  # an answer that was lost: the name is random, so it is ours
        store.put_new(trial, _BYTES)


@contextlib.contextmanager
def _needs(store: ObjectStore, act: str) -> Iterator[None]:
    """What the store says to an act becomes a sentence that names it."""
    try:
        yield
    except (Trouble, SinkError) as error:
        reason = error.__cause__ if isinstance(error, SinkError) and error.__cause__ is not None else error
        raise SinkError(
            f"the cold store {store.where()} cannot do what is needed there: {act} ({reason}); nothing was begun: see "
            "to --cold-dir, --cold-endpoint and the credentials in the environment (AWS_ACCESS_KEY_ID, ...)"
        ) from error
