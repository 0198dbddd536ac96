"""Does a server pad? `/info` does not tell, so it is measured: whether short texts cost as much as the long one beside
them.

A server that pads gives every text of a GPU batch the length of the longest, so one long text among three short ones
costs as much as four long ones; a server with flash attention computes what there is. The answer decides whether
sorting documents by length is worth it.
"""

from __future__ import annotations

import math
from collections.abc import Generator

from gpu_clients.http.connection import Exchange
from gpu_clients.server_facts import ServerFacts
from gpu_clients.servers.canary import canary_texts
from gpu_clients.servers.measured.embedding import embedding_request
from gpu_clients.servers.probe_request import ProbeRequest
from gpu_clients.servers.routes import Route

_TEXTS = 16
_ONE_LONG_IN = 4
_ROUNDS = 3
_ENOUGH_S = 0.6
"""Once that much time was spent, what is left of chance is small beside it."""
QUICK_S = 0.2
"""A server that takes longer for two long texts is not asked at all: on a CPU the measurement would take minutes."""
_TOO_SLOW_S = 2.0
_TOO_QUICK_S = 0.01
"""Below that the network and the fixed part of a GPU batch outweigh what is looked for."""
_PADS = 0.75
_DOES_NOT = 0.5


def measure_padding(route: Route, facts: ServerFacts, dim: int) -> Generator[ProbeRequest, Exchange, bool | None]:
    """Whether the server pads; None when it cannot be told (too quick, too slow, too few texts, in between)."""
    n_texts = min(_TEXTS, facts.max_client_batch_size or _TEXTS, facts.max_concurrent_requests or _TEXTS)
    if n_texts < _ONE_LONG_IN:
        return None
    long_text = canary_texts(facts.canary_limit)[2]
    # long ones last in each four: TEI may send the first text to the GPU before it has the others
    mixed = [long_text if number % _ONE_LONG_IN == _ONE_LONG_IN - 1 else "a" for number in range(n_texts)]
    mixed_s = all_s = math.inf
    spent_s = 0.0
    for _ in range(_ROUNDS):
        for texts in (mixed, [long_text] * n_texts):
            exchange = yield embedding_request(route, texts, dim)
            took_s = exchange.finished_s - exchange.started_s
            good = exchange.failure is None and exchange.status == 200
            exchange.release()
            if not good or took_s > _TOO_SLOW_S:
                return None
            spent_s += took_s
            if texts is mixed:
                mixed_s = min(mixed_s, took_s)
            else:
                all_s = min(all_s, took_s)
        if spent_s > _ENOUGH_S:
            break
    if all_s < _TOO_QUICK_S:
        return None
    share = mixed_s / all_s
    return True if share >= _PADS else False if share <= _DOES_NOT else None
