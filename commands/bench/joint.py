"""Server flags and operating point together: a fleet of ours, started anew with each setting that can still win."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.fleet.flags import as_words
from bench.fleet.fleet import ServerFleet
from bench.fleet.plan import FleetPlan
from bench.tuner.joint.joint import JointFindings, JointSearch, Tried
from bench.tuner.joint.settings import Axis, Setting, count_settings
from bench.tuner.measure.visit import Point
from bench.tuner.report.page import Table
from bench.tuner.report.tuned import TunedServer
from bench.tuner.search.findings import Findings
from bench.tuner.search.record import Record
from bench.tuner.tuning import Outcome, Tuning
from commands.bench.bench import BenchConfig, BenchResult, prepare, tell, write_down
from commands.composition.own_servers import with_flags
from commands.options.secrets import RunSecrets
from engine.errors import Exit
from engine.supervision.signals import Terminated
from gpu_clients.servers.doctor import examine

_log = logging.getLogger("engine.bench")


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsTried:
    """What became of the settings.

    Attributes:
        axes: What might be tried.
        findings: What was.
        flags: The best setting's flags with those that were given, on one line; None when none works.
    """

    axes: tuple[Axis, ...]
    findings: JointFindings
    flags: str | None


@dataclass(slots=True)
class _RealTrial:
    """A fleet that runs with one setting; see `bench.tuner.joint.joint.Trial`."""

    tuning: Tuning

    def sight(self, point: Point, *, bucketing: bool, expected_per_s: float) -> Record | None:
        return self.tuning.sight(point, bucketing=bucketing, expected_per_s=expected_per_s)

    def search(self, worth_beating: float | None) -> Findings:
        return self.tuning.run(worth_beating).findings

    def go_on(self, former: Findings, budgets: float, worth_beating: float | None) -> Findings:
        self.tuning.adopt(former, budgets)
        return self.tuning.run(worth_beating).findings


def find_joint_point(
    config: BenchConfig, plan: FleetPlan, axes: tuple[Axis, ...], secrets: RunSecrets
) -> tuple[BenchResult, SettingsTried]:
    """Find the best setting and its operating point, and write both down.

    Args:
        plan: The fleet, with the flags that all settings have in common.

    Raises:
        ConfigError, SourceError, SinkError: see `commands.bench.bench.find_operating_point`.
        ServersUnavailable: no setting works.
    """
    settings, texts = prepare(config, secrets)
    outcomes: dict[Setting, Outcome] = {}

    @contextlib.contextmanager
    def run(setting: Setting) -> Iterator[_RealTrial]:
        _log.info("setting_started %s", setting)
        with ServerFleet(with_flags(plan, dict(setting.values))).quietly():
            fleet = examine(settings)
            with Tuning(fleet, settings, texts, config.plan, listener=tell) as tuning:
                try:
                    yield _RealTrial(tuning)
                finally:
                    outcomes[setting] = tuning.outcome()

    search = JointSearch(axes, run, refine=config.plan.tune.target_p95_s is not None, listener=_tell)
    code, sentence = Exit.DONE, None
    try:
        search.search()
    except KeyboardInterrupt:
        if not outcomes:
            raise
        code, sentence = Exit.SIGINT, "stopped by SIGINT"
    except Terminated as stop:
        if not outcomes:
            raise
        code, sentence = Exit.SIGTERM, f"stopped by {stop.number.name}"
    best = search.findings.best
    setting = best.setting if best is not None else list(outcomes)[-1]
    flags = {**plan.flags, **dict(setting.values)}
    server = TunedServer(backend=plan.backend, flags=" ".join(as_words(flags))) if best is not None else None
    result = BenchResult(outcome=outcomes[setting], exit_code=code, sentence=sentence)
    tried = SettingsTried(axes=axes, findings=search.findings, flags=server.flags if server is not None else None)
    return write_down(config, result, server, [as_table(tried)]), tried


def _tell(tried: Tried) -> None:
    _log.info("setting_tried %s result=%r", tried.setting, _result(tried))


def _result(tried: Tried) -> str:
    """What became of a setting, in words."""
    if tried.trouble is not None:
        return f"does not work: {tried.trouble}"
    if tried.left_at_per_s is not None:
        return f"left: its servers are full at {tried.left_at_per_s:,.0f} documents/s"
    return "searched" if tried.chosen is not None else "no point holds the target"


def as_table(tried: SettingsTried) -> Table:
    """The settings, for the page."""
    rows = []
    for one in tried.findings.tried:
        cells = ["-"] * 4
        if one.chosen is not None:
            point = one.chosen.point
            cells = [f"{one.per_s:,.0f}", str(point.batch_size), str(point.concurrency), f"{one.chosen.p_s(0.95):.3f}"]
        what = "best" if one is tried.findings.best else _result(one)
        rows.append([str(one.setting), *cells, what])
    left = count_settings(tried.axes) - len(tried.findings.tried)
    said = [f"{left} of {count_settings(tried.axes)} settings were not started: what is known rules them out."]
    head = ("server flags", "documents/s", "batch size", "concurrency", "p95 (s)", "result")
    return Table(place="settings", title="Server flags", head=head, rows=rows, sentences=said if left else ())


def as_text(tried: SettingsTried) -> str:
    """The table of settings, and what follows for the servers."""
    lines = ["   Docs/s  Batch Size  Concurrency   p95 (s)  Server flags"]
    best = tried.findings.best
    for one in tried.findings.tried:
        if one.chosen is not None:
            point = one.chosen.point
            figures = f"{one.per_s:9,.0f}  {point.batch_size:10}  {point.concurrency:11}  {one.chosen.p_s(0.95):8.3f}"
            said = "  <- best" if one is best else ""
            if best is not None and best.searched_on and one.per_s > best.per_s:
                said = "  (not certain to hold the target)"
            lines.append(f"{figures}  {one.setting}{said}")
        else:
            lines.append(f"{'-':>9}  {'-':>10}  {'-':>11}  {'-':>8}  {one.setting}  ({_result(one)})")
    left = count_settings(tried.axes) - len(tried.findings.tried)
    if left:
        lines.append(f"{left} of {count_settings(tried.axes)} settings were not started: what is known rules them out.")
    if tried.flags is not None:
        lines.append(
            f"Servers: {tried.flags}   (`engine serve --tuned` and `engine run --serve --tuned` take the file)"
        )
    return "\n".join(lines)


def as_dict(tried: SettingsTried) -> dict[str, Any]:
    """The same for a program."""
    return {
        "server_flags": tried.flags,
        "settings": [
            {
                "flags": dict(one.setting.values),
                "docs_per_second": round(one.per_s, 2) if one.chosen is not None else None,
                "batch_size": one.chosen.point.batch_size if one.chosen is not None else None,
                "concurrency": one.chosen.point.concurrency if one.chosen is not None else None,
                "p95": round(one.chosen.p_s(0.95), 6) if one.chosen is not None else None,
                "result": _result(one),
            }
            for one in tried.findings.tried
        ],
        "settings_in_all": count_settings(tried.axes),
    }
