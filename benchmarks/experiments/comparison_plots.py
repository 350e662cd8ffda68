"""Plots of a comparison: accuracy over speed, and what training lost."""

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
    """Plot the main metric with its interval over the encoder's speed-up, a row per benchmark.

    Rates of the same pruner are connected; models that did not converge are left out. Where
    compiled encoders were timed, they have a panel of their own.
    """
    forms = ["eager", "compiled"][
        : 1 + any(s["encoder_speed"].get("compiled") for s in record.values())
    ]
    size = (3.6 * len(forms) + 2.4, 3.6 * len(record))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(record), len(forms), squeeze=False, sharey="row")
    for row, (benchmark, summary) in zip(axes, record.items(), strict=True):
        for axis, form in zip(row, forms, strict=True):
            _draw_form(axis, summary, form)
            axis.set_title(f"{benchmark}, {form}", fontsize=9, loc="left")
        row[0].set_ylabel(f"{summary['metrics'][-1]}, %")
        _finish(row[-1])
    figure.savefig(file, dpi=120)


def _draw_form(axis: Axes, summary: Mapping[str, Any], form: str) -> None:
    main, speed = summary["metrics"][-1], summary["encoder_speed"]
    entries = {n: entry for n, entry in summary["variants"].items() if "failed" not in entry}
    eager = {name: speed["functions"][name]["speedup"] for name in entries}
    speedups = eager if form == "eager" else speed["compiled"]
    for i, kind in enumerate(dict.fromkeys(map(family, entries))):
        points = sorted(
            (speedups[name]["value"], *entry[main]["mean"].values())
            for name, entry in entries.items()
            if family(name) == kind
        )
        times, value, low, high = np.array(points).T
        axis.errorbar(
            times, value, yerr=[value - low, high - value], capsize=3, label=kind, **_look(i)
        )
    axis.set_xlabel("speed of the encoder over dense")
    axis.grid(alpha=0.3)


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
