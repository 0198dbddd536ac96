"""The diagnosis of a recording: its runs, their stretches, and for each stretch what makes it slower than the usual."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.diagnosis.beginnings import begin_of
from bench.diagnosis.causes import NONE, UNKNOWN, Finding
from bench.diagnosis.changes import LEAST
from bench.diagnosis.figures import Figures, figures_of
from bench.diagnosis.rules import gpus, machine, marks, processors, source, storage, texts
from bench.diagnosis.segments import LEAST_CHANGE, edges_of, steady_part
from bench.diagnosis.server_rules import servers
from bench.recording.lumps import without_lumps
from bench.recording.recording import Recording

_FAR_CHANGE = math.log(1.12)
"""Likewise between stretches that do not touch, which were never compared sample by sample."""
_LEAST_LOSS = 0.02
_OF_ONE_SERVER = ("server_slower", "server_out", "server_flapping")
"""What is told of a single server of many although all of them together have hardly become slower."""
_SAME_TROUBLE = math.log(1.2)
_ENOUGH = 0.3
"""Share of a change that a cause has to explain."""
_MUCH = 0.4
"""Share of the processors in use from which on newcomers are to blame."""
_START_S = 60.0
_RULES = (texts, servers, source, storage, marks, processors, machine, gpus)
_NEAR_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A stretch of a run in which it went at one rate.

    Attributes:
        begin, end: Unix seconds.
        figures: What was measured in it.
        cause: A key of `bench.diagnosis.causes.CAUSES`.
        subject: What that is about.
        factor: Its documents/s over those of the stretch that it is compared with.
        evidence: Sentences with figures.
        also: Further findings, weaker ones.
    """

    begin: float
    end: float
    figures: Figures
    cause: str = NONE
    subject: str = ""
    factor: float = 1.0
    evidence: tuple[str, ...] = ()
    also: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a recording.

    Attributes:
        begin, end: Unix seconds.
        facts: Its event `new_run`, empty when that is gone.
        stretches: In order; without the start and the tail.
        figures: Of all of it.
    """

    begin: float
    end: float
    facts: dict[str, Any]
    stretches: list[Stretch]
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a recording says.

    Attributes:
        runs: In order.
        events: All of them.
    """

    runs: list[Run] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def stretches(self) -> list[Stretch]:
        """Of all runs."""
        return [stretch for run in self.runs for stretch in run.stretches]


def diagnose(recording: Recording) -> Diagnosis:
    """Find the stretches of every run and what made them slower."""
    runs = []
    for facts, part in _runs(recording):
        if len(part) == 0:
            continue
        part = without_lumps(part)  # noqa: PLW2901 - the same samples, each with what was spent in it
        cores = float(facts.get("cores") or os.cpu_count() or 1)
        events = [event for event in recording.events if part.begin[0] <= event["at"] <= part.at[-1] + 1]
        runs.append(
            Run(
                begin=float(part.begin[0]),
                end=float(part.at[-1]),
                facts=facts,
                stretches=_stretches(part, cores, events),
                figures=figures_of(part, cores),
            )
        )
    return Diagnosis(runs=runs, events=recording.events)


def _runs(recording: Recording) -> Iterator[tuple[dict[str, Any], Recording]]:
    """Every run's facts and samples; what is older than the first event that is left comes first, without facts."""
    starts = [event for event in recording.events if event["event"] == "new_run"]
    edges = [-math.inf, *(float(event["at"]) for event in starts), math.inf]
    for facts, begin, end in zip([{}, *starts], edges, edges[1:], strict=False):
        yield facts, recording.part(begin, end)


# -- stretches -------------------------------------------------------------------------------------------------


def _stretches(part: Recording, cores: float, events: list[dict[str, Any]]) -> list[Stretch]:
    steady = steady_part(part)
    if steady is None:  # too short to compare anything: what there is stands as one
        whole = Stretch(begin=float(part.begin[0]), end=float(part.at[-1]), figures=figures_of(part, cores))
        return [whole] if whole.figures.rows_s > 0 else []
    edges = edges_of(steady)
    named = _judged(steady, edges, cores, float(part.begin[0]), events)
    while (twin := _twin(named)) is not None:  # what is still the same trouble is one stretch
        gone = int(np.searchsorted(steady.at, named[twin].begin + 1e-3))
        edges.remove(min(edges[1:-1], key=lambda edge: abs(edge - gone)))
        named = _judged(steady, edges, cores, float(part.begin[0]), events)
    exact = _exact(steady, edges, named)
    return named if exact == edges else _judged(steady, exact, cores, float(part.begin[0]), events)


def _exact(steady: Recording, edges: list[int], named: list[Stretch]) -> list[int]:
    """The edges moved to where the causes of the stretches begin, and end."""
    exact = list(edges)
    skipped = len(edges) - 1 - len(named)  # the start of the run
    for position in range(1, len(named)):
        before, now = named[position - 1], named[position]
        about = now if now.cause != NONE else before
        edge = skipped + position
        low, high = exact[edge - 1] + LEAST, edges[edge + 1] - LEAST
        begin = begin_of(
            steady, edges[edge], exact[edge - 1], edges[edge + 1], cause=about.cause, subject=about.subject
        )
        if low <= begin <= high:
            exact[edge] = begin
    return exact


def _judged(
    steady: Recording, edges: list[int], cores: float, run_began: float, events: list[dict[str, Any]]
) -> list[Stretch]:
    pieces = [steady.between(low, high) for low, high in itertools.pairwise(edges)]
    plain = [
        Stretch(begin=float(piece.begin[0]), end=float(piece.at[-1]), figures=figures_of(piece, cores))
        for piece in pieces
    ]
    return _named(_without_start(plain, run_began), events)


def _twin(stretches: list[Stretch]) -> int | None:
    """The position of a stretch that goes on what the one before it is about, at about the same rate."""
    for index in range(1, len(stretches)):
        one, two = stretches[index - 1], stretches[index]
        if (one.cause, one.subject) == (two.cause, two.subject) and abs(_drop(one, two)) < _SAME_TROUBLE:
            return index
    return None


def _without_start(stretches: list[Stretch], run_began: float) -> list[Stretch]:
    """Without the slow beginnings of a run, in which windows grow."""
    kept = list(stretches)
    while len(kept) > 1:
        head, rest = kept[0], kept[1]
        is_early = head.end - run_began < _START_S and head.end - head.begin < 0.34 * (kept[-1].end - run_began)
        if not (is_early and head.figures.rows_s < rest.figures.rows_s):
            break
        del kept[0]
    return kept


# -- names -----------------------------------------------------------------------------------------------------


def _named(stretches: list[Stretch], events: list[dict[str, Any]]) -> list[Stretch]:
    usual = _usual(stretches)
    named = []
    for index, stretch in enumerate(stretches):
        previous = stretches[index - 1] if index else None
        named.append(_name(stretch, previous, usual, events))
    return named


def _usual(stretches: list[Stretch]) -> Stretch:
    """The one that others are compared with: of those that do about the most tokens a second, the first long one."""
    length = sum(stretch.end - stretch.begin for stretch in stretches)
    long = [stretch for stretch in stretches if stretch.end - stretch.begin >= 0.1 * length] or stretches
    best = max(_speed(stretch) for stretch in long)
    fast = [stretch for stretch in long if _speed(stretch) >= best / math.exp(LEAST_CHANGE)]
    longest = max(stretch.end - stretch.begin for stretch in fast)
    return next(stretch for stretch in fast if stretch.end - stretch.begin >= longest / 3)


def _speed(stretch: Stretch) -> float:
    tokens_s = stretch.figures.tokens_s
    return tokens_s if tokens_s > 0 else stretch.figures.rows_s


def _drop(before: Stretch, now: Stretch) -> float:
    """log(before / now) of documents a second."""
    return math.log(max(before.figures.rows_s, 1e-3) / max(now.figures.rows_s, 1e-3))


def _name(stretch: Stretch, previous: Stretch | None, usual: Stretch, events: list[dict[str, Any]]) -> Stretch:
    """A stretch with its cause: what changed when it began, or, when it began faster, what is still slower."""
    before = usual
    if previous is not None and _drop(previous, stretch) >= LEAST_CHANGE and _drop(usual, stretch) >= LEAST_CHANGE:
        before = previous
    drop = _drop(before, stretch)
    rules = _RULES if drop >= LEAST_CHANGE else ((texts,) if drop <= -LEAST_CHANGE else ())
    findings = [finding for rule in rules for finding in rule(before.figures, stretch.figures, drop)]
    if abs(drop) < LEAST_CHANGE and stretch is not usual:
        findings += marks(usual.figures, stretch.figures, drop)  # it shows in documents/s only when it is too late
        if drop > _LEAST_LOSS:
            findings += [one for one in servers(usual.figures, stretch.figures, drop) if one.cause in _OF_ONE_SERVER]
    if drop >= LEAST_CHANGE:
        findings += [*_restarts(stretch, events), *_newcomers(stretch, events)]
    findings = _once([*findings])
    strong = [finding for finding in findings if finding.explains >= _ENOUGH]
    factor = math.exp(-drop)
    if strong:
        found, also = strong[0], strong[1:]
    elif drop >= (LEAST_CHANGE if before is previous else _FAR_CHANGE):
        found, also = Finding(cause=UNKNOWN, evidence=_what_it_is_not(before.figures, stretch.figures)), findings
    else:
        found, also = Finding(cause=NONE), []
    evidence = found.evidence
    if found.cause == "busy_machine":
        evidence += tuple(_busiest(stretch, events))
    if found.cause == "gpu_throttled":
        evidence += tuple(_server_of(found.subject, stretch, events))
    return Stretch(
        begin=stretch.begin,
        end=stretch.end,
        figures=stretch.figures,
        cause=found.cause,
        subject=found.subject,
        factor=factor,
        evidence=evidence + tuple(_told(stretch, events)) if found.cause != NONE else evidence,
        also=tuple(also),
    )


def _once(findings: list[Finding]) -> list[Finding]:
    """The strongest finding of each cause, the strongest first."""
    best: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda finding: -finding.explains):
        best.setdefault(finding.cause, finding)
    return list(best.values())


def _restarts(stretch: Stretch, events: list[dict[str, Any]]) -> list[Finding]:
    reasons = [
        str(event.get("reason", ""))
        for event in events
        if event["event"] in ("restart", "refusal") and stretch.begin - 5 <= event["at"] <= stretch.end
    ]
    if not reasons or stretch.end - stretch.begin > 120 * len(reasons):
        return []
    return [Finding(cause="restart", explains=0.97, evidence=tuple(reasons[:3]))]


def _newcomers(stretch: Stretch, events: list[dict[str, Any]]) -> list[Finding]:
    """Processes that take much of a full machine and did not before: where servers had filled it, it shows only so."""
    busy = [event for event in events if event["event"] == "busy_processes"]
    known = {process["pid"] for event in busy if event["at"] < stretch.begin for process in event["processes"]}
    looks = [event["processes"] for event in busy if stretch.begin <= event["at"] <= stretch.end]
    if not known or not looks:
        return []
    new = [[process for process in look if process["pid"] not in known] for look in looks]
    cores = sum(process["cores"] for look in new for process in look) / len(looks)
    share = cores / max(1e-9, stretch.figures["own_cores"] + stretch.figures["other_cores"])
    if not share >= _MUCH:
        return []
    names = Counter(process["name"] for look in new for process in look)
    told = ", ".join(f"{name} ({count // len(looks) or 1})" for name, count in names.most_common(3))
    return [
        Finding(
            cause="busy_machine",
            explains=0.97,
            evidence=(f"processes that were not busy before use {cores:.1f} processors ({share:.0%}): {told}",),
        )
    ]


def _busiest(stretch: Stretch, events: list[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        if event["event"] == "busy_processes" and stretch.begin <= event["at"] <= stretch.end and event["processes"]:
            names = ", ".join(
                f"{process['name']} ({process['pid']}): {process['cores']:g}" for process in event["processes"]
            )
            yield f"processors used by other processes then: {names}"
            return


def _server_of(gpu: str, stretch: Stretch, events: list[dict[str, Any]]) -> Iterator[str]:
    """The server that works on a GPU, as last seen before the end of a stretch."""
    urls = [
        event["url"]
        for event in events
        if event["event"] == "gpu" and f"gpu-{event['index']}" == gpu and event["at"] <= stretch.end
    ]
    if urls:
        yield f"{gpu} is the GPU of {urls[-1]}"


def _told(stretch: Stretch, events: list[dict[str, Any]]) -> Iterator[str]:
    """Events close to the beginning of a stretch."""
    for event in events:
        if event["event"] in ("server_out", "server_back", "restart") and abs(event["at"] - stretch.begin) <= _NEAR_S:
            what = event.get("url", "")
            yield f"{event['at'] - stretch.begin:+.0f} s: {event['event']} {what} {event.get('reason', '')}".rstrip()


def _what_it_is_not(before: Figures, now: Figures) -> tuple[str, ...]:
    """What was looked at and has not changed by much."""
    same = []
    for what, was, is_ in (
        ("tokens a document", before.tokens, now.tokens),
        ("seconds a page", before["page"], now["page"]),
        ("seconds to mark a thousand documents", before["mark_row"], now["mark_row"]),
        ("seconds to write a MiB", before["cold_write"], now["cold_write"]),
        ("seconds an fsync of the ledger", before["hot_fsync"], now["hot_fsync"]),
        ("processors used by others", before["other_cores"], now["other_cores"]),
    ):
        if was > 0 and is_ > 0 and 0.8 <= is_ / was <= 1.25:
            same.append(f"not {what}: {is_:.3g}, before {was:.3g}")
    up = [url for url, server in now.servers.items() if not server.up < 0.9]
    return (*same, f"{len(up)} of {len(now.servers)} servers in service")
