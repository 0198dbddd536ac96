"""Does a long text's vector hang on its neighbours? It is asked for alone, and among equals, at several lengths.

TEI's Gemma3 loses its sliding window in a GPU batch whose texts all have one length, and then a text longer than half
of the window gets another vector. Sorting by length, and cutting at the limit, make equal lengths common.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from gpu_clients.http.answers import BadAnswer
from gpu_clients.http.connection import Exchange
from gpu_clients.server_facts import ServerFacts
from gpu_clients.servers.canary import long_text
from gpu_clients.servers.measured.embedding import embedding_request
from gpu_clients.servers.probe_request import ProbeRequest
from gpu_clients.servers.routes import Route
from gpu_clients.vectors.decode import Matrix, VectorDecoder
from gpu_clients.vectors.soundness import MIN_COSINE, lowest_cosine, scale_to_unit

LENGTHS = (1_536, 768, 384)
"""Tokens, beside the model's limit: three times the windows of 512 and 256 that models have, and less."""
EQUALS = (4, 8)
ROUNDS = 2
_TOO_SLOW_S = 2.0
_CHARACTERS_PER_TOKEN = 4
_CHARACTERS_TO_BE_CUT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """What was found out about long texts.

    Attributes:
        matter_from: The shortest of the lengths, in tokens, at which a text among equals has another vector; None when
            it has none.
        cosine: The lowest of such a vector with that of the text alone.
        asked: The lengths that were asked for; a server that is slow is asked for fewer.
    """

    matter_from: int | None = None
    cosine: float = 1.0
    asked: tuple[int, ...] = ()


def measure_neighbours(
    route: Route, facts: ServerFacts, dim: int, *, cuts: bool, thorough: bool
) -> Generator[ProbeRequest, Exchange, Neighbours]:
    """Ask for long texts alone and among equals.

    Args:
        cuts: Whether the server may be sent a text that is longer than it takes.
        thorough: Whether to ask at every length, with more equals, several times; otherwise at the longest two, once.
    """
    limit = facts.max_input_length
    if limit is None:
        return Neighbours()
    lengths = [limit, *(length for length in LENGTHS if length < limit)]
    most = min(facts.max_client_batch_size or EQUALS[-1], facts.max_concurrent_requests or EQUALS[-1])
    equals = [n_texts for n_texts in EQUALS if n_texts <= most]
    found = Neighbours()
    for length in lengths if thorough else lengths[:2]:
        characters = length * (_CHARACTERS_TO_BE_CUT if length == limit and cuts else _CHARACTERS_PER_TOKEN)
        if length == limit and not cuts:
            characters = characters * 3 // 4
        cosine = yield from _lowest(
            route, long_text(characters), dim, equals if thorough else equals[:1], ROUNDS if thorough else 1
        )
        if cosine is None:
            continue
        asked = (*found.asked, length)
        if cosine >= MIN_COSINE:
            found = Neighbours(matter_from=found.matter_from, cosine=found.cosine, asked=asked)
        else:
            found = Neighbours(matter_from=length, cosine=min(cosine, found.cosine), asked=asked)
    return found


def _lowest(
    route: Route, text: str, dim: int, equals: list[int], rounds: int
) -> Generator[ProbeRequest, Exchange, float | None]:
    """The lowest cosine of the text among equals with itself alone; None when the server is too slow, or not steady."""
    alone, took_s = yield from _vectors(route, [text], dim)
    lowest: float | None = None
    for n_texts in equals * rounds:
        if alone is None or n_texts * took_s > _TOO_SLOW_S:
            break
        among, _ = yield from _vectors(route, [text] * n_texts, dim)
        if among is None:
            break
        cosine = min(lowest_cosine(among[row : row + 1], alone) for row in range(n_texts))
        lowest = cosine if lowest is None or cosine < lowest else lowest
    if lowest is not None and alone is not None and not lowest >= MIN_COSINE:
        again, _ = yield from _vectors(route, [text], dim)
        if again is None or not lowest_cosine(again, alone) >= MIN_COSINE:
            return None  # it changes by itself: another matter
    return lowest


def _vectors(
    route: Route, texts: list[str], dim: int
) -> Generator[ProbeRequest, Exchange, tuple[Matrix | None, float]]:
    exchange = yield embedding_request(route, texts, dim)
    took_s = exchange.finished_s - exchange.started_s
    matrix: Matrix | None = None
    if exchange.failure is None and exchange.status == 200:
        try:
            matrix = VectorDecoder(route.form, dim, is_indexed=route.is_indexed).decode(exchange.body, len(texts))
        except BadAnswer:
            matrix = None
    exchange.release()
    if matrix is not None and route.scale:
        scale_to_unit(matrix)
    return matrix, took_s
