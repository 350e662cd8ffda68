"""Throughput, floors and memory, as pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter


def draw_groups(groups: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draw images per second of every group of encoders with p10 and p90, and their floors.

    Args:
        groups: By title, of the form of
            :meth:`cropr_mm.profiling.compare.SideBySide.as_dict`; one at least.
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


def draw_sizes(groups: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draw time and memory over the image side: points are measured, lines are counted.

    The line of a time is in proportion to multiply-adds and goes through the dense encoder's first
    point; that of memory is the estimate. Encoders of different groups belong together by their
    place in the group, so groups have the same number of them; a row of panels is what differs in
    nothing but the image side.

    Args:
        groups: By title, as :func:`draw_groups` takes them, with the settings, tokens and memory
            that ``benchmarks/speed.py throughput curve`` writes; the first encoder of each is
            dense.
        file: Picture to write.

    Raises:
        ValueError: If there is nothing to draw, or groups have different numbers of encoders.
    """
    rows: dict[str, dict[int, Mapping[str, Any]]] = {}
    for title, group in groups.items():
        side = next(iter(group["functions"].values()))["settings"]["img_size"][0]
        rows.setdefault(title.replace(f", {side} px", ""), {})[side] = group
    if not rows:
        raise ValueError("expected at least one group that ran, got none to draw")
    counts = sorted({len(group["functions"]) for group in groups.values()})
    if len(counts) > 1:  # very small images have no half rate
        raise ValueError(f"expected groups of the same number of encoders, got {counts}")
    figure = Figure(figsize=(10, 3.2 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 3, squeeze=False)
    for axes, (title, by_side) in zip(panels, rows.items(), strict=True):
        by_place: dict[int, dict[int, Mapping[str, Any]]] = {}
        for side in sorted(by_side):
            for place, function in enumerate(by_side[side]["functions"].values()):
                by_place.setdefault(place, {})[side] = function
        names = list(by_side[min(by_side)]["functions"])
        base = by_place[0][min(by_side)]
        for place, name in enumerate(names):
            series, color = by_place[place], f"C{place}"
            _draw_times(axes[0], series, base, color, _series_name(name, series))
            _draw_memory(axes[1], series, "weights_deployed", "test", color)
            _draw_memory(axes[2], series, "weights", "training", color)
        for axis, unit in zip(axes, ("ms", "GiB in test", "GiB in training"), strict=True):
            axis.set(xscale="log", xlabel="image side in pixels", ylabel=unit)
            axis.set_xticks(sorted(by_side), [str(side) for side in sorted(by_side)])
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.grid(alpha=0.3)
            axis.set_ylim(bottom=0 if axis is not axes[0] else None)
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes[0].yaxis.set_major_formatter("{x:g}")
        axes[0].yaxis.set_minor_formatter(NullFormatter())
        axes[0].legend(fontsize=8)
        idle = all(group["idle"] for group in by_side.values())
        axes[0].set_title(title if idle else f"{title}: NOT IDLE", fontsize=8, loc="left")
    figure.savefig(file, dpi=120)


def _draw_times(
    axis: Axes,
    series: Mapping[int, Mapping[str, Any]],
    base: Mapping[str, Any],
    color: str,
    label: str,
) -> None:
    sides, functions = list(series), list(series.values())
    middle, low, high = ([f[key] for f in functions] for key in ("median_ms", "p10_ms", "p90_ms"))
    below = [m - x for m, x in zip(middle, low, strict=True)]
    above = [x - m for m, x in zip(middle, high, strict=True)]
    axis.errorbar(sides, middle, yerr=[below, above], fmt="o", capsize=3, color=color)
    rate = base["median_ms"] / _macs(base)
    axis.plot(sides, [rate * _macs(f) for f in functions], color, label=label)


def _draw_memory(
    axis: Axes, series: Mapping[int, Mapping[str, Any]], weights: str, step: str, color: str
) -> None:
    for how, style in (("estimated", "-"), ("measured", "o")):
        needs = {side: function.get(f"memory_{how}") for side, function in series.items()}
        shown = {side: (n[weights] + n[step]) / 2**30 for side, n in needs.items() if n}
        axis.plot(list(shown), list(shown.values()), style, color=color)


def _series_name(name: str, series: Mapping[int, Mapping[str, Any]]) -> str:
    """Share of the tokens that is gone before the last block, for rates differ between sizes."""
    tokens = series[min(series)]["tokens_per_block"]
    removed = 100 * (1 - tokens[-1] / tokens[0])
    form = name.partition(", ")[2]
    return (f"{removed:.0f} % pruned" if removed else "dense") + (f", {form}" if form else "")


def _macs(function: Mapping[str, Any]) -> int:
    return function["floor"]["macs_linear"] + function["floor"]["macs_attention"]
