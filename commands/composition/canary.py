"""The canary's vectors in the ledger, compared at every start: do these servers give the vectors of this data set?

A server's description of itself is in the fingerprint. It says nothing of a default prompt, nor of the weights behind
a path whose revision nobody knows; their vectors do.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from engine.errors import FingerprintMismatch
from engine.ledger.log import RunState
from engine.ledger.runfolder import RunFolders
from gpu_clients.servers.canary import Arrangement, Canary
from gpu_clients.vectors.soundness import MIN_COSINE

_log = logging.getLogger("engine.dataset")


def require_same_canary(state: RunState, canary: str, folders: RunFolders) -> None:
    """Refuse servers that embed the canary texts otherwise than those that the data set was begun with.

    A ledger without a canary, or with one that cannot be read, has nothing to compare with: it is continued.

    Args:
        state: The ledger, its RUN record included.
        canary: The servers' vectors of the canary texts (`Canary.encode`).

    Raises:
        FingerprintMismatch: the cosine of a text's vectors is below `MIN_COSINE`.
    """
    recorded = state.run.get("canary") if state.run is not None else None
    there, here = _decoded(recorded), _decoded(canary)
    if there is None or here is None or there.mixed.shape != here.mixed.shape:
        if recorded is not None:
            _log.warning("canary_not_compared ledger=%s: what it has recorded cannot be read", folders.ledger)
        return
    cosine = _lowest_cosine(there, here)
    if not cosine >= MIN_COSINE:
        raise FingerprintMismatch(
            f"this run would not continue the data set of {folders.hot}: the servers give other vectors of the canary "
            f"texts than those it was begun with (cosine {cosine:.4f}, expected at least {MIN_COSINE}): start the "
            "servers with the weights, default prompt and options of before, or begin another data set with another "
            "--done-field"
        )


def _lowest_cosine(there: Canary, here: Canary) -> float:
    """The lowest cosine of a text's vector with the nearest one that is recorded of that text; NaN for no vectors.

    The nearest, because a server that is busy with other work mixes requests: where a text's vector hangs on its
    neighbours, it may come today as it came in another arrangement then. Only texts that are the same count: a server
    of another limit, or one that says by now how long a text may be, gets a longer or shorter long text.
    """
    mixed = there.cosine(Arrangement.MIXED, here.mixed, here.limit)
    equal = there.cosine(Arrangement.EQUAL, here.equal, here.limit)
    return mixed if not mixed >= equal else equal


def _decoded(text: Any) -> Canary | None:
    """The canary of a text, None when it is not what `Canary.encode` writes."""
    try:
        canary = Canary.decode(text)
    except (TypeError, ValueError):  # of the base64, or of the number of rows
        return None
    return canary if np.isfinite(canary.mixed).all() and np.isfinite(canary.equal).all() else None
