"""The rules about servers: which of them lost how much of the throughput, and whether by absence, work or way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.diagnosis.causes import Finding
from bench.diagnosis.figures import Figures, ServerFigures
from bench.diagnosis.rules import HELD, STARVED, grown, over, than_before

_SLOWER = 1.2
_MOST = 0.7
"""Share of the servers from which on it is all of them."""


@dataclass(frozen=True, slots=True)
class _Loss:
    """What one server has lost of its tokens a second, as a share of what all lost."""

    url: str
    share: float
    before: ServerFigures
    now: ServerFigures


def servers(before: Figures, now: Figures, _drop: float) -> Iterator[Finding]:
    """Servers that are out, slower, far, overloaded or failing, when it is they who set the pace."""
    losses = _losses(before, now)
    yield from _absent(losses)
    if over(now, "starved", 2 * STARVED) or over(now, "held", HELD) or over(now, "vectors_busy", 0.8):
        return  # they wait for documents, or for room
    present = [loss for loss in losses if not _is_absent(loss)]
    yield from _refusing(present)
    yield from _slower(present)
    yield from _far(present, is_busy=over(now, "cpu_busy", 0.97))


def _losses(before: Figures, now: Figures) -> list[_Loss]:
    """Servers of both stretches, those first that lost most; what others gained is not set off against it."""
    pairs = {url: (before.servers[url], facts) for url, facts in now.servers.items() if url in before.servers}
    lost = {url: max(0.0, was.tokens_s - is_.tokens_s) for url, (was, is_) in pairs.items()}
    total = sum(lost.values())
    if not total:
        return []
    return [_Loss(url, lost[url] / total, *pairs[url]) for url in sorted(lost, key=lambda url: -lost[url])]


def _is_absent(loss: _Loss) -> bool:
    return loss.before.up - loss.now.up > 0.1


def _absent(losses: list[_Loss]) -> Iterator[Finding]:
    absent = [loss for loss in losses if _is_absent(loss)]
    if not absent:
        return
    worst = absent[0]
    comes_back = worst.now.outs >= 2  # it must have been back in between
    yield Finding(
        cause="server_flapping" if comes_back else "server_out",
        subject="all servers" if _are_all(absent, losses) else worst.url,
        explains=min(0.98, sum(loss.share for loss in absent)),
        evidence=(
            *(than_before(f"{loss.url} in service", loss.before.up, loss.now.up, "{:.0%}") for loss in absent),
            f"it was taken out {worst.now.outs:.0f} times",
            than_before("its tokens a second", worst.before.tokens_s, worst.now.tokens_s, "{:,.0f}"),
        ),
    )


def _are_all(some: list[_Loss], losses: list[_Loss]) -> bool:
    return len(some) > 1 and len(some) >= _MOST * len(losses)


def _is_new(before: float, now: float) -> bool:
    return now >= 0.05 and not before > 0.5 * now


def _refusing(losses: list[_Loss]) -> Iterator[Finding]:
    for cause, what, key in (
        ("server_overloaded", "requests answered 429", "rejected"),
        ("server_errors", "requests that failed and were repeated", "failed"),
    ):
        found = [loss for loss in losses if _is_new(getattr(loss.before, key), getattr(loss.now, key))]
        if found:
            worst = found[0]
            yield Finding(
                cause=cause,
                subject=worst.url if len(found) < _MOST * len(losses) else "all servers",
                explains=0.8 * min(1.0, sum(loss.share for loss in found)),
                evidence=tuple(
                    than_before(f"{loss.url}: {what}", getattr(loss.before, key), getattr(loss.now, key), "{:.0%}")
                    for loss in found
                ),
            )


def _slower(losses: list[_Loss]) -> Iterator[Finding]:
    slower = [loss for loss in losses if grown(loss.before.inference, loss.now.inference, _SLOWER)]
    if not slower:
        return
    is_all = _are_all(slower, losses)
    yield Finding(
        cause="servers_slower" if is_all else "server_slower",
        subject="all servers" if is_all else slower[0].url,
        explains=min(0.96, sum(loss.share for loss in slower)),
        evidence=tuple(
            than_before(f"{loss.url}: its own seconds for a thousand tokens", loss.before.inference, loss.now.inference)
            for loss in slower
        )
        + tuple(
            than_before(f"{loss.url}: tokens a second", loss.before.tokens_s, loss.now.tokens_s, "{:,.0f}")
            for loss in slower
        ),
    )


def _far(losses: list[_Loss], *, is_busy: bool) -> Iterator[Finding]:
    far = []
    for loss in losses:
        more = loss.now.network - loss.before.network
        if grown(loss.before.network, loss.now.network, 1.4) and more > 0.4 * (loss.now.latency - loss.before.latency):
            far.append(loss)
    if not far or sum(loss.share for loss in far) < 0.3:
        return
    is_all = _are_all(far, losses)
    names_times = all(loss.now.inference > 0 for loss in far)
    one_by_one = "network_slower" if names_times else "server_slower"
    yield Finding(
        cause=("network_slower" if names_times else "servers_slower") if is_all else one_by_one,
        subject="all servers" if is_all else far[0].url,
        explains=(0.45 if is_busy and is_all else 0.9) * min(1.0, sum(loss.share for loss in far)),
        evidence=tuple(
            than_before(f"{loss.url}: seconds an answer beyond the server's own", loss.before.network, loss.now.network)
            for loss in far
        )
        + tuple(than_before(f"{loss.url}: seconds an answer", loss.before.latency, loss.now.latency) for loss in far),
    )
