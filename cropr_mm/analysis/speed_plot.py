"""Throughput over batch size, as a picture."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from cropr_mm.analysis.side_by_side import SideBySide


def draw_throughput(results: Mapping[int, SideBySide], file: Path) -> None:
    """Draw images per second of every entry with p10 and p90, and what its floor would give.

    Args:
        results: By batch size, all of the same entries.
        file: Picture to write.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    sizes = list(results)
    for i, name in enumerate(results[sizes[0]].floors):
        times = [result.latencies for result in results.values()]
        middle = [t.throughput(name) for t in times]
        spread = [
            [m - 1e3 * t.items / t.quantile(name, 0.9) for m, t in zip(middle, times, strict=True)],
            [1e3 * t.items / t.quantile(name, 0.1) - m for m, t in zip(middle, times, strict=True)],
        ]
        color = f"C{i}"
        axis.errorbar(sizes, middle, yerr=spread, fmt="o-", capsize=3, color=color, label=name)
        floors = [1e3 * r.latencies.items / r.floors[name].ms for r in results.values()]
        axis.plot(sizes, floors, "_", markersize=14, color=color)
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set(xlabel="images per call", ylabel="images per second (bars: at the floor)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(file, dpi=120)
