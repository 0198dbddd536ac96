"""The report of `engine merge` for a person."""

from __future__ import annotations

from engine.telemetry.progress import duration
from writers.merge.config import MergeReport


def as_text(report: MergeReport) -> str:
    """The report for a person."""
    if not report.inputs and not report.files:
        return f"nothing to merge: {report.already_merged:,} files were merged before ({report.target})"
    figures = report.as_dict()
    lines = [
        f"{report.inputs:,} files became {report.files:,} with {report.rows:,} rows in {duration(report.seconds)} "
        f"({figures['rows_per_second']:,.0f} rows/s, {figures['bytes_per_row']:,.0f} bytes a row)",
        f"  {report.bytes:,} bytes in {report.target}",
    ]
    if report.already_merged:
        lines.append(f"  {report.already_merged:,} files had been merged before")
    if report.resumed_files:
        lines.append(f"  {report.resumed_files:,} files were finished by an earlier, broken merge")
    if report.duplicates_dropped:
        lines.append(f"  {report.duplicates_dropped:,} rows left out: a later file holds their id")
    if report.sources_removed or report.sources_kept:
        lines.append(f"  {report.sources_removed:,} sources removed, {report.sources_kept:,} kept for now")
    if report.folder_keys:
        lines.append(f"  not in the rows: {', '.join(report.folder_keys)}, which only the names of folders hold")
    return "\n".join(lines)
