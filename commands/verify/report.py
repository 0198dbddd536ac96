"""The report of `engine verify` for a person."""

from __future__ import annotations

from engine.telemetry.progress import duration
from writers.verify.config import KINDS, VerifyReport


def as_text(report: VerifyReport) -> str:
    """The report for a person."""
    lines = [
        f"level {report.level}: {report.files:,} files, {report.rows:,} rows, {report.bytes:,} bytes checked in "
        f"{duration(report.seconds)}: " + ("no difference" if report.ok else "DIFFERENCES")
    ]
    for kind, found in report.findings.items():
        lines.append(f"  {kind}: {found['count']:,} ({KINDS[kind]})")
        lines += [f"    {example}" for example in found["examples"]]
    if report.gone:
        lines.append(f"  {report.gone:,} rows belong to documents that were deleted; that is no difference")
    if report.removed_shards:
        lines.append(f"  {report.removed_shards:,} shards were removed by merges that had recorded their rows")
    if report.cosine:
        lines.append(f"  sample: lowest cosine {report.cosine['lowest']:.5f}, mean {report.cosine['mean']:.5f}")
    lines += [f"  not checked: {sentence}" for sentence in report.not_checked]
    return "\n".join(lines)
