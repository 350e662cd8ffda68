"""Throughput and floors, as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter


def draw_groups(groups: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draw images per second of every group of encoders with p10 and p90, and their floors.

    Args:
        groups: By title, of the form of
            :meth:`cropr_mm.analysis.side_by_side.SideBySide.as_dict`; one at least.
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
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(title if group["idle"] else f"{title}: NOT IDLE", fontsize=8, loc="left")
        axis.grid(alpha=0.3, axis="x")
    axes[-1].set_xlabel("images per second (bars across: at the floor)")
    figure.savefig(file, dpi=120)
