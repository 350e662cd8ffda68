"""Metrics of trained models on smaller images, and what pruning costs there.

Needs the models that ``benchmarks/pruners.py compare`` trains. The share of pruned patches stays.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.bootstrap import draw_images, paired_interval
from experiments.image_sizes import scores_at
from experiments.runs import Run
from experiments.scores import TASKS
from experiments.stored_runs import failures, stored_runs

SAMPLES = 500


Scored = dict[tuple[str, float], list[tuple[float, np.ndarray]]]
"""By variant and scale: for each seed the metric, and its values of the bootstrap samples."""


def compare_sizes(
    runs: Path,
    benchmark: str,
    variants: Sequence[str],
    scales: Sequence[float],
    seeds: Sequence[int],
) -> None:
    """Print a table and write ``sizes.json`` beside the models of the benchmark.

    Args:
        runs: Folder of the trained models.
        benchmark: Name of a benchmark task in segmentation or classification.
        variants: Names of variants; the dense model is always compared.
        scales: Heights and widths in multiples of those in training.
        seeds: Seeds of the trained models.

    Raises:
        SetupError: If a model was never trained, or a size does not fit it.
    """
    metric = TASKS[BENCHMARK_TASKS[benchmark].task].main
    trained = stored_runs(runs, [benchmark], ["dense", *variants], seeds)
    failed = failures(trained)
    names = [name for name in ("dense", *variants) if name not in failed]
    found = score([run for run in trained if run.name not in failed], scales, metric)
    record: dict[str, Any] = {"benchmark": benchmark, "metric": metric, "seeds": seeds}
    record["samples"] = SAMPLES
    record["scales"] = {
        str(scale): {name: minus_dense(found, name, scale) for name in names} for scale in scales
    }
    record["failed"] = failed
    print(f"\n{metric}, mean of {len(seeds)} seeds, percent\n\n{sizes_table(record)}")
    for name, why in failed.items():
        print(f"{name} did not converge ({why})")
    file = runs / benchmark / "sizes.json"
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nnumbers  {file}")


def score(runs: Sequence[Run], scales: Sequence[float], metric: str) -> Scored:
    """Test every model at every scale, on all images and on the bootstrap's samples of them."""
    found: Scored = {}
    for run in runs:
        for scale in scales:
            scores = scores_at(run, scale)
            whole = scores(np.arange(scores.num_images))[metric]
            images = draw_images(scores.num_images, SAMPLES, films=scores.films)
            drawn = [scores(i)[metric] for i in images]
            found.setdefault((run.name, scale), []).append((whole, np.array(drawn)))
    return found


def minus_dense(found: Scored, name: str, scale: float) -> dict:
    """Values by seed, and the interval of the paired difference to the dense model."""
    values, drawn = zip(*found[name, scale], strict=True)
    dense, dense_drawn = zip(*found["dense", scale], strict=True)
    difference = paired_interval(
        np.array(values) - np.array(dense), np.stack(drawn) - np.stack(dense_drawn)
    )
    return {"per_seed": list(values), "minus_dense": difference._asdict()}


def sizes_table(record: dict) -> str:
    """Markdown table: a row for each size."""
    names = list(next(iter(record["scales"].values())))
    head = ["scale", *names, *(f"{name} - dense" for name in names[1:])]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for scale, entries in record["scales"].items():
        means = [f"{np.mean(entries[name]['per_seed']):.1f}" for name in names]
        gaps = [entries[name]["minus_dense"] for name in names[1:]]
        texts = [f"{g['value']:+.1f} ({g['low']:+.1f} to {g['high']:+.1f})" for g in gaps]
        rows.append([scale, *means, *texts])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
