"""Throughput over batch size, as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def draw_groups(groups: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draw images per second of every group of encoders with p10 and p90, and their floors.

    Args:
        groups: By title, as :meth:`SideBySide.as_dict` gives them; one at least.
        file: Picture to write.

    Raises:
        ValueError: If there is nothing to draw.
    """
    if not groups:
        raise ValueError("expected at least one group that ran, got none to draw")
    heights = [len(group["functions"]) for group in groups.values()]
    figure = Figure(
        figsize=(7, sum(0.3 * height + 0.6 for height in heights)), layout="constrained"
    )
    axes = figure.subplots(len(groups), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, group) in zip(axes, groups.items(), strict=True):
        for row, function in enumerate(group["functions"].values()):
            times = (function[key] for key in ("median_ms", "p10_ms", "p90_ms"))
            middle, high, low = (1e3 * group["images_per_call"] / ms for ms in times)
            spread = [[middle - low], [high - middle]]
            axis.errorbar(middle, row, xerr=spread, fmt="o", capsize=3, color=f"C{row}")
            floor = 1e3 * group["images_per_call"] / function["floor"]["ms"]
            axis.plot(floor, row, "k|", markersize=12)
        axis.set_ylim(-0.5, len(group["functions"]) - 0.5)
        axis.set_yticks(range(len(group["functions"])), list(group["functions"]), fontsize=8)
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.set_title(title if group["idle"] else f"{title}: NOT IDLE", fontsize=8, loc="left")
        axis.grid(alpha=0.3, axis="x")
    axes[-1].set_xlabel("images per second (bars across: at the floor)")
    figure.savefig(file, dpi=120)
