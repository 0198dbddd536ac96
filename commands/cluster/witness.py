"""One place for the shards of all nodes: the driver leaves a witness there, and each node looks for it.

A folder that is not mounted on a node, a URL that means another store there (`localhost`), or one that may not be
written from there would cost a node all its work; so it is refused by name before anything is embedded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import sys
from contextlib import ExitStack

from commands.composition.cold import cold_settings, keep_secrets
from engine.config import RunConfig
from engine.errors import EngineError, SinkError
from engine.ledger import preflight
from engine.memory.channels import Message
from writers.cold.settings import ColdSettings


def leave_witness(config: RunConfig, cold: ColdSettings | None, stack: ExitStack) -> Message:
    """Write a witness where shards go; what nodes are told of it.

    Args:
        cold: The store, None when cold is a folder.
        stack: Removes it; after a kill the next start does.

    Raises:
        SinkError: it cannot be written.
    """
    text = secrets.token_hex(16)
    if cold is not None:
        return _leave_object(f"{config.source.done_field}.nodes-{text[:8]}", text, cold, stack)
    path = config.folders.cold / f".nodes-{config.source.done_field}"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SinkError(f"cannot write {path} ({error.strerror}): make --cold-dir writable") from error
    stack.callback(path.unlink, missing_ok=True)
    return {"name": path.name, "text": text}


def _leave_object(name: str, text: str, cold: ColdSettings, stack: ExitStack) -> Message:
    """The same on a store, among the trials of starts: each start removes what begins with its done field."""
    from engine.objects.object_store import Taken  # noqa: PLC0415 - only a URL pays for the library
    from engine.objects.patience import repeated  # noqa: PLC0415
    from writers.cold.preflight import START_BUDGET_S, TRIALS  # noqa: PLC0415

    store, witness = cold.open(), f"{TRIALS}/{name}"

    def put() -> None:
        with contextlib.suppress(Taken):  # an answer that was lost: the name is random, so it is ours
            store.put_new(witness, text.encode())

    def remove() -> None:
        """It goes, and with it the trials of nodes whose process ended in the middle of one: they bear its name."""
        with contextlib.suppress(EngineError):
            left = repeated(lambda: [found.name for found in store.list(TRIALS)], store.where(), START_BUDGET_S)
            for each in (each for each in left if each.startswith(witness)):
                repeated(lambda each=each: store.delete(each), store.where(each), START_BUDGET_S)  # type: ignore[misc]

    stack.callback(remove)
    repeated(put, store.where(witness), cold.budget_s)
    return {"name": name, "text": text}


def try_shared_cold(config: RunConfig, witness: Message) -> ColdSettings | None:
    """Look for the driver's witness from a node, and try what shards will need.

    Returns:
        The store's settings, None when cold is a folder.

    Raises:
        SinkError: it is another place here, or shards cannot be written from here; one sentence says what.
        ConfigError: the store's library is missing.
    """
    cold = cold_settings(config)
    if cold is None:
        _require_folder(config, witness)
        return None
    from engine.objects.object_store import Absent  # noqa: PLC0415 - only a URL pays for the library
    from engine.objects.patience import repeated  # noqa: PLC0415
    from writers.cold.preflight import START_BUDGET_S, TRIALS, check_store  # noqa: PLC0415

    keep_secrets()
    config.folders.shards.mkdir(parents=True, exist_ok=True)
    preflight.check_shards_folder(config.folders.shards, config.sink.shard_bytes, config.source.done_field)
    store, name = cold.open(), f"{TRIALS}/{witness['name']}"
    budget_s = min(START_BUDGET_S, cold.budget_s)
    # nodes try side by side, and none may take another one's trial for what a killed start has left
    by_e_tag = check_store(store, f"{witness['name']}.{secrets.token_hex(8)}", budget_s)
    try:
        text = bytes(repeated(lambda: store.get_range(name, 0, len(witness["text"])), store.where(name), budget_s))
    except Absent:
        text = b""
    if text != witness["text"].encode():
        raise SinkError(
            f"{store.where()} is not the driver's store (what the driver has written there is not there): --cold-dir, "
            "--cold-endpoint and the environment have to mean the same store on every node"
        )
    return dataclasses.replace(cold, by_e_tag=by_e_tag, keeps_copies=False)


def may_pass(error: BaseException) -> bool:
    """Whether a store that did not answer is what an error comes from: the node is tried again later then."""
    if "engine.objects.object_store" not in sys.modules:
        return False
    from engine.objects.object_store import Unsure  # noqa: PLC0415

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, Unsure):
        cause = cause.__cause__
    return cause is not None


def _require_folder(config: RunConfig, witness: Message) -> None:
    path = config.folders.cold / witness["name"]
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SinkError(
            f"{config.folders.cold} is not the driver's folder ({error.strerror}: {witness['name']}): "
            "--cold-dir has to be one folder that all nodes share, under the same path, or a URL"
        ) from error
    if text != witness["text"]:
        raise SinkError(f"{path} is not what the driver has written: --cold-dir is another folder here")
