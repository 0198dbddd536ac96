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


def require_same_canary(
    state: RunState, canary: str, folders: RunFolders, accept_cosine: float | None = None
) -> float | None:
    """Refuse servers that embed the canary texts otherwise than those that the data set was begun with.

    Vectors that were accepted once are as good as those of the first start. A ledger without a canary, or with one
    that cannot be read, has nothing to compare with: it is continued.

    Args:
        state: The ledger, its RUN record included.
        canary: The servers' vectors of the canary texts (`Canary.encode`).
        accept_cosine: The lowest cosine with those of the first start that the user has agreed to, if any.

    Returns:
        The cosine that was accepted only because the user has agreed to it, else None.

    Raises:
        FingerprintMismatch: the cosine of a text's vectors is below `MIN_COSINE`, and below what was agreed to.
    """
    cosine = strange_cosine(state, canary)
    if cosine is None or (accept_cosine is not None and cosine >= accept_cosine):
        return cosine
    raise FingerprintMismatch(
        f"this run would not continue the data set of {folders.hot}: the servers give other vectors of the canary "
        f"texts than those it was begun with (cosine {cosine:.4f}, expected at least {accept_cosine or MIN_COSINE}): "
        "start the servers with the weights, default prompt and options of before, or begin another data set with "
        "another --done-field; when only the hardware has changed, see --accept-vectors"
    )


def strange_cosine(state: RunState, canary: str) -> float | None:
    """The lowest cosine of a text's vectors with those of the first start, when they are others.

    None when they are the same, or when there is nothing to compare with.
    """
    recorded = state.run.get("canary") if state.run is not None else None
    there, here = _decoded(recorded), _decoded(canary)
    if there is None or here is None or there.mixed.shape != here.mixed.shape:
        if recorded is not None:
            _log.warning("canary_not_compared: what the ledger has recorded cannot be read")
        return None
    cosine = _lowest_cosine(there, here)
    agreed = [known for record in state.accepted if (known := _decoded(record.get("canary"))) is not None]
    if cosine >= MIN_COSINE or any(_lowest_cosine(known, here) >= MIN_COSINE for known in agreed):
        return None
    return cosine


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
