"""Plots of a comparison: accuracy over throughput, and what training lost."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.runs import Run
from experiments.variants import family

_AUXILIARY = re.compile(r"loss_(.*_b\d\d|teacher_.*)$")
"""Names that CroprAuxLossHook gives."""


def draw(record: Mapping[str, Any], file: Path) -> None:
    """Plot the main metric with its interval over encoder throughput, one panel per benchmark.

    Rates of the same pruner are connected; models that did not converge are left out.
    """
    figure = Figure(figsize=(6.4 * len(record), 4), layout="constrained")
    axes = figure.subplots(1, len(record), squeeze=False)
    for axis, (benchmark, summary) in zip(axes[0], record.items(), strict=True):
        main = summary["metrics"][-1]
        entries = {n: entry for n, entry in summary["variants"].items() if "failed" not in entry}
        kinds = list(dict.fromkeys(map(family, entries)))
        for i, kind in enumerate(kinds):
            points = sorted(
                (
                    summary["encoder_speed"]["functions"][name]["images_per_s"],
                    *entry[main]["mean"].values(),
                )
                for name, entry in entries.items()
                if family(name) == kind
            )
            speed, value, low, high = np.array(points).T
            error = [value - low, high - value]
            axis.errorbar(speed, value, yerr=error, capsize=3, label=kind, **_look(i))
        axis.set(title=benchmark, xlabel="encoder, images per second", ylabel=f"{main}, %")
        _finish(axis)
    figure.savefig(file, dpi=120)


def draw_curves(
    runs: Mapping[tuple[str, int], Run], variants: Sequence[str], seeds: Sequence[int], file: Path
) -> None:
    """Plot what each variant's model lost while it was fine-tuned, without auxiliary losses.

    Args:
        runs: Finished runs of one benchmark, by (variant, seed).
        variants: Names.
        seeds: Seeds; a line is their mean.
        file: PNG.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    for i, name in enumerate(variants):
        logged = (_model_loss(runs[name, seed]) for seed in seeds)
        curves = [curve for curve in logged if curve]  # records of runs have none
        if not curves:
            continue
        iterations = sorted(set.intersection(*map(set, curves)))
        losses = [np.mean([curve[at] for curve in curves]) for at in iterations]
        axis.plot(iterations, losses, label=name, **_look(i))
    axis.set(xlabel="iteration", ylabel="training loss of the model", yscale="log")
    _finish(axis)
    figure.savefig(file, dpi=120)


def _model_loss(run: Run) -> dict[int, float]:
    """Loss by iteration, as logged, less what auxiliary modules lost."""
    return {
        line["iter"]: line["loss"] - sum(v for k, v in line.items() if _AUXILIARY.match(k))
        for line in run.log
    }


def _look(place: int) -> dict[str, Any]:
    """Color and marker of the line at a place; both, for colors alone repeat after ten."""
    return dict(color=f"C{place % 10}", marker="osD"[place // 10 % 3], linestyle="-")


def _finish(axis: Axes) -> None:
    """Grid, and a legend beside the lines, which many entries would hide."""
    axis.grid(alpha=0.3)
    if axis.has_data():
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
