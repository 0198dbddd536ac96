"""The curve of throughput and latency as a PNG or SVG; matplotlib comes with the extra `plot`."""

from __future__ import annotations

from pathlib import Path

from bench.tuner.search.record import Record
from engine.errors import ConfigError


def require_plotting() -> None:
    """Make sure that a curve can be drawn, before anything is measured.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401, PLC0415 - heavy, and only wanted by --plot
    except ImportError as error:
        raise ConfigError(
            "--plot needs matplotlib, which is not installed: pip install 'embedding-engine[plot]', or leave --plot out"
        ) from error


def write_curve(path: Path, records: list[Record], chosen: Record | None, target_p95_s: float | None) -> None:
    """Draw p95 over throughput, a line for each batch size, each point with its concurrency; SVG if `path` says so.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - see above
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import FuncFormatter  # noqa: PLC0415

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = [record for record in records if record.works and record.p_s(0.95) > 0]
    for size in sorted({record.point.batch_size for record in shown}):
        line = sorted((r for r in shown if r.point.batch_size == size), key=lambda r: r.point.concurrency)
        rates = [record.rate.per_s for record in line]
        p95s = [record.p_s(0.95) for record in line]
        errors = [min(record.rate.half_width, record.rate.per_s) for record in line]
        axes.errorbar(rates, p95s, xerr=errors, marker="o", markersize=4, linewidth=1, label=f"batch size {size}")
        for record, rate, p95_s in zip(line, rates, p95s, strict=True):
            axes.annotate(str(record.point.concurrency), (rate, p95_s), (4, 4), textcoords="offset points", fontsize=8)
    if chosen is not None:
        axes.plot([chosen.rate.per_s], [chosen.p_s(0.95)], "*", markersize=18, color="black", label="chosen", zorder=5)
    if target_p95_s is not None:
        axes.axhline(target_p95_s, linestyle=":", color="gray", label=f"target {target_p95_s:g} s")
    axes.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(plain)
    axes.set_xlim(left=0)
    axes.set_xlabel("documents/s of the fleet (numbers: requests in flight per server)")
    axes.set_ylabel("p95 latency (s)")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with rc_context({"svg.fonttype": "none"}):  # words stay words: smaller, and can be searched
            figure.savefig(temporary, format="svg" if path.suffix.lower() == ".svg" else "png", dpi=120)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
