"""The judge of a report: whether it names what was done to a run, since when, and blames nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.diagnosis.diagnosis import Stretch, diagnose
from bench.recording.recording import read_recording
from tests.bench.diagnosis.plays import Played, Trouble

WITHIN_S = 30.0
"""Of its beginning a trouble has to be told."""
DISTURBED_CORES = 0.3
"""Processors that others use more, or fewer, after the beginning: the run was not only troubled by us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What was told, and what is wrong with it.

    Attributes:
        told: Cause, subject, and seconds from the trouble's beginning, of each stretch that is not the usual.
        faults: Sentences; none when it is right.
        is_disturbed: Whether others on this machine began, or ceased, to take much of it meanwhile.
    """

    told: list[tuple[str, str, float]]
    faults: list[str] = field(default_factory=list)
    is_disturbed: bool

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.faults


def judge(trouble: Trouble, played: Played) -> Judgement:
    """Judge the report about a run that is over."""
    stretches = diagnose(read_recording(played.folder / "history")).stretches
    found = [stretch for stretch in stretches if stretch.cause != "none"]
    return Judgement(
        told=[(stretch.cause, stretch.subject, stretch.begin - played.began_at) for stretch in found],
        faults=_faults(trouble, played, found),
        is_disturbed=abs(played.others[1] - played.others[0]) > DISTURBED_CORES,
    )


def _faults(trouble: Trouble, played: Played, found: list[Stretch]) -> list[str]:
    wrong = sorted({stretch.cause for stretch in found} - trouble.causes)
    faults = [f"blames {', '.join(wrong)}"] if wrong else []
    if not trouble.causes or not found:
        return [*faults, *(["tells of nothing"] if trouble.causes and not trouble.may_pass else [])]
    named = {stretch.cause for stretch in found} | {one.cause for stretch in found for one in stretch.also}
    if trouble.all_of and trouble.causes - named:
        faults.append(f"does not name {', '.join(sorted(trouble.causes - named))}")
    off_s = found[0].begin - played.began_at
    if abs(off_s) > WITHIN_S:
        faults.append(f"begins {off_s:+.0f} s off")
    if played.subject is not None and found[0].subject != played.subject:
        faults.append(f"is about {found[0].subject!r}, not {played.subject}")
    return faults
